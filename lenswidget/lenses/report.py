"""How well a lens reads a model on some texts: numbers for each layer against the model's own prediction."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lenswidget.anatomy.protocol import ReadableModel, check_is_model
from lenswidget.errors import PromptError
from lenswidget.lenses.fit_texts import Texts, check_settings, encode, streams
from lenswidget.lenses.lens import Lens, LensLike, as_lens, carry, check_lens, covered_layers
from lenswidget.lenses.provenance import ids_digest, model_name
from lenswidget.models.hf_model import evaluation
from lenswidget.progress import Progress, counted

TILE_BYTES = 64 << 20  # of float32 logits at a time


@dataclass(frozen=True)
class LensReport:
    """What a lens shows of the last layer's prediction, for each layer that it carries.

    Attributes:
        layers: -1 for the embedding; the last one is read as it is, so its numbers are the model's own.
        kl_nats: mean KL(last layer || this layer through the lens) over positions, in nats.
        top1_agreement: share of positions whose top token is the last layer's.
        median_rank: median over positions of the rank here of the last layer's top token; 0 is the top.
        n_texts, n_positions: how much was read.
        texts: sha256 of the token ids.
    """

    lens: str
    model: str
    layers: tuple[int, ...]
    kl_nats: tuple[float, ...]
    top1_agreement: tuple[float, ...]
    median_rank: tuple[float, ...]
    n_texts: int
    n_positions: int
    texts: str = field(repr=False)

    def __repr__(self) -> str:
        rows = [
            f"{layer:>5} {kl:>10.4f} {top1:>8.1%} {rank:>12g}"
            for layer, kl, top1, rank in zip(
                self.layers, self.kl_nats, self.top1_agreement, self.median_rank, strict=True
            )
        ]
        head = f"{self.lens} lens on {self.model}: {self.n_positions} positions of {self.n_texts} texts"
        return "\n".join([head, f"{'layer':>5} {'KL (nats)':>10} {'top-1':>8} {'median rank':>12}", *rows])

    def to_dataframe(self) -> Any:
        """A row per layer: `layer`, `kl_nats`, `top1_agreement`, `median_rank`."""
        import pandas as pd

        columns = {"layer": self.layers} | {
            name: getattr(self, name) for name in ("kl_nats", "top1_agreement", "median_rank")
        }
        return pd.DataFrame(columns)


def report(
    lens: LensLike,
    model: ReadableModel,
    texts: Texts,
    *,
    max_tokens: int = 128,
    skip_first: int = 0,
    add_bos: bool | None = None,
    progress: Progress = True,
) -> LensReport:
    """Read texts through a lens and compare each layer with the last; the model is put back as it was.

    Memory is bounded by the streams of one text and a tile of logits, not by the number of texts.

    Args:
        lens: what `lens=` takes: a lens, a function of (layer, states), or None for the logit lens.
        texts: strings, or token ids; best such that the lens was not fitted on.
        max_tokens: texts are cut to this length.
        skip_first: positions left out at the start of each text; the first often differs from all others.
        add_bos: as for a fit.
        progress: True for a tqdm bar, a function `(done, total)` of texts, or False.
    Raises:
        LensError: the model is none, or a number below what means anything.
        LensMismatchError: the lens is of another model.
        PromptError: no text has more than `skip_first` tokens.
        UnknownLensError: the lens is none.
    """
    check_is_model(model, "A lens")
    check_settings(1, max_tokens=max_tokens)
    check_settings(0, skip_first=skip_first)
    found = as_lens(lens)
    check_lens(found, model)
    ids = [text for text in encode(model, texts, max_tokens, add_bos) if len(text) > skip_first]
    if not ids:
        raise PromptError(
            f"None of the texts has more than {skip_first} tokens; pass longer texts, or a smaller "
            "skip_first."
        )
    measured = _measured(found, model, ids, skip_first, progress)
    return LensReport(
        lens=found.name,
        model=model_name(model),
        layers=tuple(measured),
        kl_nats=tuple(float(cells[:, 0].mean()) for cells in measured.values()),
        top1_agreement=tuple(float((cells[:, 1] == 0).double().mean()) for cells in measured.values()),
        median_rank=tuple(float(np.median(cells[:, 1].numpy())) for cells in measured.values()),
        n_texts=len(ids),
        n_positions=sum(len(text) - skip_first for text in ids),
        texts=ids_digest(ids),
    )


def _measured(
    lens: Lens, model: ReadableModel, ids: list[Tensor], skip_first: int, progress: Progress
) -> dict[int, Tensor]:
    """For each layer that the lens carries, what `_compare` finds in all texts together."""
    layers = sorted(covered_layers(lens, model.anatomy.n_layers))
    parts: dict[int, list[Tensor]] = {layer: [] for layer in layers}
    done = counted(len(ids), progress, "Lens report")
    for text in ids:
        next(done)
        with model.lock, evaluation(model.hf_model), torch.no_grad():
            states = [stream[skip_first:] for stream in streams(model, text)]
            for layer in layers:
                parts[layer].append(_compare(lens, model, layer, states[layer + 1], states[-1]))
    next(done, None)  # lets a progress bar reach its end
    return {layer: torch.cat(part) for layer, part in parts.items()}


def _compare(lens: Lens, model: ReadableModel, layer: int, states: Tensor, last: Tensor) -> Tensor:
    """KL from the last layer and rank of its top token, `[cells, 2]` float64 on the CPU, in tiles."""
    tile = max(1, TILE_BYTES // (4 * model.anatomy.d_vocab))
    found: list[Tensor] = []
    for start in range(0, len(states), tile):
        cells = slice(start, start + tile)
        theirs = model.tail(last[cells])
        own = model.tail(carry(lens, layer, states[cells])).to(theirs.device)
        expected, seen = theirs.log_softmax(-1), own.log_softmax(-1)
        # a token of probability 0 adds nothing, where 0 times an infinity would
        terms = torch.where(expected.exp() > 0, expected.exp() * (expected - seen), 0)
        answer = theirs.argmax(-1, keepdim=True)
        rank = (own > own.gather(-1, answer)).sum(-1)
        found.append(torch.stack([terms.double().sum(-1), rank.double()], dim=-1).cpu())
    return torch.cat(found)
