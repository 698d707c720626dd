"""The engine of a model in another process: recipes and queries go there, small arrays come back."""

from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, Literal

from lenswidget.engines.calls import EngineState, RayCalls
from lenswidget.interventions.effects import CausalMap
from lenswidget.interventions.recipe import EMBED_SITE, Edit
from lenswidget.lenses.lens import Lens, LogitLens
from lenswidget.lenses.lens_report import LensReport
from lenswidget.models.encoded_prompt import EncodedPrompt
from lenswidget.models.prompts import Prompt
from lenswidget.readout.background import Background
from lenswidget.readout.background_fit import background_slices
from lenswidget.readout.local_engine import LocalEngine
from lenswidget.readout.run import ModelInfo, Run, RunSpec
from lenswidget.readout.run_reader import RunReader
from lenswidget.tracing.locks import ModelLock


class RemoteEngine(RunReader):
    """An `Engine` whose model is in a Ray actor. All that it does is what `LocalEngine` does there."""

    def __init__(self, calls: RayCalls) -> None:
        self._calls = calls
        # of this process's threads, one at a time; clients take turns in the actor
        self.lock = ModelLock()
        calls.engine = self
        self.lock = ModelLock()

    def info(self) -> ModelInfo:
        """What the model says of itself."""
        return self._calls.info

    def encode(self, prompt: Any, **options: Any) -> EncodedPrompt:
        """One prompt as the model takes it: see `encode_prompt`."""
        return self._calls.call(LocalEngine.encode, self, prompt, **options)

    def run(
        self,
        spec: RunSpec | Prompt,
        *,
        sites: Sequence[str] = (EMBED_SITE,),
        edits: Edit | Sequence[Edit] = (),
        reuse: Run | Literal[False] | None = None,
        progress: Callable[[int, int], None] | None = None,
        **options: Any,
    ) -> Run:
        """As `LocalEngine.run`; the streams stay there. `progress` is called once, at the end."""
        given: dict[str, Any] = {"sites": tuple(sites), "edits": edits, "reuse": reuse, **options}
        run = self._calls.call(LocalEngine.run, self, spec, **given)
        if progress is not None:
            progress(run.n_layers, run.n_layers)
        return run

    def extend(self, run: Run, n_tokens: int, **sampling: Any) -> Generator[Run, None, Run]:
        """As `LocalEngine.extend`."""
        return self._calls.slices(LocalEngine.extend, self, run, n_tokens, **sampling)

    def lenses(self) -> Mapping[str, Lens]:
        """What stands for the lenses that come with the model, by name."""
        return self._calls.lenses

    def check_lens(self, lens: Lens) -> None:
        """As `LocalEngine.check_lens`; a fitted lens is sent for it, once."""
        if not isinstance(lens, LogitLens) and lens not in self._calls.lenses.values():
            self._calls.call(LocalEngine.check_lens, self, lens)

    def report_of(self, lens: Lens) -> LensReport | None:
        """What was measured of a lens before it was sent, or there before this client came."""
        if isinstance(lens, LogitLens):
            return self._calls.logit_report
        found = getattr(lens, "measured", None)
        return found if isinstance(found, LensReport) else None

    def background(self, lens: Lens, site: str, *, lift: bool) -> Generator[Any, None, Background]:
        """What is usual through a lens: `lenswidget.readout.background_fit.background_slices`."""
        return self._calls.slices(_background, self, lens, site, lift)

    def growing_map(self, into: EncodedPrompt, source: EncodedPrompt | None, **asked: Any) -> "RemoteMap":
        """As `LocalEngine.growing_map`."""
        return RemoteMap(self._calls, self, into, source, asked)

    def state(self) -> EngineState:
        """Whether the actor answers; does not wait."""
        return self._calls.state()

    def let_go(self) -> None:
        """What a closed widget had is let go there too; the model stays while clients are there."""
        self._calls.flush()


class RemoteMap:
    """A causal map that is measured there and watched here: see `GrowingMap`."""

    def __init__(self, calls: RayCalls, engine: RemoteEngine, into: Any, source: Any, asked: Any) -> None:
        self._slices = calls.slices(_map_slices, engine, into, source, asked)
        self.value: CausalMap = next(self._slices)

    def slices(self) -> Generator[tuple[int, int], None, CausalMap]:
        """Measure it; yields `(cells done, cells in all)`."""
        for step, value in self._slices:
            self.value = value
            yield step
        return self.value


def _background(engine: LocalEngine, lens: Lens, site: str, lift: bool) -> Generator[Any, None, Background]:
    return background_slices(engine, engine.model.hf_model, lens, site, lift=lift)


def _map_slices(engine: LocalEngine, into: Any, source: Any, asked: dict[str, Any]) -> Any:
    """A map as it is at first; then each step with the map as it is then."""
    growing = engine.growing_map(into, source, **asked)
    yield growing.value
    for step in growing.slices():
        yield step, growing.value
    yield (1, 1), growing.value
