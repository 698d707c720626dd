"""The error messages of a trace, and tracebacks that end at the user's own line."""

import functools
import os
import threading
from pathlib import Path
from types import TracebackType

from torch import nn

from lenswidget.errors import NotReachedError, OutOfOrderError, TraceError
from lenswidget.tracing.moments import ModuleRef, Moment

# Frames in this folder are taken out of tracebacks.
_PACKAGE = f"{Path(__file__).parent.parent}{os.sep}"


class TraceErrors:
    """The errors of one trace.

    Args:
        root: the model, whose paths name the modules.
        is_generation: whether a moment's name includes its step.
        refs: the modules as the user named them; a shared module has several paths.
    """

    def __init__(self, root: nn.Module, is_generation: bool, refs: tuple[ModuleRef, ...]) -> None:
        self._root = root
        self._is_generation = is_generation
        self._names = {ref.module: ref.name for ref in reversed(refs)}

    def name(self, moment: Moment) -> str:
        """A moment as the user would write it, as `transformer.h.5.mlp.output`."""
        path = self._path(moment.module) or type(moment.module).__name__
        call = f" (call {moment.call})" if moment.call else ""
        step = f" in step {moment.step}" if self._is_generation else ""
        return f"{path}.{moment.kind}{call}{step}"

    def too_late(self, moment: Moment, at: Moment | None) -> OutOfOrderError:
        """For an edit of a moment that the forward, which waits at `at`, has passed."""
        where = "its end" if at is None else self.name(at)
        return OutOfOrderError(
            f"Asked to change {self.name(moment)}, but the forward has passed it and stands at {where}. "
            f"Change it before asking for {where}, or open another trace."
        )

    def too_late_to_read(self, moment: Moment) -> OutOfOrderError:
        """For a read of a moment that a generation has passed."""
        return OutOfOrderError(
            f"Asked for {self.name(moment)}, but the generation has passed it, and is not run again. "
            "Read it earlier in the step, in the order of the forward."
        )

    def not_reached(self, moment: Moment, called: list[nn.Module]) -> NotReachedError:
        """For a moment that does not occur in this forward, which calls the modules `called`."""
        name, module = self.name(moment), moment.module
        if isinstance(module, (nn.ModuleList, nn.ModuleDict)):
            return NotReachedError(f"Asked for {name}, but a {type(module).__name__} never runs. Index it.")
        if moment.call and module in called:
            return NotReachedError(f"Asked for {name}, but it is not called that often. Calls count from 0.")
        nearest = nearest_path(self._root, self._path(module) or "", called)
        return NotReachedError(
            f"Asked for {name}, but it does not run in this forward. The nearest module that does is "
            f"{nearest or 'the model itself'}."
        )

    def _path(self, module: nn.Module) -> str | None:
        return self._names[module] if module in self._names else path_of(self._root, module)


def unavailable(asked: str, state: str) -> TraceError:
    """For a request to a trace that is not open, or is open on another thread.

    Args:
        asked: what was asked for.
        state: "new", "open", "stopped" or "closed".
    """
    if state == "open":
        return TraceError(
            f"Asked for {asked} on thread {threading.current_thread().name!r}, but this trace was opened on "
            "another. Read it there and hand the value over."
        )
    found = "was stopped" if state == "stopped" else "is not open"
    return TraceError(
        f"Asked for {asked}, but this trace {found}. Read it inside the `with` block, before tracer.stop()."
    )


def tidy(error: BaseException) -> None:
    """Take this package's frames out of a traceback, in place, so that it ends at the user's line."""
    entry = error.__traceback__
    while entry is not None:
        entry.tb_next = _next_outside(entry.tb_next)
        entry = entry.tb_next


def _next_outside(entry: TracebackType | None) -> TracebackType | None:
    while entry is not None and _is_ours(entry.tb_frame.f_code.co_filename):
        entry = entry.tb_next
    return entry


@functools.lru_cache(maxsize=512)
def _is_ours(filename: str) -> bool:
    # "<@beartype...": the checks that the tests wrap around every function
    return filename.startswith((_PACKAGE, "<@beartype")) or "jaxtyping" in Path(filename).parts


def name_module(error: BaseException, root: nn.Module) -> None:
    """Add to an error of the forward the path of the innermost module that it came from."""
    found: nn.Module | None = None
    entry = error.__traceback__
    while entry is not None:
        owner = entry.tb_frame.f_locals.get("self")
        if isinstance(owner, nn.Module):
            found = owner
        entry = entry.tb_next
    path = None if found is None else path_of(root, found)
    if path is None or not isinstance(error, Exception):
        return
    add_note(error, f"in the forward of {path or 'the model'} ({type(found).__name__})")


def add_note(error: BaseException, note: str) -> None:
    """Add a line to what is printed of an error, once."""
    if note not in getattr(error, "__notes__", ()):
        error.add_note(note)


def path_of(root: nn.Module, module: nn.Module) -> str | None:
    """The first path of a module in a model, empty for the model itself; None where it is not in it."""
    return next((path for path, other in root.named_modules() if other is module), None)


def nearest_path(root: nn.Module, path: str, called: list[nn.Module]) -> str:
    """The path, among those of the modules that ran, that shares most of its beginning with `path`."""
    order = [name for name, _ in root.named_modules()]
    start = order.index(path) if path in order else 0

    def distance(other: str) -> tuple[int, int]:
        shared = 0
        for a, b in zip(path.split("."), other.split("."), strict=False):
            if a != b:
                break
            shared += 1
        return -shared, abs(order.index(other) - start)

    ran = set(called)
    return min((name for name, module in root.named_modules() if module in ran), key=distance, default="")
