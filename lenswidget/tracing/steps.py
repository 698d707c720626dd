"""The steps of a generation: one call of the model for each token."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Step:
    """One step of a generation.

    Attributes:
        index: how many steps came before.
    """

    index: int


class Steps:
    """Moves a trace from step to step, forward only."""

    def __init__(self, go_to: Callable[[int], bool]) -> None:
        self._go_to = go_to

    def __iter__(self) -> Iterator[Step]:
        index = 0
        while self._go_to(index):
            yield Step(index)
            index += 1

    def __getitem__(self, index: int) -> Step:
        """Move on to a step.

        Raises:
            IndexError: the generation has no such step.
            OutOfOrderError: it has been passed.
        """
        if index < 0 or not self._go_to(index):
            raise IndexError(f"Asked for step {index}, which the generation did not come to.")
        return Step(index)
