"""What runs a model and reads its runs, wherever the model is."""

from collections.abc import Generator, Sequence
from typing import Any, Protocol

from lenswidget.readout.cells import Cells
from lenswidget.readout.readout import Readout
from lenswidget.readout.run import EMBED_SITE


class Engine(Protocol):
    """Runs prompts and reads cells; only token ids, cells and small arrays need cross it."""

    def run(self, prompt: Any, *, sites: Sequence[str] = (EMBED_SITE,), progress: Any = None) -> Any:
        """One forward, kept as streams."""
        ...

    def read(self, run: Any, cells: Cells | None = None, **options: Any) -> Readout:
        """What some cells say; options as `lenswidget.readout.read` takes them."""
        ...

    def read_slices(
        self, run: Any, cells: Cells | None = None, **options: Any
    ) -> Generator[tuple[int, int], None, Readout]:
        """The same in slices; options as `lenswidget.readout.read_slices` takes them."""
        ...
