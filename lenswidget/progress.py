"""Work that comes in slices, and how far it has come: told to a function, by a bar, or not at all."""

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

from lenswidget.errors import LensError

Progress: TypeAlias = Callable[[int, int], object] | bool | None


@contextmanager
def reporting(
    progress: Any, what: str, unit: str = "it"
) -> Generator[Callable[[int, int], object], None, None]:
    """A function `(done, total)` to be called as work goes on.

    Args:
        progress: True for a tqdm bar, a function `(done, total)`, or None or False for neither.
        what: the bar's name.
        unit: of what it counts.
    Raises:
        LensError: progress is none of these.
    """
    if progress is None or progress is False:
        yield lambda done, total: None
    elif callable(progress):
        yield progress
    elif progress is not True:
        raise LensError(
            f"Asked to report by progress={progress!r:.80}; pass True for a bar, or a function (done, total)."
        )
    else:
        from tqdm.auto import tqdm

        with tqdm(desc=what, unit=unit) as bar:

            def report(done: int, total: int) -> None:
                bar.total = total
                bar.update(done - bar.n)

            yield report


def counted(total: int, progress: Any, what: str, start: int = 0) -> Iterator[int]:
    """`start .. total - 1`, telling progress at each and at the end."""
    with reporting(progress, what) as report:
        for done in range(start, total):
            report(done, total)
            yield done
        report(total, total)


def drain(
    work: Generator[tuple[int, int], None, Any], progress: Callable[[int, int], None] | None = None
) -> Any:
    """Run work that comes in slices through at once; its value. `progress` is called after each slice."""
    while True:
        try:
            step = next(work)
        except StopIteration as stop:
            return stop.value
        if progress is not None:
            progress(*step)
