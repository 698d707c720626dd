"""How well a lens reads a model on some texts: numbers for each layer against the model's own prediction."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

import numpy as np
import torch
from torch import Tensor

from lenswidget.anatomy.protocol import ReadableModel, check_is_model
from lenswidget.errors import LensError, PromptError
from lenswidget.lenses.fit_texts import Texts, check_settings, encode, streams
from lenswidget.lenses.lens import Lens, LensLike, as_lens, carry, check_lens, covered_layers
from lenswidget.lenses.lens_report import LensReport, keep_beside, remember_model, remembered_model
from lenswidget.lenses.provenance import ids_digest, model_name
from lenswidget.models.hf_model import evaluation
from lenswidget.progress import Progress, counted

TILE_BYTES = 64 << 20  # of float32 logits at a time


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

    What is found is kept, so that a widget's switch draws it: with a fitted lens itself, whose `save` writes
    it to the file; of the logit lens and of functions, for as long as the model is there.

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
    measured = as_lens(lens)
    check_lens(measured, model)
    ids = [text for text in encode(model, texts, max_tokens, add_bos) if len(text) > skip_first]
    if not ids:
        raise PromptError(
            f"None of the texts has more than {skip_first} tokens; pass longer texts, or a smaller "
            "skip_first."
        )
    halves = tuple(_Half(torch.zeros(model.anatomy.d_vocab, dtype=torch.float64)) for _ in range(2))
    cells = _measured(measured, model, ids, skip_first, progress, halves)
    found = LensReport(
        lens=measured.name,
        model=model_name(model),
        layers=tuple(cells),
        kl_nats=tuple(float(each[:, 0].mean()) for each in cells.values()),
        top1_agreement=tuple(float((each[:, 1] == 0).double().mean()) for each in cells.values()),
        median_rank=tuple(float(np.median(each[:, 1].numpy())) for each in cells.values()),
        n_texts=len(ids),
        n_positions=sum(len(text) - skip_first for text in ids),
        texts=ids_digest(ids),
        fixed_kl_nats=_fixed_kl(*halves),
    )
    if isinstance(measured, Measured):
        keeping(measured, found, None)
    else:
        keep_beside(measured, model, found)
    return found


@dataclass(frozen=True, eq=False, repr=False)
class Measured:
    """A lens that keeps what was measured of it; its file does too.

    Attributes:
        measured: what `report` found last; None before.
    """

    # not carried over by `dataclasses.replace`: another lens would read otherwise
    measured: LensReport | None = field(default=None, init=False)

    def report(self, texts: Texts, model: ReadableModel | None = None, **options: Any) -> LensReport:
        """How well it reads a model on texts, by layer, which it keeps; see `lenswidget.report`.

        Args:
            texts: strings, or token ids; best such that it was not fitted on.
            model: the one that it was fitted to or loaded with, unless given.
            options: of `lenswidget.report`.
        Raises:
            LensError: no model is given, and it knows none.
        """
        if isinstance(cast(Any, texts), ReadableModel):
            raise LensError(
                "A lens was asked to report on a model in the place of texts. Give the texts first: "
                "lens.report(texts, model)."
            )
        own: Any = self
        model = remembered_model(own) if model is None else model
        if model is None:
            raise LensError(
                f"This {own.name} lens does not know which model to read. Pass it, "
                "lens.report(texts, model), or load the lens with it, lw.load_lens(path, model)."
            )
        return report(own, model, texts, **options)


MeasuredLens = TypeVar("MeasuredLens", bound=Measured)


def keeping(lens: MeasuredLens, measured: LensReport | None, model: ReadableModel | None) -> MeasuredLens:
    """The lens, which has noted what was measured of it and the model it is read with; no number changes."""
    object.__setattr__(lens, "measured", measured)
    if model is not None:
        remember_model(lens, model)
    return lens


class _Answer:
    """The last layer's predictions of some cells, against which every layer is compared.

    Args:
        logits: `[cells, d_vocab]`.
    """

    def __init__(self, logits: Tensor) -> None:
        self.log_p = logits.log_softmax(-1)
        self.p = self.log_p.exp()
        self.top = logits.argmax(-1, keepdim=True)

    def compare(self, logits: Tensor) -> Tensor:
        """KL from these predictions to others and the others' rank of the top here, `[cells, 2]` float64."""
        own = logits.to(self.p.device)
        # a token of probability 0 adds nothing, where 0 times an infinity would
        terms = torch.where(self.p > 0, self.p * (self.log_p - own.log_softmax(-1)), 0)
        rank = (own > own.gather(-1, self.top)).sum(-1)
        return torch.stack([terms.double().sum(-1), rank.double()], dim=-1).cpu()


@dataclass
class _Half:
    """The last layer's predictions on every other text: their sum, and of each the sum of p log p.

    Attributes:
        p_sum: `[d_vocab]`, float64, on the CPU.
    """

    p_sum: Tensor
    n_positions: int = 0
    plogp_sum: float = 0.0

    def add(self, answer: _Answer) -> None:
        """Take some cells' predictions in."""
        log_p = answer.log_p.double()
        p = log_p.exp()
        self.p_sum += p.sum(0).cpu()
        self.plogp_sum += float(torch.where(p > 0, p * log_p, 0).sum())
        self.n_positions += len(p)


def _fixed_kl(a: _Half, b: _Half) -> float | None:
    """Mean KL from each half's predictions to the mean of the other half's, in nats."""
    if not (a.n_positions and b.n_positions):
        return None
    total = 0.0
    for own, other in ((a, b), (b, a)):
        log_q = (other.p_sum / other.n_positions).log()
        cross = torch.where(own.p_sum > 0, own.p_sum * log_q, 0)
        total += own.plogp_sum - float(cross.sum())
    return total / (a.n_positions + b.n_positions)


def _measured(
    lens: Lens,
    model: ReadableModel,
    ids: list[Tensor],
    skip_first: int,
    progress: Progress,
    halves: Sequence[_Half],
) -> dict[int, Tensor]:
    """For each layer that the lens carries, what `_Answer.compare` finds in all texts together.

    Args:
        halves: take the last layer's predictions, those of every other text each.
    """
    layers = sorted(covered_layers(lens, model.anatomy.n_layers))
    parts: dict[int, list[Tensor]] = {layer: [] for layer in layers}
    done = counted(len(ids), progress, "Lens report")
    for index, text in enumerate(ids):
        next(done)
        with model.lock, evaluation(model.hf_model), torch.no_grad():
            states = [stream[skip_first:] for stream in streams(model, text)]
            for tile in _tiles(model, len(states[-1])):
                answer = _Answer(model.tail(states[-1][tile]))
                halves[index % 2].add(answer)
                for layer in layers:
                    carried = carry(lens, layer, states[layer + 1][tile])
                    parts[layer].append(answer.compare(model.tail(carried)))
    next(done, None)  # lets a progress bar reach its end
    return {layer: torch.cat(part) for layer, part in parts.items()}


def _tiles(model: ReadableModel, n_cells: int) -> list[slice]:
    """Of cells whose logits are to take `TILE_BYTES` at most."""
    tile = max(1, TILE_BYTES // (4 * model.anatomy.d_vocab))
    return [slice(start, start + tile) for start in range(0, n_cells, tile)]
