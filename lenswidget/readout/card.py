"""One cell, decoded again in full: the numbers of a cell card.

A card never reuses the grid's numbers: it takes the cell's state, carries it through the lens and the tail,
and reads the whole vocabulary, so that the two can be held against each other.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from lenswidget.checks import check_temperature
from lenswidget.lenses.lens import LensLike
from lenswidget.readout import reading
from lenswidget.readout.cells import Cells
from lenswidget.readout.elsewhere import at_the_run
from lenswidget.readout.query import CheckedQuery, Query, rows
from lenswidget.readout.run import EMBED_SITE, Run
from lenswidget.readout.top_k import top_k

N_MOVED = 5


@dataclass(frozen=True)
class Card:
    """What one cell says.

    Attributes:
        layer, position: the cell; layer -1 is the embedding.
        site, lens: what was read, and how it was carried to the tail.
        temperature: the logits are divided by it before the softmax; `logits` are as the tail gave them.
        ids, log_probs, logits: the top k, most probable first, ties by the lower id; `[k]`. None at all where
            NaN or infinite states left no distribution; every other number is then NaN, and ranks are None.
        entropy_nats: of the whole distribution.
        layer_below: the row the cell is compared with, or None in the lowest row.
        rank_below: rank of each top id in the row below, 0 is the top; `[k]`, None without a row below, or
            where that is not finite.
        promoted, suppressed: `(id, change of probability)` of the ids that gained and lost most since then.
        tracked: `(id, log_prob, rank)` of the ids asked for.
    """

    run_id: str
    layer: int
    position: int
    site: str
    lens: str
    temperature: float
    ids: list[int]
    log_probs: list[float]
    logits: list[float]
    entropy_nats: float
    layer_below: int | None
    rank_below: Sequence[int | None]
    promoted: list[tuple[int, float]] = field(default_factory=list[tuple[int, float]])
    suppressed: list[tuple[int, float]] = field(default_factory=list[tuple[int, float]])
    tracked: list[tuple[int, float, int | None]] = field(default_factory=list[tuple[int, float, int | None]])

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def decode(
    run: Run,
    layer: int,
    position: int,
    *,
    lens: LensLike = None,
    site: str = EMBED_SITE,
    k: int = 20,
    temperature: float = 1.0,
    track: Iterable[int] = (),
) -> Card:
    """Decode one cell of a run again: its state through the lens, the final norm and the unembed.

    Args:
        run: a `Run`.
        layer: -1 (embedding) to `n_layers - 1`.
        position: 0 to `seq - 1`.
        lens: how the state is carried to the tail; None is the logit lens.
        k: how many top tokens.
        temperature: above 0.
        track: ids whose log-prob and rank are wanted besides.
    Raises:
        CellError: a layer, position, k or id outside the run or its vocabulary, or a layer that the lens
            does not carry.
        LensError: a temperature that is not a finite number above 0.
    """
    return decode_query(Query(run, Cells([layer], [position]), lens, site, k, track), temperature)


@at_the_run
def decode_query(query: Query, temperature: float = 1.0) -> Card:
    """`decode`, for a query of one cell."""
    temperature = check_temperature(temperature)
    asked = query.checked()
    (layer,), (position,) = asked.cells.layers.tolist(), asked.cells.positions.tolist()
    below = layer - 1 if layer - 1 in rows(asked.run, asked.site, asked.lens) else None
    layers = [layer] if below is None else [layer, below]
    logits = reading.logits(replace(asked, cells=Cells.grid(layers, position)))
    numbers = _numbers(logits, asked, temperature)
    return Card(
        run_id=asked.run.id,
        layer=layer,
        position=position,
        site=asked.site,
        lens=asked.lens.name,
        temperature=temperature,
        layer_below=below,
        **numbers,
    )


def _numbers(logits: Tensor, asked: CheckedQuery, temperature: float) -> dict[str, Any]:
    """What a card says of `[1 or 2, d_vocab]` logits: the cell's, and those of the row below."""
    # less the largest first: a temperature near 0 would make infinities of them
    log_probs = torch.log_softmax((logits - logits.amax(-1, keepdim=True)) / temperature, dim=-1)
    probs = log_probs.exp()
    n_tokens = asked.run.n_tokens_shown(
        asked.k
    )  # ids without a token count in the softmax, and are not shown
    # a row that is not finite is NaN all through, and has no best
    is_finite, *is_below_finite = (~log_probs[:, 0].isnan()).tolist()
    none = torch.empty(0, dtype=torch.long, device=logits.device)
    ids = top_k(logits[:1, :n_tokens], asked.k)[0] if is_finite else none
    promoted, suppressed = _moved(probs[:, :n_tokens]) if len(logits) > 1 else ([], [])
    tracked = asked.track.to(logits.device)
    tracked_ranks = ranks(logits[0], tracked).tolist() if is_finite else [None] * len(tracked)
    return {
        "ids": ids.tolist(),
        "log_probs": log_probs[0, ids].tolist(),
        "logits": logits[0, ids].tolist(),
        # 0 log 0 is 0: a probability that underflowed adds nothing
        "entropy_nats": -torch.special.xlogy(probs[0], probs[0]).sum().item(),
        "rank_below": ranks(logits[1], ids).tolist() if any(is_below_finite) else [None] * len(ids),
        "promoted": promoted,
        "suppressed": suppressed,
        "tracked": list(zip(tracked.tolist(), log_probs[0, tracked].tolist(), tracked_ranks, strict=True)),
    }


def ranks(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """How many of `[d_vocab]` score strictly higher than each id; `[ids]`, 0 is the top."""
    # as float: a sum of booleans is ten times slower, and counts below 2**24 are exact
    above = torch.empty_like(logits)
    counts = [torch.gt(logits, own, out=above).sum() for own in logits[ids]]
    return torch.stack(counts).long() if counts else torch.zeros_like(ids)


def _moved(probs: torch.Tensor) -> tuple[list[tuple[int, float]], list[tuple[int, float]]]:
    change = probs[0] - probs[1]
    n = min(N_MOVED, change.shape[-1])
    up, down = change.topk(n), change.topk(n, largest=False)
    gained = [(i, d) for i, d in zip(up.indices.tolist(), up.values.tolist(), strict=True) if d > 0]
    lost = [(i, d) for i, d in zip(down.indices.tolist(), down.values.tolist(), strict=True) if d < 0]
    return gained, lost
