"""The engine of a run that was given as it is: it reads that run, and makes no other."""

from collections.abc import Callable, Mapping
from typing import Any, Literal

from lenswidget.errors import LensError
from lenswidget.lenses.lens import Lens, check_lens
from lenswidget.lenses.lens_report import LensReport, known_report
from lenswidget.models.encoded_prompt import EncodedPrompt
from lenswidget.readout.run import ModelInfo, Run, RunSpec
from lenswidget.readout.run_reader import RunReader
from lenswidget.tracing.locks import ModelLock


class GivenRunEngine(RunReader):
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
            "Asked to run another prompt where only a run was given. Give the model and a prompt, or two "
            "models and a prompt."
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
        own = self._run.spec
        if spec.prompt is not own.prompt or spec.edits != own.edits:
            self.encode(spec)
        return self._run

    def lenses(self) -> Mapping[str, Lens]:
        """None: a run does not carry them."""
        return {}

    def check_lens(self, lens: Lens) -> None:
        """As `LocalEngine.check_lens`."""
        check_lens(lens, self._run.tail)

    def report_of(self, lens: Lens) -> LensReport | None:
        """As `LocalEngine.report_of`."""
        return known_report(lens, self._run.tail)

    def let_go(self) -> None:
        """Nothing is kept but the run."""
