"""Running a model again from the start: the same inputs, the same random numbers, the same changes."""

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
    """What a model was called with, kept so that it can be called so again.

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
        self._random: list[Any] = []

    def start(self) -> Any:
        """Run the model on the inputs as the user gave them."""
        self._random = random_state()
        return self._function(*self._args, **self._kwargs)

    def start_again(self) -> Any:
        """Run the model on the inputs as they were at the first start."""
        if self._random:
            set_random_state(self._random)
        args, kwargs = replace_leaves((self._args, self._kwargs), lambda x: self._own_copies.get(id(x), x))
        return self._function(*args, **kwargs)

    @contextmanager
    def random_state_kept(self) -> Generator[None]:
        """Whatever runs inside draws its own random numbers, and leaves those of the trace as they are."""
        state = random_state()
        try:
            yield
        finally:
            set_random_state(state)

    def has_drawn(self) -> bool:
        """Whether the random state is another than at the first start."""
        return not is_same_random_state(random_state(), self._random)

    def protect(self, given: list[Any]) -> None:
        """Copy those inputs that the body, being given these leaves, could change in place."""
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

    def check_repeatable(self, ref: str) -> None:
        """Refuse to run again what a first run has changed.

        Raises:
            TraceError: the inputs hold a cache, which the first run has filled.
        """
        cache = self._kwargs.get("past_key_values")
        if cache is not None:
            raise TraceError(
                f"Asked for {ref}, which the forward has already passed; it cannot be run again, because "
                "the past_key_values that it was given are filled by now. Read it earlier in the body."
            )


def run_to(
    forward: Forward, stops: set[Moment], changes: EditLog, values: dict[Moment, Any]
) -> Moment | None:
    """Run a fresh forward to the first of `stops`, making on the way the changes made so far.

    Args:
        values: gets the values at the stops on the way, which later changes may need.
    Returns:
        the stop, where the changes that belong there are still to be made; None if the forward ended.
    """
    on_the_way = changes.stops()
    for moment in on_the_way | stops:
        forward.watch(moment, ())
    while True:
        moment = forward.advance(on_the_way | stops)
        if moment is None or moment in stops:
            return moment
        changes.apply(forward, values)
