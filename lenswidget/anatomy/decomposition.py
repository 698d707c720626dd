"""What the parts of one block add to the stream, found from numbers alone.

The parts are the submodules whose outputs, each times a constant, lead from the stream that enters the
block to the one that leaves it. Names of modules play no role.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from lenswidget.anatomy.recording import Call
from lenswidget.anatomy.stream import Layout, layouts
from lenswidget.nested import Slot
from lenswidget.tolerances import MEDIAN_LEFT_OVER, SMALLEST_SCALE, STREAM_SUM, within

MAX_PARTS = 4


@dataclass(frozen=True)
class HookPoint:
    """Where a tensor can be read in a block: a submodule's output, or its input in `(args, kwargs)`.

    `path` is relative to the block. Without a layout the tensor is `[batch * seq, d_model]`.
    """

    path: str
    is_output: bool
    slot: Slot
    layout: Layout | None

    def __str__(self) -> str:
        if self.is_output:
            return f"{self.path}.output{self.slot}"
        return f"{self.path}.input" if self.slot == Slot((0, 0)) else f"{self.path}.inputs{self.slot}"

    def read(self, value: object, shape: torch.Size) -> Tensor:
        """`[batch, seq, d_model]` from the module's output or inputs."""
        found: Tensor = self.slot.get(value)
        return found.unflatten(0, tuple(shape)) if self.layout is None else self.layout.read(found)

    def write(self, value: object, states: Tensor) -> object:
        """A copy of the module's output or inputs that holds `[batch, seq, d_model]` instead."""
        return self.slot.put(
            value, states.flatten(0, 1) if self.layout is None else self.layout.write(states)
        )


@dataclass(frozen=True)
class Addend:
    """A submodule's output as it enters the stream: `scale` times what is in `point`.

    `is_overwritten`: the model changes that very tensor later on, so it is to be copied when read.
    """

    point: HookPoint
    scale: float
    is_overwritten: bool = False

    def __str__(self) -> str:
        return str(self.point) if self.scale == 1.0 else f"{self.scale:.6g} * {self.point}"


@dataclass(frozen=True)
class Part:
    """What is added to the stream at one point of a block: the sum of its addends, usually one.

    `after` is where the stream can be read with this part in it; None at the block's end.
    """

    addends: tuple[Addend, ...]
    after: HookPoint | None = None

    def __str__(self) -> str:
        return " + ".join(str(addend) for addend in self.addends)


@dataclass(frozen=True)
class Candidate:
    """A tensor of the stream's size in some call, as float64 rows `[batch * seq, d_model]`."""

    point: HookPoint
    time: int
    rows: Tensor

    @property
    def rank(self) -> tuple[int, int]:
        """Outer before inner, earlier before later."""
        return self.point.path.count("."), self.time


def as_rows(states: Tensor) -> Tensor:
    """`[batch, seq, d_model]` as float64 rows on the CPU."""
    return states.detach().reshape(-1, states.shape[-1]).cpu().double()


def candidates(calls: Sequence[Call], shape: torch.Size, d_model: int, *, outputs: bool) -> list[Candidate]:
    """What the submodules took or gave that has the stream's size; the first of equal ones, outermost."""
    found: list[Candidate] = []
    for call in calls:
        for slot, tensor in (call.given if outputs else call.taken).items():
            for layout in _fitting(tensor, shape, d_model):
                rows = as_rows(tensor if layout is None else layout.read(tensor))
                found.append(
                    Candidate(HookPoint(call.path, outputs, slot, layout), _time(call, outputs), rows)
                )
    return sorted(found, key=lambda candidate: candidate.rank)


def _time(call: Call, outputs: bool) -> int:
    return call.ended if outputs else call.started


def _fitting(tensor: Tensor, shape: torch.Size, d_model: int) -> Iterator[Layout | None]:
    if tensor.shape == (shape.numel(), d_model):
        yield None
        return
    ways = [layout for layout in layouts(tensor.shape, *shape) if layout.d_model == d_model]
    yield from ways[:1]


