"""Runs of a model in another process: what reads them is computed there, under the same name."""

import functools
import inspect
from collections.abc import Callable, Generator
from typing import Any, ParamSpec, Protocol, TypeVar, cast, runtime_checkable

P = ParamSpec("P")
R = TypeVar("R")


@runtime_checkable
class Elsewhere(Protocol):
    """A process that has a model and its runs."""

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """What a function of this package returns there; runs and the model are sent by name."""
        ...

    def slices(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Generator[Any, None, Any]:
        """What a generator function of this package yields and returns there."""
        ...


def at_the_run(function: Callable[P, R]) -> Callable[P, R]:
    """A function of a run, or of a query of one, that is computed in the process that has the run."""

    @functools.wraps(function)
    def computed(*args: P.args, **kwargs: P.kwargs) -> R:
        place = _place(args, kwargs)
        return function(*args, **kwargs) if place is None else place.call(computed, *args, **kwargs)

    return computed


def slices_at_the_run(function: Callable[P, R]) -> Callable[P, R]:
    """The same of a generator function."""
    assert inspect.isgeneratorfunction(inspect.unwrap(function))

    @functools.wraps(function)
    def sliced(*args: P.args, **kwargs: P.kwargs) -> R:
        place = _place(args, kwargs)
        return function(*args, **kwargs) if place is None else cast(R, place.slices(sliced, *args, **kwargs))

    return sliced


def _place(args: Any, kwargs: Any) -> Elsewhere | None:
    """Where the first argument is, or the run of that query; None is this process."""
    first = args[0] if args else next(iter(kwargs.values()), None)
    return getattr(getattr(first, "run", first), "elsewhere", None)
