"""The engine of a model in this process: runs prompts, keeps their streams, reads cells."""

import functools
import uuid
import weakref
from collections.abc import Callable, Generator, Sequence
from typing import Any

import torch
from torch import Tensor

from lenswidget.anatomy.fidelity import Fidelity, compare
from lenswidget.anatomy.protocol import ReadableModel, check_is_model
from lenswidget.anatomy.tail import Tail
from lenswidget.errors import LensError
from lenswidget.interventions.changes import Change, make_changes
from lenswidget.interventions.growing_map import GrowingMap
from lenswidget.interventions.recipe import Edit, check_edits
from lenswidget.lenses.lens import Lens, check_lens
from lenswidget.lenses.provenance import model_name
from lenswidget.models.encoded_prompt import EncodedPrompt, column_source, encode_prompt
from lenswidget.models.facts import facts_of, held
from lenswidget.models.hf_model import evaluation, logits_of, takes, uncached
from lenswidget.models.prompts import Prompt
from lenswidget.readout import reading
from lenswidget.readout.card import Card, decode_query
from lenswidget.readout.query import Query
from lenswidget.readout.readout import Readout
from lenswidget.readout.run import EMBED_SITE, ModelInfo, Run, RunSpec
from lenswidget.readout.unembed import Unembed, free_bytes, full_float32

# How many of the last positions every run can be checked at; of a short prompt only the last, since the
# model's own unembed would spend a tenth of the whole time on the others.
CHECKED_POSITIONS, SHORT_PROMPT = 4, 64
# Streams stay on the device while they leave this share of its free memory to everything else.
FREE_SHARE = 0.5


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
        progress: Callable[[int, int], None] | None = None,
        **options: Any,
    ) -> Run:
        """Run the model once, in evaluation mode and without gradients, and keep its residual stream.

        Args:
            spec: the recipe; or a prompt, the sites to capture now, the edits, and the options of `encode`.
            edits: made in every forward of this run.
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
        with model.lock:
            facts = facts_of(model.hf_model)
            n_changes = facts.fingerprint(values=True)
        with held(model.hf_model):
            tail = model.tail
            changes = make_changes(spec.edits, model, spec.prompt.model_inputs)
            capture = _Capture(model, spec.prompt, self._place, changes)
            streams, own = capture(EMBED_SITE, progress, want_logits=True)
            assert own is not None
            run = Run(
                id=uuid.uuid4().hex,
                spec=spec,
                model=_describe(model),
                tail=tail,
                lock=model.lock,
                _changes=lambda values: facts.fingerprint(values=values),
                _has_stale_unembed=facts.has_stale_unembed,
                _n_changes=n_changes,
                _streams={EMBED_SITE: streams},
                _capture=lambda site: capture(site)[0],
                _own=own,
                _check=functools.partial(_fidelity, tail, streams[-1], own),
            )
            for site in spec.sites:
                run.states(site, [0], [0])
        return run

    def read(self, query: Query, **limits: Any) -> Readout:
        """What some cells say, at once; limits as `lenswidget.readout.reading.read_query` takes them."""
        return reading.read_query(query, **limits)

    def read_slices(self, query: Query, **limits: Any) -> Generator[tuple[int, int], None, Readout]:
        """The same in slices: `lenswidget.readout.reading.read_slices`."""
        return reading.read_slices(query, **limits)

    def decode(self, query: Query, temperature: float = 1.0) -> Card:
        """One cell decoded again in full: `lenswidget.readout.card.decode`."""
        return decode_query(query, temperature)

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


class _Capture:
    """Forwards of one prompt, each of which fills one site's streams."""

    def __init__(
        self, model: ReadableModel, prompt: EncodedPrompt, place: str, changes: Sequence[Change] = ()
    ) -> None:
        self._changes = changes
        self._model = model
        self._prompt = prompt
        self._place = place
        self._options: dict[str, Any] = uncached(model.hf_model)
        self._n_checked = min(prompt.seq, CHECKED_POSITIONS if prompt.seq >= SHORT_PROMPT else 1)
        ends_with_a_column = prompt.columns is None or (
            int(prompt.columns[-self._n_checked])
            == len(column_source(prompt.model_inputs)[0]) - self._n_checked
        )
        # the second is the name before transformers 4.50
        names = ("logits_to_keep", "num_logits_to_keep") if ends_with_a_column else ()
        self._keep = next((name for name in names if takes(model.hf_model, name)), None)

    def __call__(
        self, site: str, progress: Any = None, *, want_logits: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """`[rows, seq, d_model]`, lowest layer first, and the model's own logits of the last columns.

        A layer that has no such site leaves NaN, which readouts report as not finite.
        """
        model, layers = self._model, list(self._model.layers)
        n_layers, lowest = len(layers), -1 if site == EMBED_SITE else 0
        options = {**self._options, **({self._keep: self._n_checked} if self._keep else {})}
        streams: Tensor | None = None
        own: Tensor | None = None
        edits = {"edits": self._changes} if self._changes else {}
        trace = model.trace(dict(self._prompt.model_inputs), **edits, **options)
        with model.lock, torch.no_grad(), evaluation(model.hf_model), trace as tracer:
            for layer in range(lowest, n_layers):
                if layer >= 0 and site not in layers[layer].offered:
                    continue
                state = layers[0].resid_pre if layer < 0 else getattr(layers[layer], site)
                if streams is None:
                    streams = self._room(n_layers - lowest, state)
                streams[layer - lowest].copy_(self._at_columns(state[0]))
                if progress is not None:
                    progress(layer + 1, n_layers)
            if want_logits:
                own = self._own_logits(tracer.result)
        assert streams is not None
        return streams, own

    def _at_columns(self, rows: Tensor) -> Tensor:
        """Of `[positions, n]` those of the columns, `[seq, n]`."""
        columns = self._prompt.columns
        return rows if columns is None else rows[columns.to(rows.device)]

    def _own_logits(self, result: Any) -> Tensor:
        """The model's own logits of the last columns, `[n_checked, d_vocab]`."""
        own = logits_of(result)[0]
        if self._keep is None:
            own = self._at_columns(own)
        # a copy: where all positions' logits were computed, it is not to hold them
        return own[-self._n_checked :].clone()

    def _room(self, n_rows: int, like: Tensor) -> Tensor:
        """NaN, `[n_rows, seq, d_model]`, where this engine keeps streams of such a state."""
        shape = (n_rows, self._prompt.seq, like.shape[-1])
        may_be_short = self._place == "auto" and like.device.type == "cuda"
        is_short = may_be_short and like.nbytes * n_rows > FREE_SHARE * free_bytes(like.device)
        device = torch.device("cpu") if self._place == "cpu" or is_short else like.device
        return torch.full(shape, torch.nan, dtype=like.dtype, device=device)


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
