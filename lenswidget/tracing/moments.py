"""Moments of a forward, and what earlier forwards have shown of their order.

Hooks are set only on the modules that a trace asks for, so a trace cannot see which others the forward
has passed. Most models run in the same order every time: the first traces watch every module, and later
ones look the order up. The order is only a guess about the forward in progress, and the trace checks it.
"""

from typing import NamedTuple

from torch import nn


class Moment(NamedTuple):
    """A moment of a forward: a module has been given its input, or has made its output."""

    module: nn.Module
    kind: str  # "input" or "output"
    call: int = 0  # how many calls of the module came before, in the same step
    step: int = 0  # how many calls of the root came before


class ModuleRef(NamedTuple):
    """A module as the user named it: its path, and which of its calls is meant."""

    path: str
    module: nn.Module
    ancestors: tuple[nn.Module, ...]  # the modules that contain it, outermost first
    call: int = 0
    alias: str = ""  # the path as written, where an alias is in it

    @property
    def name(self) -> str:
        """The path as the user wrote it, for error messages."""
        return self.alias or self.path


class CallOrder:
    """The moments of the longest forward watched so far, and what each module returned in it.

    Attributes:
        is_complete: some watched forward ran to its end.
        may_draw: the model may draw random numbers; False where a watched forward drew none.
        repeated: the modules called more than once in that forward.
    """

    def __init__(self) -> None:
        self.is_complete = False
        self.may_draw = True
        self.repeated: tuple[nn.Module, ...] = ()
        self._times: dict[tuple[nn.Module, str, int], int] = {}
        self._n_parts: dict[nn.Module, int | None] = {}

    def learn(
        self, calls: list[tuple[nn.Module, str, int]], n_parts: dict[nn.Module, int | None], ended: bool
    ) -> None:
        """Keep what a watched forward saw, where it went further than those before."""
        self._n_parts.update(n_parts)
        if len(calls) > len(self._times) or (ended and not self.is_complete):
            self._times = {call: time for time, call in enumerate(calls)}
            self.repeated = tuple({module: None for module, _, call in calls if call > 0})
        self.is_complete = self.is_complete or ended

    def is_before(self, first: Moment, second: Moment) -> bool:
        """Whether `first` came before `second` when they were watched; False where `second` was not."""
        time = self._times.get(second[:3])
        return time is not None and self._times.get(first[:3], -1) < time

    def called(self) -> list[nn.Module]:
        """The modules that ran, in order of their first call."""
        return list({module: None for module, kind, _ in self._times if kind == "input"})

    def has_returned(self, module: nn.Module) -> bool:
        """Whether the module was ever watched to return."""
        return module in self._n_parts

    def n_parts(self, module: nn.Module) -> int | None:
        """The length of the tuple that the module returned when watched; None for anything but a tuple."""
        return self._n_parts.get(module)
