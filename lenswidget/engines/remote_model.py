"""A language model in another process: what works with one here works with it, but for traces."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NoReturn

from lenswidget.engines.calls import EngineState, RayCalls
from lenswidget.engines.remote_engine import RemoteEngine
from lenswidget.errors import TraceError
from lenswidget.interventions.recipe import EMBED_SITE, Edit, RunSpec
from lenswidget.lenses.lens import Lens, LensLike
from lenswidget.models.prompts import Prompt
from lenswidget.readout.run import Run
from lenswidget.widget.widget import LensWidget


class RemoteModel:
    """A model in a Ray actor, as `lw.connect` gives it. This process has its tokenizer and no weights.

    Attributes:
        engine: runs and reads; what a widget asks.
        tokenizer: the model's, or None.
        lenses: what stands for the lenses that come with the model, by name.
    """

    def __init__(self, calls: RayCalls) -> None:
        self._calls = calls
        self.engine = RemoteEngine(calls)
        self.tokenizer = calls.info.tokenizer
        self.lenses: Mapping[str, Lens] = calls.lenses

    def run(
        self,
        prompt: Prompt | RunSpec,
        *,
        sites: Sequence[str] = (EMBED_SITE,),
        edits: Edit | Sequence[Edit] = (),
        reuse: Run | Literal[False] | None = None,
        progress: Callable[[int, int], None] | None = None,
        **options: Any,
    ) -> Run:
        """As `LanguageModel.run`. The states stay there until nothing here refers to the run.

        Raises:
            EngineLostError: the actor was lost meanwhile.
            LensError: as `LanguageModel.run`; or something that cannot be sent.
        """
        given: dict[str, Any] = {"sites": sites, "edits": edits, "reuse": reuse, "progress": progress}
        return self.engine.run(prompt, **given, **options)

    def lens(
        self, prompt: Prompt | RunSpec | None = None, *, lens: LensLike | str = None, **kwargs: Any
    ) -> LensWidget:
        """The widget on a prompt: see `LensWidget`."""
        return LensWidget(self, prompt, lens=lens, **kwargs)

    def trace(self, *_prompt: Any, **_kwargs: Any) -> NoReturn:
        """Refuses.

        Raises:
            TraceError: always.
        """
        raise TraceError(
            f"Asked to trace {self.engine.info().name}, which is in another process: a trace's body runs "
            "where the model is. Declare edits=[lw.Edit(...)], or load the model here: lw.LanguageModel(...)."
        )

    generate = trace

    @property
    def state(self) -> EngineState:
        """ "live"; "connecting" while Ray starts the actor again; "lost" where no cluster is reached."""
        return self._calls.state()

    def close(self) -> None:
        """Leave the actor: it lets go all that this process had there, and ends if nobody else uses it."""
        self._calls.close()

    def __repr__(self) -> str:
        info = self.engine.info()
        return f"<{type(self).__name__} {info.name}: {info.class_name}, {self.state}>"
