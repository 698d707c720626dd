"""The edits that a trace's body has made, kept so that a replay of the forward makes them too."""

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
    """One edit: made while the forward waited at `at`, to the value of the moment `target`."""

    at: Moment
    target: Moment
    kind: str  # "assign", "skip", "in place", or "random": the random state with which the forward went on
    leaf: int  # index of the tensor in the value that was edited in place
    value: Any


class EditLog:
    """Watches the values that the body has been given, and logs each edit with the moment it was made at.

    An edit in place is seen by the tensor's version counter. The counter is compared over one turn of the
    body only: the forward changes tensors in place too, and those changes are not edits.

    Args:
        watches_random: log also where the body has drawn random numbers, so that a model that draws some
            itself draws the same ones in a replay.
    """

    def __init__(self, watches_random: bool = False) -> None:
        self.edits: list[LoggedEdit] = []
        self._watches_random = watches_random
        self._random: list[Tensor] = []
        # three lists in step: whose value it is and which leaf, the tensor, its version at the turn's start
        self._owners: list[tuple[Moment, int]] = []
        self._tensors: list[Tensor] = []
        self._versions: list[int] = []
        # tensors of inference mode have no version counter: they are compared with a copy
        self._unversioned: list[tuple[Moment, int, Tensor]] = []
        self._copies: list[Tensor] = []
        self._watched: set[Moment] = set()
        self._containers: list[tuple[Moment, Any, list[Any]]] = []  # lists and dicts: items may be replaced

    def watch(self, moment: Moment, value: Any, found: list[Any]) -> None:
        """Watch a value that the body is given, in the form in which the forward has it.

        Args:
            found: the leaves of the value.
        """
        if moment in self._watched:
            kept = [i for i, owner in enumerate(self._owners) if owner[0] != moment]
            self._owners = [self._owners[i] for i in kept]
            self._tensors = [self._tensors[i] for i in kept]
        self._watched.add(moment)
        # only the newest value is compared: a copy of every value would double their memory
        self._unversioned = []
        if isinstance(value, (list, dict)):
            others = [watched for watched in self._containers if watched[0] != moment]
            self._containers = [*others, (moment, value, found)]
        for index, leaf in enumerate(found):
            if not isinstance(leaf, Tensor):
                continue
            if leaf.is_inference():
                self._unversioned.append((moment, index, leaf))
            else:
                self._owners.append((moment, index))
                self._tensors.append(leaf)

    def begin_body_turn(self) -> None:
        """The body runs from here on: what changes now is an edit."""
        self._versions = list(map(_version, self._tensors))
        if self._unversioned:
            self._copies = [tensor.clone() for _, _, tensor in self._unversioned]
        if self._watches_random:
            self._random = random_state()

    def end_body_turn(self, at: Moment) -> None:
        """The forward, which waits at `at`, goes on: log what the body has changed in place."""
        versions = list(map(_version, self._tensors))
        if versions != self._versions:
            for (moment, index), tensor, before, now in zip(
                self._owners, self._tensors, self._versions, versions, strict=True
            ):
                if before != now:
                    self._log_in_place(at, moment, index, tensor)
            self._versions = versions
        if self._copies:
            for (moment, index, tensor), before in zip(self._unversioned, self._copies, strict=True):
                if not torch.equal(tensor, before):
                    self._log_in_place(at, moment, index, tensor)
            self._copies = []
        for index, (moment, value, before) in enumerate(self._containers):
            now = leaves(value)
            if len(now) != len(before) or any(a is not b for a, b in zip(now, before, strict=True)):
                self.log_assignment(moment, value, at)
                self._containers[index] = (moment, value, now)
        if self._watches_random and not is_same_random_state(random_state(), self._random):
            self.log_random_state(at)

    def log_random_state(self, at: Moment) -> None:
        """Log that the forward goes on from `at` with the present random state, not with the one it had."""
        self.edits.append(LoggedEdit(at, at, "random", 0, random_state()))

    def log_assignment(self, moment: Moment, value: Any, at: Moment | None = None) -> None:
        """Log that the body has replaced the value of a moment.

        Args:
            at: where the forward waited; at the moment itself unless given.
        """
        self.edits.append(LoggedEdit(at or moment, moment, "assign", 0, replace_leaves(value, _copy)))

    def log_skip(self, moment: Moment, value: Any) -> None:
        """Log that a module, whose input `moment` is, returns `value` without running."""
        self.edits.append(LoggedEdit(moment, moment, "skip", 0, replace_leaves(value, _copy)))

    def stops(self) -> set[Moment]:
        """The moments at which a replay must stop to make the same edits."""
        return {edit.at for edit in self.edits} | {edit.target for edit in self.edits}

    def apply(self, forward: Forward, values: dict[Moment, Any]) -> None:
        """Make the edits that were made at the moment where `forward` waits.

        Args:
            forward: a replay that waits at one of `stops`.
            values: that replay's values at the stops before; gets the value of this one.
        """
        at = forward.position
        assert at is not None
        values[at] = forward.value
        for edit in self.edits:
            if edit.at != at:
                continue
            if edit.kind == "in place":
                _overwrite(leaves(values[edit.target])[edit.leaf], edit.value)
            elif edit.kind == "random":
                set_random_state(edit.value)
            elif edit.kind == "skip":
                forward.skip(replace_leaves(edit.value, _copy))
            elif edit.target == at:
                values[at] = forward.reply = replace_leaves(edit.value, _copy)

    def _log_in_place(self, at: Moment, moment: Moment, leaf: int, tensor: Tensor) -> None:
        self.edits.append(LoggedEdit(at, moment, "in place", leaf, tensor.clone()))


def _overwrite(tensor: Tensor, value: Tensor) -> None:
    # autograd refuses to change a leaf in place: the body did it without gradients, so this does too
    with torch.set_grad_enabled(torch.is_grad_enabled() and not (tensor.is_leaf and tensor.requires_grad)):
        tensor.copy_(value)


def _copy(leaf: Any) -> Any:
    return leaf.clone() if isinstance(leaf, Tensor) else leaf
