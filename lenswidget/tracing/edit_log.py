"""What a trace's body has changed so far, kept so that another run can be changed the same way."""

import operator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lenswidget.nested import leaves, replace_leaves
from lenswidget.tracing.forward import Forward
from lenswidget.tracing.isolation import is_same_random_state, random_state, set_random_state
from lenswidget.tracing.moments import Moment

_version = operator.attrgetter("_version")


class LoggedEdit(NamedTuple):
    """One change: made while the forward waited at `at`, to the value at `target`."""

    at: Moment
    target: Moment
    kind: str  # "assign", "skip", "in place", or "random": the state that the forward went on with
    leaf: int  # which tensor of the value was changed in place
    value: Any


class EditLog:
    """Watches the values that the body holds, and remembers each change with the moment it was made.

    An in-ref change is noticed by the tensor's version counter, between the moment when the body is
    given control and the moment when it gives it back: what the forward itself changes does not count.

    Args:
        watches_random: remember as well where the body has drawn random numbers, so that those of a model
            which draws some itself can be drawn again.
    """

    def __init__(self, watches_random: bool = False) -> None:
        self.made: list[LoggedEdit] = []
        self._watches_random = watches_random
        self._random: list[Tensor] = []
        # what is watched: where it belongs, the tensor, and its version when the body took over
        self._places: list[tuple[Moment, int]] = []
        self._tensors: list[Tensor] = []
        self._versions: list[int] = []
        self._uncounted: list[tuple[Moment, int, Tensor]] = []  # without a version: compared with a copy
        self._copies: list[Tensor] = []
        self._moments: set[Moment] = set()
        self._mutable: list[tuple[Moment, Any, list[Any]]] = []  # containers whose items may be replaced

    def hold(self, moment: Moment, value: Any, found: list[Any]) -> None:
        """Watch a value that the body is given, in the form in which the forward holds it.

        Args:
            found: the leaves of the value.
        """
        if moment in self._moments:
            kept = [i for i, ref in enumerate(self._places) if ref[0] != moment]
            self._places = [self._places[i] for i in kept]
            self._tensors = [self._tensors[i] for i in kept]
        self._moments.add(moment)
        # only the value at hand is compared: to keep a copy of every value would double their memory
        self._uncounted = []
        if isinstance(value, (list, dict)):
            self._mutable = [held for held in self._mutable if held[0] != moment] + [(moment, value, found)]
        for index, leaf in enumerate(found):
            if not isinstance(leaf, Tensor):
                continue
            if leaf.is_inference():
                self._uncounted.append((moment, index, leaf))
            else:
                self._places.append((moment, index))
                self._tensors.append(leaf)

    def body_takes_over(self) -> None:
        """From here on, changes are the body's."""
        self._versions = list(map(_version, self._tensors))
        if self._uncounted:
            self._copies = [tensor.clone() for _, _, tensor in self._uncounted]
        if self._watches_random:
            self._random = random_state()

    def body_gives_back(self, at: Moment) -> None:
        """Remember what the body has changed in place since it took over."""
        versions = list(map(_version, self._tensors))
        if versions != self._versions:
            for (moment, index), tensor, before, now in zip(
                self._places, self._tensors, self._versions, versions, strict=True
            ):
                if before != now:
                    self.made.append(LoggedEdit(at, moment, "in place", index, tensor.clone()))
            self._versions = versions
        if self._copies:
            for (moment, index, tensor), before in zip(self._uncounted, self._copies, strict=True):
                if not torch.equal(tensor, before):
                    self.made.append(LoggedEdit(at, moment, "in place", index, tensor.clone()))
            self._copies = []
        for index, (moment, value, before) in enumerate(self._mutable):
            now = leaves(value)
            if len(now) != len(before) or any(a is not b for a, b in zip(now, before, strict=True)):
                self.assigned(moment, value, at)
                self._mutable[index] = (moment, value, now)
        if self._watches_random and not is_same_random_state(random_state(), self._random):
            self.drawn(at)

    def drawn(self, at: Moment) -> None:
        """Remember the random numbers that come next: not those that followed when the forward stopped."""
        self.made.append(LoggedEdit(at, at, "random", 0, random_state()))

    def assigned(self, moment: Moment, value: Any, at: Moment | None = None) -> None:
        """Remember that the body has put `value` in the place of what the forward had."""
        self.made.append(LoggedEdit(at or moment, moment, "assign", 0, replace_leaves(value, _copy)))

    def skipped(self, moment: Moment, value: Any) -> None:
        """Remember that the module is not to run on the input that it has been given."""
        self.made.append(LoggedEdit(moment, moment, "skip", 0, replace_leaves(value, _copy)))

    def stops(self) -> set[Moment]:
        """Where another run must stop to be changed the same way."""
        return {change.at for change in self.made} | {change.target for change in self.made}

    def apply(self, forward: Forward, values: dict[Moment, Any]) -> None:
        """Make the changes that belong where `forward` waits.

        Args:
            forward: another run of the same model, at one of `stops`.
            values: that run's values at the stops before.
        """
        at = forward.position
        assert at is not None
        values[at] = forward.value
        for change in self.made:
            if change.at != at:
                continue
            if change.kind == "in place":
                _overwrite(leaves(values[change.target])[change.leaf], change.value)
            elif change.kind == "random":
                set_random_state(change.value)
            elif change.kind == "skip":
                forward.skip(replace_leaves(change.value, _copy))
            elif change.target == at:
                values[at] = forward.reply = replace_leaves(change.value, _copy)


def _overwrite(tensor: Tensor, value: Tensor) -> None:
    # autograd refuses to change a leaf in place: the body did it without gradients, so this does too
    with torch.set_grad_enabled(torch.is_grad_enabled() and not (tensor.is_leaf and tensor.requires_grad)):
        tensor.copy_(value)


def _copy(leaf: Any) -> Any:
    return leaf.clone() if isinstance(leaf, Tensor) else leaf
