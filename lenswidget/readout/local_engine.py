"""The engine of a model in this process: runs prompts, keeps their streams, reads cells."""

import functools
import weakref
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, Literal, Protocol, cast, runtime_checkable

from lenswidget.anatomy.protocol import ReadableModel, check_is_model
from lenswidget.errors import LensError
from lenswidget.ids import new_id
from lenswidget.interventions.changes import Change, make_changes
from lenswidget.interventions.growing_map import GrowingMap
from lenswidget.interventions.recipe import Edit, check_edits
from lenswidget.lenses.lens import Lens, as_lens, check_lens
from lenswidget.lenses.lens_report import LensReport, known_report
from lenswidget.models.encoded_prompt import EncodedPrompt, encode_prompt
from lenswidget.models.facts import facts_of
from lenswidget.models.prompts import Prompt
from lenswidget.readout.capture import Capture
from lenswidget.readout.continuing import continued, held_as_it_is
from lenswidget.readout.engine import Engine
from lenswidget.readout.last_row import last_row_fidelity
from lenswidget.readout.model_info import ModelInfo, describe
from lenswidget.readout.run import EMBED_SITE, Run, RunSpec
from lenswidget.readout.run_reader import RunReader
from lenswidget.readout.streams import as_streams
from lenswidget.readout.taking_over import Grown, grow


@runtime_checkable
class HasEngine(Protocol):
    """A model that brings its own engine: one in another process."""

    @property
    def engine(self) -> Engine: ...


class LocalEngine(RunReader):
    """The engine of a model in this process.

    Args:
        model: a `LanguageModel`.
        streams: where runs keep their streams: "device" (the unembed's), "cpu", or "auto", which is the
            device unless it is short of memory.
    """

    def __init__(self, model: ReadableModel, *, streams: str = "auto") -> None:
        if streams not in ("auto", "device", "cpu"):
            raise LensError(f'Asked to keep streams on {streams!r}; pass "auto", "device" or "cpu".')
        check_is_model(model, "The engine")
        self._kept: ReadableModel | None = model
        self._model = weakref.ref(model)
        self._place = streams
        self.lock = model.lock

    @property
    def model(self) -> ReadableModel:
        """The model; after `let_go`, as long as something else keeps it.

        Raises:
            LensError: it is gone.
        """
        model = self._model()
        if model is None:
            raise LensError("This widget was closed and its model is gone. Show another: model.lens(prompt).")
        return model

    def info(self) -> ModelInfo:
        """What the model says of itself."""
        return describe(self.model)

    def encode(self, prompt: Any, **options: Any) -> EncodedPrompt:
        """One prompt as the model takes it: see `encode_prompt`, which explains the options."""
        model = self.model
        with model.lock:
            return encode_prompt(
                prompt, model.tokenizer, model.hf_model, model.device, processor=model.processor, **options
            )

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
        """Run the model once, in evaluation mode and without gradients, and keep its residual stream.

        Args:
            spec: the recipe; or a prompt, the sites to capture now, the edits, and the options of `encode`.
            edits: made in every forward of this run.
            reuse: an earlier run, whose columns are taken over as far as both are the same; False keeps
                nothing for later runs.
            progress: called with `(layers passed, layers)`.
        Raises:
            PromptError: a prompt that the model cannot take, or several.
            EditError: an edit that does not fit.
        """
        model = self.model
        given = check_edits(edits)
        if not isinstance(spec, RunSpec):
            spec = RunSpec(self.encode(spec, **options), tuple(sites), given)
        elif options or given:
            named = [*options, *(["edits"] if given else [])]
            raise LensError(
                f"Asked for {', '.join(named)} with a recipe, which has them. Leave that out, or change the "
                "recipe: dataclasses.replace(run.spec, edits=(...,))."
            )
        with held_as_it_is(model) as n_changes:
            changes = make_changes(spec.edits, model, spec.prompt.model_inputs)
            grown = grow(model, spec, reuse, self._place, changes, progress)
            run = self._as_run(spec, grown, lambda: changes, n_changes)
            for site in spec.sites:
                run.states(site, [0], [0])
        return run

    def extend(self, run: Run, n_tokens: int, **sampling: Any) -> Generator[Run, None, Run]:
        """Continue a run token by token: yields it with one more column each time, and returns the last.

        Args:
            sampling: see `lenswidget.readout.continuing.continued`.
        """
        return continued(self.model, run, n_tokens, self._place, self.run, self._as_run, **sampling)

    def _as_run(
        self, spec: RunSpec, grown: Grown, changes: Callable[[], Sequence[Change]], n_changes: int
    ) -> Run:
        model, facts, tail = self.model, facts_of(self.model.hf_model), self.model.tail
        last = as_streams(grown.streams).parts[-1][-1]
        return Run(
            id=new_id(),
            spec=spec,
            model=describe(model),
            tail=tail,
            lock=model.lock,
            _changes=lambda values: facts.fingerprint(values=values),
            _has_stale_unembed=facts.has_stale_unembed,
            _n_changes=n_changes,
            _streams={EMBED_SITE: grown.streams},
            _capture=lambda site: Capture(model, spec.prompt, self._place, changes())(site).streams,
            _own=grown.own,
            _check=functools.partial(last_row_fidelity, tail, last, grown.own),
            reuse=grown.reuse,
            kept=grown.kept,
            _model=model,
        )

    def lenses(self) -> Mapping[str, Lens]:
        """The lenses that come with the model, by name; a widget opens on the first."""
        return {name: as_lens(lens) for name, lens in self.model.lenses.items()}

    def check_lens(self, lens: Lens) -> None:
        """Refuse a lens that was fitted to another model.

        Raises:
            LensMismatchError: width, number of layers or unembed differ.
        """
        check_lens(lens, self.model)

    def report_of(self, lens: Lens) -> LensReport | None:
        """What was measured of a lens on this model; None where nothing was."""
        return known_report(lens, self.model)

    def growing_map(self, into: EncodedPrompt, source: EncodedPrompt | None, **asked: Any) -> GrowingMap:
        """A causal map of patches into a prompt: `lenswidget.interventions.growing_map.GrowingMap`."""
        return GrowingMap(self.model, into, source, **asked)

    def let_go(self) -> None:
        """Keep the model no longer. IPython's `Out` keeps every widget that a cell ever showed."""
        self._kept = None


def engine_of(model: ReadableModel | HasEngine) -> Engine:
    """A model's own engine, or that of a model in this process."""
    own: Any = None if isinstance(model, ReadableModel) else getattr(model, "engine", None)
    return own if isinstance(own, Engine) else LocalEngine(cast(Any, model))
