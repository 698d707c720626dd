"""The engine of a run that was given as it is: it reads that run, and makes no other."""

from collections.abc import Callable, Generator, Mapping
from typing import Any, Literal

from lenswidget.errors import LensError
from lenswidget.lenses.lens import Lens, check_lens
from lenswidget.models.encoded_prompt import EncodedPrompt
from lenswidget.readout import reading
from lenswidget.readout.card import Card, decode_query
from lenswidget.readout.query import Query
from lenswidget.readout.readout import Readout
from lenswidget.readout.run import ModelInfo, Run, RunSpec
from lenswidget.tracing.locks import ModelLock


class GivenRunEngine:
    """Reads a run; it knows no model that could run anything."""

    def __init__(self, run: Run) -> None:
        self._run = run

    @property
    def lock(self) -> ModelLock:
        """Of the run's model."""
        return self._run.lock

    def info(self) -> ModelInfo:
        """What the run's model says of itself."""
        return self._run.model

    def encode(self, prompt: Any, **options: Any) -> EncodedPrompt:
        """Refuses.

        Raises:
            LensError: always.
        """
        raise LensError(
            "Asked to run another prompt in a comparison of two runs. Compare a model and two prompts, or "
            "two models and a prompt."
        )

    def run(
        self,
        spec: RunSpec,
        *,
        reuse: Run | Literal[False] | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Run:
        """The run that was given.

        Raises:
            LensError: another recipe than its own.
        """
        if spec is not self._run.spec:
            self.encode(spec)
        return self._run

    def read(self, query: Query, **limits: Any) -> Readout:
        """As `LocalEngine.read`."""
        return reading.read_query(query, **limits)

    def read_slices(self, query: Query) -> Generator[tuple[int, int], None, Readout]:
        """As `LocalEngine.read_slices`."""
        return reading.read_slices(query)

    def decode(self, query: Query, temperature: float = 1.0) -> Card:
        """As `LocalEngine.decode`."""
        return decode_query(query, temperature)

    def lenses(self) -> Mapping[str, Lens]:
        """None: a run does not carry them."""
        return {}

    def check_lens(self, lens: Lens) -> None:
        """As `LocalEngine.check_lens`."""
        check_lens(lens, self._run.tail)

    def let_go(self) -> None:
        """Nothing is kept but the run."""
