"""The steps of a generation: one call of the model for each token."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from typing import overload

from lenswidget.errors import CellError


@dataclass(frozen=True)
class Step:
    """One step of a generation.

    Attributes:
        index: how many steps came before.
    """

    index: int


class Steps:
    """Moves a trace from step to step, forward only: one by one, to one, or through a slice."""

    def __init__(self, go_to: Callable[[int], bool]) -> None:
        self._go_to = go_to

    def __iter__(self) -> Iterator[Step]:
        return self._through(count())

    @overload
    def __getitem__(self, index: int) -> Step: ...
    @overload
    def __getitem__(self, index: slice) -> Iterator[Step]: ...
    def __getitem__(self, index: int | slice) -> Step | Iterator[Step]:
        """Move on to a step; with a slice, to each of its steps in turn.

        Raises:
            CellError: the generation has no such step, or the index counts from the end.
            OutOfOrderError: the generation has passed it.
        """
        if isinstance(index, slice):
            start, stop, stride = index.start or 0, index.stop, index.step or 1
            if start < 0 or stride < 0 or (stop is not None and stop < 0):
                raise _from_the_end(index)
            return self._through(count(start, stride) if stop is None else range(start, stop, stride))
        if index < 0:
            raise _from_the_end(index)
        if not self._go_to(index):
            raise CellError(f"Asked for step {index}, which the generation did not come to.")
        return Step(index)

    def _through(self, indices: "range | count[int]") -> Iterator[Step]:
        for index in indices:
            if not self._go_to(index):
                return
            yield Step(index)


def _from_the_end(index: int | slice) -> CellError:
    return CellError(
        f"Asked for step {index} of a generation, whose length is not known before its end. Count from 0."
    )
