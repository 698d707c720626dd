"""The engine of a model in this process: runs prompts, keeps their streams, reads cells."""

import functools
import uuid
import weakref
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from lenswidget.anatomy.fidelity import Fidelity, compare
from lenswidget.anatomy.protocol import ReadableModel, check_is_model
from lenswidget.anatomy.tail import Tail
from lenswidget.errors import LensError
from lenswidget.interventions.changes import Change, make_changes
from lenswidget.interventions.growing_map import GrowingMap
from lenswidget.interventions.recipe import Edit, check_edits
from lenswidget.lenses.lens import Lens, as_lens, check_lens
from lenswidget.lenses.provenance import model_name
from lenswidget.models.encoded_prompt import EncodedPrompt, encode_prompt
from lenswidget.models.facts import facts_of
from lenswidget.models.prompts import Prompt
from lenswidget.readout import reading
from lenswidget.readout.capture import Capture
from lenswidget.readout.card import Card, decode_query
from lenswidget.readout.continuing import continued, held_as_it_is
from lenswidget.readout.query import Query
from lenswidget.readout.readout import Readout
from lenswidget.readout.run import EMBED_SITE, ModelInfo, Run, RunSpec
from lenswidget.readout.streams import as_streams
from lenswidget.readout.taking_over import Grown, grow
from lenswidget.readout.unembed import Unembed, full_float32


class LocalEngine:
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
        return _describe(self.model)

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
            id=uuid.uuid4().hex,
            spec=spec,
            model=_describe(model),
            tail=tail,
            lock=model.lock,
            _changes=lambda values: facts.fingerprint(values=values),
            _has_stale_unembed=facts.has_stale_unembed,
            _n_changes=n_changes,
            _streams={EMBED_SITE: grown.streams},
            _capture=lambda site: Capture(model, spec.prompt, self._place, changes())(site).streams,
            _own=grown.own,
            _check=functools.partial(_fidelity, tail, last, grown.own),
            reuse=grown.reuse,
            kept=grown.kept,
            _model=model,
        )

    def read(self, query: Query, **limits: Any) -> Readout:
        """What some cells say, at once; limits as `lenswidget.readout.reading.read_query` takes them."""
        return reading.read_query(query, **limits)

    def read_slices(self, query: Query, **limits: Any) -> Generator[tuple[int, int], None, Readout]:
        """The same in slices: `lenswidget.readout.reading.read_slices`."""
        return reading.read_slices(query, **limits)

    def decode(self, query: Query, temperature: float = 1.0) -> Card:
        """One cell decoded again in full: `lenswidget.readout.card.decode`."""
        return decode_query(query, temperature)

    def lenses(self) -> Mapping[str, Lens]:
        """The lenses that come with the model, by name; a widget opens on the first."""
        return {name: as_lens(lens) for name, lens in self.model.lenses.items()}

    def check_lens(self, lens: Lens) -> None:
        """Refuse a lens that was fitted to another model.

        Raises:
            LensMismatchError: width, number of layers or unembed differ.
        """
        check_lens(lens, self.model)

    def growing_map(self, into: EncodedPrompt, source: EncodedPrompt | None, **asked: Any) -> GrowingMap:
        """A causal map of patches into a prompt: `lenswidget.interventions.growing_map.GrowingMap`."""
        return GrowingMap(self.model, into, source, **asked)

    def let_go(self) -> None:
        """Keep the model no longer. IPython's `Out` keeps every widget that a cell ever showed."""
        self._kept = None


def _fidelity(tail: Tail, last: Tensor, own: Tensor, decoded: Tensor | None) -> Fidelity:
    """The last block's states `[seq, d_model]` decoded as readouts do, against the model's own logits.

    Args:
        own: `[n, d_vocab]`, of the last positions.
        decoded: the same positions', where a readout has decoded them; else they are decoded now.
    """
    unembed = Unembed(tail)
    # the coarser of the two: a model stored in 16 bits may give float32 logits, and one of float32, under
    # autocast, 16 bits
    own = own.to(max(unembed.stored_dtype or own.dtype, own.dtype, key=lambda dtype: torch.finfo(dtype).eps))
    if decoded is None:
        with full_float32(unembed.device):
            decoded = unembed(unembed.prepare(last[-len(own) :]))
    return compare(decoded.to(own.device), own)


def _describe(model: ReadableModel) -> ModelInfo:
    hf_model: Any = model.hf_model
    config = getattr(hf_model, "config", None)
    quantised = getattr(config, "quantization_config", None)
    method = quantised.get("quant_method") if isinstance(quantised, dict) else quantised
    method = getattr(method, "quant_method", method)
    lengths = (
        getattr(config, name, None) for name in ("max_position_embeddings", "n_positions", "max_seq_len")
    )
    return ModelInfo(
        name=model_name(model),
        dtype=str(getattr(hf_model, "dtype", "")).removeprefix("torch."),
        quantization=None if method is None else str(getattr(method, "value", method)),
        max_length=next((length for length in lengths if length is not None), None),
        n_layers=model.anatomy.n_layers,
        d_vocab=model.anatomy.d_vocab,
        sites=model.layers.offered,
        tokenizer=model.tokenizer,
        source=model.source,
        class_name=type(hf_model).__name__,
        is_causal=model.anatomy.is_causal,
        predicts=model.anatomy.predicts,
        rows=model.anatomy.rows if model.anatomy.is_looped else (),
    )
