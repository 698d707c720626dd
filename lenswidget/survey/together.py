"""Several prompts of one length in one forward, and what the layers say at some of their columns."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor

from lenswidget.anatomy.protocol import ReadableModel
from lenswidget.lenses.lens import Lens, carry, covered_layers
from lenswidget.models.encoded_prompt import EncodedPrompt
from lenswidget.models.facts import held
from lenswidget.models.hf_model import evaluation, uncached
from lenswidget.models.product import full_float32
from lenswidget.readout.metrics import Tile, measure
from lenswidget.readout.run import EMBED_SITE
from lenswidget.readout.tiles import CPU_TILE_BYTES, TILE_BYTES, exact_logits
from lenswidget.readout.unembed import Unembed
from lenswidget.tolerances import TEXTS_TOGETHER

# Pairs of a column and a token that may follow it.
Wanted: TypeAlias = tuple[tuple[int, int], ...]
# What a prompt may consist of, to be run with others.
PLAIN_INPUTS = {"input_ids", "attention_mask", "position_ids"}


@dataclass(frozen=True, eq=False)
class Sequel:
    """A sequence of tokens, and which tokens are looked for at which of its columns.

    Attributes:
        prompt: the sequence; plain, see `is_plain`.
        wanted: what is looked for.
    """

    prompt: EncodedPrompt
    wanted: Wanted


@dataclass(frozen=True, eq=False)
class Found:
    """What every row of a site's grid says of what one sequence wanted.

    Attributes:
        layers: `[rows]` int64; -1 is the embedding.
        log_probs: `[rows, wanted]` float64, nats.
        ranks: `[rows, wanted]` int64, 0 is the top.
    """

    layers: npt.NDArray[np.int64]
    log_probs: npt.NDArray[np.float64]
    ranks: npt.NDArray[np.int64]


def is_plain(prompt: EncodedPrompt) -> bool:
    """Whether a prompt is token ids alone, all of them columns: such of one length can be run together."""
    return set(prompt.model_inputs) <= PLAIN_INPUTS and prompt.columns is None


def states_together(
    model: ReadableModel, sequels: Sequence[Sequel], site: str
) -> Float[Tensor, "rows cells d_model"]:
    """One forward of sequences of one length; the states at what they want, in their order.

    A layer that has no such site leaves NaN.
    """
    lowest, layers = _lowest(site), list(model.layers)
    texts = torch.tensor([i for i, each in enumerate(sequels) for _ in each.wanted])
    columns = torch.tensor([column for each in sequels for column, _ in each.wanted])
    given = [each.prompt.model_inputs for each in sequels]
    inputs = {name: torch.cat([each[name] for each in given]) for name in given[0]}
    found: Tensor | None = None
    trace = model.trace(inputs, **uncached(model.hf_model))
    with model.lock, torch.no_grad(), evaluation(model.hf_model), trace:
        for layer in range(lowest, len(layers)):
            if layer >= 0 and site not in layers[layer].offered:
                continue
            state = layers[0].resid_pre if layer < 0 else getattr(layers[layer], site)
            if found is None:
                shape = (len(layers) - lowest, len(texts), state.shape[-1])
                found = torch.full(shape, torch.nan, dtype=state.dtype, device=state.device)
            found[layer - lowest].copy_(state[texts.to(state.device), columns.to(state.device)])
    assert found is not None
    return found


def read_together(
    model: ReadableModel,
    unembed: Unembed,
    sequels: Sequence[Sequel],
    states: Float[Tensor, "rows cells d_model"],
    lens: Lens,
    site: str,
) -> list[Found]:
    """The tokens that each sequence wants, in every layer that the lens carries, in tiles of bounded memory.

    Args:
        unembed: of the model's tail.
        states: of `states_together`.
    """
    lowest, carried = _lowest(site), covered_layers(lens, model.anatomy.n_layers)
    layers = [layer for layer in range(lowest, model.anatomy.n_layers) if layer in carried]
    tokens = torch.tensor([token for each in sequels for _, token in each.wanted])
    n_rows, n_cells = len(layers), len(tokens)
    log_probs, ranks = np.empty((n_rows, n_cells)), np.empty((n_rows, n_cells), np.int64)
    with held(model.hf_model), full_float32(unembed.device):
        prepared = torch.cat(
            [unembed.prepare(carry(lens, layer, states[layer - lowest])) for layer in layers]
        )
        asked = tokens.repeat(n_rows)[:, None]
        is_cpu = unembed.device.type == "cpu"
        n_at_once = max(1, (CPU_TILE_BYTES if is_cpu else TILE_BYTES) // (4 * model.anatomy.d_vocab))
        for start in range(0, len(prepared), n_at_once):
            part = prepared[start : start + n_at_once]
            told = _measured(unembed, part, asked[start : start + n_at_once])
            at = slice(start, start + len(part))
            log_probs.reshape(-1)[at] = told["tracked_log_probs"][:, 0].cpu().numpy()
            ranks.reshape(-1)[at] = told["tracked_ranks"][:, 0].cpu().numpy()
        unembed.forget()
    ends = np.cumsum([len(each.wanted) for each in sequels])[:-1]
    parts = zip(np.split(log_probs, ends, 1), np.split(ranks, ends, 1), strict=True)
    return [Found(np.array(layers), *part) for part in parts]


def _measured(unembed: Unembed, prepared: Tensor, asked: Tensor) -> dict[str, Any]:
    logits = unembed(prepared)
    if logits.device.type == "mps":  # which has no float64
        return measure(Tile(logits.cpu(), len(prepared)), 1, asked, frozenset())
    exact = partial(exact_logits, unembed, prepared) if unembed.is_exact else None
    return measure(Tile(logits, len(prepared), exact=exact), 1, asked, frozenset())


def is_same(
    together: Float[Tensor, "rows cells d_model"], alone: Float[Tensor, "rows cells d_model"]
) -> bool:
    """Whether states of a batch are those of single runs, up to rounding, cell by cell; NaN equals NaN."""
    one, other = together.float(), alone.to(together.device).float()
    gaps = (one - other).norm(dim=-1)
    bound = TEXTS_TOGETHER.bound(other.norm(dim=-1), together.dtype)
    both = one.isnan().all(-1) & other.isnan().all(-1)
    return bool(((gaps <= bound) | both).all())


def _lowest(site: str) -> int:
    return -1 if site == EMBED_SITE else 0