class Decomposition:
    """Searches for outputs that add up to what the block did, within the rounding of the model's dtype."""

    def __init__(self, end: Tensor, dtype: torch.dtype):
        self.end, self.dtype = end, dtype
        self.given: list[Candidate] = []
        self.nodes: list[Candidate] = []

    def parts(
        self, start: Tensor, given: Sequence[Candidate], taken: Sequence[Candidate]
    ) -> tuple[Part, ...] | None:
        """The parts from `start` to the end; the simplest reading that fits, None if none does."""
        # an output that hands the entering stream on adds nothing: minus it and plus it would fit anything
        self.given = [c for c in self._distinct(given) if not self.close(c.rows, start)]
        # the stream is what a submodule takes, and, where one adds to it itself, what it gives
        nodes = self._distinct(sorted([*taken, *given], key=lambda node: (node.rank, node.point.is_output)))
        self.nodes = [node for node in nodes if not self.close(node.rows, self.end)]
        self.nodes.sort(key=lambda node: node.time)
        for n_inner, n_last in ((1, 1), (1, 2), (2, 2)):
            chain = self._chain(start, -1, MAX_PARTS, n_inner, n_last)
            if chain is not None:
                return tuple(chain)
        return None

    def _chain(self, now: Tensor, time: int, left: int, n_inner: int, n_last: int) -> list[Part] | None:
        """Through a later node where that works (more parts told apart), else at once to the end."""
        for node in self.nodes if left > 1 else ():
            if node.time <= time or self.close(node.rows, now):
                continue
            addends = self._addends(node.rows, now, time, node.time, n_inner)
            if addends is None:
                continue
            rest = self._chain(node.rows, node.time, left - 1, n_inner, n_last)
            if rest is not None:
                return [Part(addends, node.point), *rest]
        addends = self._addends(self.end, now, time, None, n_last)
        return None if addends is None else [Part(addends)]

    def _addends(
        self, later: Tensor, earlier: Tensor, after: int, until: int | None, n_most: int
    ) -> tuple[Addend, ...] | None:
        """The fewest outputs whose sum, each times a constant, takes the stream from earlier to later."""
        given = [c for c in self.given if c.time > after and (until is None or c.time <= until)]
        for n in range(1, n_most + 1):
            for chosen in combinations(given, n):
                scales = self.scales(later, earlier, [c.rows for c in chosen])
                if scales is not None:
                    return tuple(Addend(c.point, s) for c, s in zip(chosen, scales, strict=True))
        return None

    def scales(self, later: Tensor, earlier: Tensor, outputs: Sequence[Tensor]) -> list[float] | None:
        """Constants with `later == earlier + sum(scale * output)` up to rounding; 1.0 where that fits."""
        change = later - earlier
        if self._fits(change, later, earlier, outputs, [1.0] * len(outputs)):
            return [1.0] * len(outputs)
        basis = torch.stack([output.flatten() for output in outputs], dim=1)
        gram = basis.T @ basis
        if not bool(torch.isfinite(gram).all()) or float(torch.linalg.det(gram)) <= 0:
            return None
        scales: list[float] = torch.linalg.solve(gram, basis.T @ change.flatten()).tolist()
        if min(abs(scale) for scale in scales) < SMALLEST_SCALE.floor:
            return None
        return scales if self._fits(change, later, earlier, outputs, scales) else None

    def _fits(
        self,
        change: Tensor,
        later: Tensor,
        earlier: Tensor,
        outputs: Sequence[Tensor],
        scales: Sequence[float],
    ) -> bool:
        missing, size = change.clone(), later.abs() + earlier.abs()
        for output, scale in zip(outputs, scales, strict=True):
            missing -= scale * output
            size += (scale * output).abs()
        # the median too: what is missing must be small beside what was added, not only beside the stream
        return within(missing, torch.zeros_like(missing), STREAM_SUM, size, self.dtype) and bool(
            missing.abs().median() <= MEDIAN_LEFT_OVER.bound(change.abs().median())
        )

    def close(self, a: Tensor, b: Tensor) -> bool:
        """Equal up to rounding."""
        return within(a, b, STREAM_SUM, a.abs() + b.abs(), self.dtype)

    def _distinct(self, found: Sequence[Candidate]) -> list[Candidate]:
        kept: list[Candidate] = []
        for candidate in found:
            if not any(self.close(candidate.rows, other.rows) for other in kept):
                kept.append(candidate)
        return kept
