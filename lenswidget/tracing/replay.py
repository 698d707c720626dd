"""Replays: the same call of the model again, with the same random numbers and the body's edits."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from lenswidget.errors import TraceError
from lenswidget.nested import leaves, replace_leaves
from lenswidget.tracing.edit_log import EditLog
from lenswidget.tracing.forward import Forward
from lenswidget.tracing.isolation import is_same_random_state, random_state, set_random_state
from lenswidget.tracing.moments import Moment


class ModelCall:
    """A call of a model with its arguments, which can be run and replayed.

    Args:
        function: the model, or its `generate`.
        args: positional arguments.
        kwargs: keyword arguments.
    """

    def __init__(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._function = function
        self._args = args
        self._kwargs = kwargs
        self._tensors: dict[int, Tensor] | None = None
        self._own_copies: dict[int, Tensor] = {}
        self._random: list[Tensor] = []

    def run(self) -> Any:
        """Call the model for the first time, on the arguments as given."""
        self._random = random_state()
        return self._function(*self._args, **self._kwargs)

    def replay(self) -> Any:
        """Call the model again, with the arguments and the random state of the first time."""
        if self._random:
            set_random_state(self._random)
        args, kwargs = replace_leaves((self._args, self._kwargs), lambda x: self._own_copies.get(id(x), x))
        return self._function(*args, **kwargs)

    @contextmanager
    def keeping_random_state(self) -> Generator[None]:
        """Restores the random state on leaving, so that a replay draws none of the body's numbers."""
        state = random_state()
        try:
            yield
        finally:
            set_random_state(state)

    def has_drawn(self) -> bool:
        """Whether random numbers have been drawn since the first run began, or this replay."""
        return not is_same_random_state(random_state(), self._random)

    def protect(self, given: list[Any]) -> None:
        """Copy the arguments that the body could now change in place.

        Args:
            given: the leaves of a value that the body is given.
        """
        if self._tensors is None:
            found = leaves([*self._args, *self._kwargs.values()])
            self._tensors = {id(leaf): leaf for leaf in found if isinstance(leaf, Tensor)}
        for tensor in given:
            if not isinstance(tensor, Tensor):
                continue
            base = tensor._base
            for key in (id(tensor),) if base is None else (id(tensor), id(base)):
                if key in self._tensors and key not in self._own_copies:
                    self._own_copies[key] = self._tensors[key].clone()

    def check_replayable(self, asked: str) -> None:
        """Refuse a replay where the first run has changed the arguments.

        Args:
            asked: what the replay is for.
        Raises:
            TraceError: the arguments hold a cache, which the first run has filled.
        """
        cache = self._kwargs.get("past_key_values")
        if cache is not None:
            raise TraceError(
                f"Asked for {asked}, which the forward has already passed; it cannot be run again, because "
                "the past_key_values that it was given are filled by now. Read it earlier in the body."
            )


def replay_to(
    forward: Forward, stops: set[Moment], edit_log: EditLog, values: dict[Moment, Any]
) -> Moment | None:
    """Run a fresh forward to the first of `stops`, making the logged edits on the way.

    Args:
        values: gets the values at the moments on the way, which later edits may need.
    Returns:
        the stop, whose own edits are not made yet; None if the forward ended.
    """
    on_the_way = edit_log.stops()
    for moment in on_the_way | stops:
        forward.watch(moment, ())
    while True:
        moment = forward.advance(on_the_way | stops)
        if moment is None or moment in stops:
            return moment
        edit_log.apply(forward, values)
