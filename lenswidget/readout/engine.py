"""What runs a model and reads its runs, wherever the model is."""

from collections.abc import Callable, Generator, Mapping
from typing import Any, Literal, Protocol, runtime_checkable

from lenswidget.lenses.lens import Lens
from lenswidget.lenses.lens_report import LensReport
from lenswidget.models.encoded_prompt import EncodedPrompt
from lenswidget.readout.card import Card
from lenswidget.readout.query import Query
from lenswidget.readout.readout import Readout
from lenswidget.readout.run import ModelInfo, Run, RunSpec
from lenswidget.tracing.locks import ModelLock


@runtime_checkable
class Engine(Protocol):
    """Runs recipes, reads cells, and says what the model is: all that a widget asks of a model.

    Only recipes, queries and small arrays need cross it.
    """

    @property
    def lock(self) -> ModelLock:
        """Held while this engine runs and reads; a widget holds it while one thread changes its state."""
        ...

    def info(self) -> ModelInfo:
        """What the model says of itself."""
        ...

    def encode(self, prompt: Any, **options: Any) -> EncodedPrompt:
        """One prompt as the model takes it; see `models.encoded_prompt.encode_prompt`."""
        ...

    def run(
        self,
        spec: RunSpec,
        *,
        reuse: Run | Literal[False] | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Run:
        """One forward, kept as streams; `progress` is called with `(layers passed, layers)`.

        Args:
            reuse: an earlier run, whose columns may be taken over; False keeps nothing for later runs.
        """
        ...

    def read(self, query: Query, **limits: Any) -> Readout:
        """What some cells say; limits as `lenswidget.readout.reading.read_query` takes them."""
        ...

    def read_slices(self, query: Query) -> Generator[tuple[int, int], None, Readout]:
        """What some cells say, in slices: yields `(cells done, cells in all)`."""
        ...

    def decode(self, query: Query, temperature: float = 1.0) -> Card:
        """One cell decoded again in full."""
        ...

    def lenses(self) -> Mapping[str, Lens]:
        """The lenses that come with the model, by name; a widget opens on the first."""
        ...

    def check_lens(self, lens: Lens) -> None:
        """Refuse a lens that was fitted to another model."""
        ...

    def report_of(self, lens: Lens) -> LensReport | None:
        """What was measured of a lens on this model; None where nothing was."""
        ...

    def let_go(self) -> None:
        """Keep the model no longer; it answers on while something else keeps it."""
        ...
