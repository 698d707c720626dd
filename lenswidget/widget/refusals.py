"""A value that a trait refuses: one rule for one assignment, and for several that are held together."""

import contextlib
import functools
from collections.abc import Callable, Generator
from typing import Any

import traitlets as t

from lenswidget.errors import LensError


@contextlib.contextmanager
def refused_together() -> Generator[None, None, None]:
    """Raise this package's errors as a `TraitError` too: traitlets takes a value back for no other error.

    Outside of `hold_trait_notifications` a trait that is refused keeps its value, whatever the error. Inside,
    values are set first and checked at the end; then all that was set in the hold is taken back, or nothing.
    """
    try:
        yield
    except LensError as error:
        if isinstance(error, t.TraitError):
            raise
        raise _as_trait_error(type(error))(*error.args).with_traceback(error.__traceback__) from None


def validates(*names: str) -> Callable[[Callable[..., Any]], Any]:
    """`traitlets.validate`, for a method of a `TakesTurns` that refuses with this package's errors."""

    def wrapped(method: Callable[..., Any]) -> Any:
        @functools.wraps(method)
        def check(self: Any, proposal: Any) -> Any:
            with refused_together(), self._turn():
                return method(self, proposal)

        return t.validate(*names)(check)

    return wrapped


@functools.cache
def _as_trait_error(kind: type[LensError]) -> type[LensError]:
    """The same class, of the same name, that is a `TraitError` as well."""
    return type(kind.__name__, (kind, t.TraitError), {"__module__": kind.__module__, "__doc__": kind.__doc__})
