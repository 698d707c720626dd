"""Errors of a trace as the user should see them: their own line first, then the model's."""

import functools
from pathlib import Path
from types import TracebackType

from torch import nn

_OURS = {
    str(Path(__file__).with_name(name))
    for name in (
        "changes.py",
        "course.py",
        "forward.py",
        "generation.py",
        "hooks.py",
        "modules.py",
        "refusals.py",
        "rerun.py",
        "saving.py",
        "steps.py",
        "tracing.py",
    )
}


def tidy(error: BaseException) -> None:
    """Take the tracing kernel's frames out of a traceback that begins at the user's line, in place."""
    entry = error.__traceback__
    while entry is not None:
        entry.tb_next = _next_of_others(entry.tb_next)
        entry = entry.tb_next


def _next_of_others(entry: TracebackType | None) -> TracebackType | None:
    while entry is not None and _is_ours(entry.tb_frame.f_code.co_filename):
        entry = entry.tb_next
    return entry


@functools.lru_cache(maxsize=512)
def _is_ours(filename: str) -> bool:
    # "<@beartype...": the checks that the tests wrap around every function
    return filename in _OURS or filename.startswith("<@beartype") or "jaxtyping" in Path(filename).parts


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
    note = f"in the forward of {path or 'the model'} ({type(found).__name__})"
    notes: list[str] = getattr(error, "__notes__", [])
    if note not in notes:
        error.__notes__ = [*notes, note]  # type: ignore[attr-defined]  # add_note, which Python 3.10 lacks


def path_of(root: nn.Module, module: nn.Module) -> str | None:
    """The first path of a module in a model, empty for the model itself; None where it is not in it."""
    return next((path for path, other in root.named_modules() if other is module), None)


def nearest_path(root: nn.Module, path: str, called: list[nn.Module]) -> str:
    """The path, among those of the modules that ran, that shares most of its beginning with `path`."""
    order = [name for name, _ in root.named_modules()]
    place = order.index(path) if path in order else 0

    def distance(other: str) -> tuple[int, int]:
        shared = 0
        for a, b in zip(path.split("."), other.split("."), strict=False):
            if a != b:
                break
            shared += 1
        return -shared, abs(order.index(other) - place)

    ran = set(called)
    return min((name for name, module in root.named_modules() if module in ran), key=distance, default="")
