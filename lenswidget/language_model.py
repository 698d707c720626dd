"""A causal language model: loaded, given prompts, traced, and looked into."""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

import torch
from torch import nn
from transformers import AutoProcessor, AutoTokenizer, BatchEncoding, ProcessorMixin

from lenswidget.anatomy.anatomy import Anatomy
from lenswidget.anatomy.discovery import discover
from lenswidget.anatomy.layers import Layers
from lenswidget.anatomy.protocol import ReadableModel
from lenswidget.anatomy.tail import Tail
from lenswidget.errors import LensError, ModelError, PromptError
from lenswidget.interventions.changes import Change, make_changes, ready_changes
from lenswidget.interventions.edited_call import EditedCall
from lenswidget.interventions.recipe import Edit, check_edits
from lenswidget.lenses.lens import LensLike
from lenswidget.lenses.provenance import model_name
from lenswidget.models.caches import after_cache, check_continuation, check_lengths
from lenswidget.models.facts import facts_of
from lenswidget.models.hf_model import (
    attribute_errors_told,
    auto_class,
    check_keywords,
    device_of,
    takes,
    takes_pictures,
)
from lenswidget.models.pictures import check_pictures, needs_processor, pictured
from lenswidget.models.prompts import Prompt, model_inputs
from lenswidget.models.run_state import settle
from lenswidget.models.split import check_no_pipeline, check_split
from lenswidget.readout.local_engine import LocalEngine
from lenswidget.readout.run import EMBED_SITE, Run, RunSpec
from lenswidget.tracing.generation import Generation
from lenswidget.tracing.moments import CallOrder, ModuleRef
from lenswidget.tracing.replay import ModelCall
from lenswidget.tracing.trace import Trace
from lenswidget.tracing.traced_model import TracedModel
from lenswidget.widget.widget import LensWidget

Edits: TypeAlias = Edit | Sequence[Edit] | Sequence[Change]

# options of from_pretrained that are nobody else's business
SECRETS = frozenset({"token", "use_auth_token"})


class LanguageModel(TracedModel, ReadableModel):
    """A Hugging Face causal LM, ready to be traced and read through a lens.

    Args:
        name_or_hf_model: a hub name or folder, or a loaded model. A loaded model is used as it is.
        tokenizer: its tokenizer, or the processor of a model that takes pictures, or the name of either; None
            with a loaded model to trace token ids alone.
        blocks: path of the `ModuleList` of decoder blocks, where watching the model does not find it.
        final_norm: path of the final norm, likewise.
        unembed: path of the module that makes the logits, likewise.
        rename: other names for modules, as `{"transformer.h": "blocks"}`: see `TracedModel`.
        from_pretrained_kwargs: handed on to `AutoModelForCausalLM.from_pretrained`.
    Raises:
        LensError: any of these with a loaded model.
        ModelError: it cannot be loaded, or is no model, or only some layers of one that is in a pipeline.
    """

    def __init__(
        self,
        name_or_hf_model: str | os.PathLike[str] | nn.Module,
        tokenizer: Any = None,
        *,
        blocks: str | None = None,
        final_norm: str | None = None,
        unembed: str | None = None,
        rename: Mapping[str, str] | None = None,
        **from_pretrained_kwargs: Any,
    ) -> None:
        given: dict[str, Any] = {"blocks": blocks, "final_norm": final_norm, "unembed": unembed}
        source = None
        if isinstance(name_or_hf_model, nn.Module):
            hf_model = name_or_hf_model
            if from_pretrained_kwargs:
                raise LensError(
                    f"Asked for {', '.join(from_pretrained_kwargs)} with a model that is loaded already: it "
                    "is used as it is. Leave that out, or give the model's name."
                )
        else:
            name = _name(name_or_hf_model)
            check_split(name, from_pretrained_kwargs)
            source = _source(name, tokenizer=tokenizer, rename=rename, **given, **from_pretrained_kwargs)
            hf_model = _loaded(
                auto_class(name, from_pretrained_kwargs), name, **from_pretrained_kwargs
            ).eval()
            tokenizer = tokenizer or name
        super().__init__(hf_model, rename=rename)
        check_no_pipeline(hf_model)
        if isinstance(tokenizer, (str, os.PathLike)):
            kind = AutoProcessor if takes_pictures(hf_model) else AutoTokenizer
            tokenizer = _loaded(kind, os.fspath(tokenizer))
        if isinstance(tokenizer, ProcessorMixin):
            self.processor, tokenizer = tokenizer, getattr(tokenizer, "tokenizer", None)
        if tokenizer is not None and not hasattr(tokenizer, "decode"):
            raise ModelError(
                f"The tokenizer is a {type(tokenizer).__name__}. Give one of transformers, its name, or None."
            )
        self.tokenizer = tokenizer
        self.source = source
        self.lenses: Mapping[str, LensLike] = {}
        self._given = given
        self._anatomy: tuple[int, Anatomy] | None = None
        self._tail: Tail | None = None

    def __repr__(self) -> str:
        of, name = type(self.hf_model).__name__, model_name(self)
        return f"<{type(self).__name__} {of if name == of else f'{name}: {of}'}>"

    @property
    def hf_model(self) -> nn.Module:
        """The transformers model itself."""
        return self.wrapped

    @property
    def device(self) -> torch.device:
        """Where prompts go: where accelerate runs the model, else the device of its first weight on one."""
        return device_of(self.hf_model)

    def tokenize(
        self, prompt: Any, *, side: str | None = None, add_special_tokens: bool = True
    ) -> BatchEncoding:
        """A prompt as the model's keyword arguments, on its device: see `models.prompts.model_inputs`.

        Args:
            prompt: string or strings, token ids, an encoding, or embeddings `[batch, seq, d_model]`.
            side: where a batch is padded, "left" or "right"; the tokenizer's own unless given.
            add_special_tokens: whether the tokenizer adds its own to text.
        Raises:
            PromptError: a prompt that the model cannot take.
        """
        return model_inputs(
            prompt,
            self.tokenizer,
            self.hf_model,
            self.device,
            side=side,
            add_special_tokens=add_special_tokens,
        )

    def trace(self, *prompt: Any, edits: Edits = (), **kwargs: Any) -> Trace:
        """A trace of one forward on a prompt, to be opened by `with`.

        Args:
            prompt: whatever `tokenize` takes; or leave it out and give `input_ids=` or `inputs_embeds=`.
            edits: made in this forward, before the body sees what they change; positions count a row's own
                tokens, padding left out.
            kwargs: handed on to the model's forward, as `use_cache=False`; and `add_special_tokens=False` for
                text that has them, `images=[...]` for text with a placeholder for each. With
                `past_key_values=cache` the prompt goes on from what the cache holds.
        Raises:
            PromptError: no prompt, several, one that the model cannot take, or a keyword that no module of
                the model takes.
            EditError: an edit that does not fit.
        """
        check_keywords(self.hf_model, kwargs)
        inputs = self._inputs(prompt, kwargs, None)
        return self._open(ModelCall(self._edited(self.hf_model, edits, inputs), (), inputs))

    def generate(self, *prompt: Any, edits: Edits = (), **kwargs: Any) -> Trace:
        """A trace of a generation, to be opened by `with`; `tracer.steps` are its calls of the model.

        Args:
            prompt: whatever `tokenize` takes; a batch is padded on the left.
            edits: as for `trace`; those whose positions are None, "generated" or an open slice are made in
                the steps after the prompt too.
            kwargs: handed on to the model's `generate`, as `max_new_tokens=5`.
        Raises:
            PromptError: as `trace`.
        """
        inputs = self._inputs(prompt, kwargs, "left")
        inputs.pop("position_ids", None)  # generate keeps count of positions itself, from the mask
        generate: Any = self.hf_model.generate
        edited = self._edited(generate, edits, inputs, is_generation=True)
        return self._open(ModelCall(edited, (), inputs), Generation)

    def _edited(
        self,
        function: Callable[..., Any],
        edits: Edits,
        inputs: dict[str, Any],
        *,
        is_generation: bool = False,
    ) -> Callable[..., Any]:
        """The function with edits in its forwards; itself where there are none."""
        changes = ready_changes(edits)
        if changes is None:
            given = check_edits(edits)
            if not given:
                return function
            of_model = {name: value for name, value in inputs.items() if takes(self.hf_model, name)}
            with self.lock:
                changes = make_changes(given, self, of_model, is_generation=is_generation)
        return EditedCall(function, self.hf_model, self.anatomy, changes) if changes else function

    @property
    def anatomy(self) -> Anatomy:
        """What one watched forward tells about the model: its blocks, final norm, unembed, sites.

        Found out again when the model has changed: see `ModelFacts.fingerprint`.
        """
        with attribute_errors_told(self.hf_model):
            facts = facts_of(self.hf_model)
            if self._anatomy is None or self._anatomy[0] != facts.fingerprint():
                with self.lock:
                    anatomy = discover(self.hf_model, **self._given)
                    self._anatomy = (facts.fingerprint(), anatomy)
                    self._order = CallOrder()
            return self._anatomy[1]

    @property
    def tail(self) -> Tail:
        """The model's own map from the last block's output to its logits, in float32."""
        anatomy = self.anatomy
        if self._tail is None or self._tail.anatomy is not anatomy:
            with self.lock, attribute_errors_told(self.hf_model):
                self._tail = Tail(self.hf_model, anatomy)
        return self._tail

    @property
    def layers(self) -> Layers:
        """The decoder blocks with their sites, as `model.layers[5].resid_post` inside a trace."""
        return Layers(self)

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
        """Run the model once, in evaluation mode, and keep what readouts need.

        Args:
            prompt: a string, token ids, an encoding of one prompt, a chat, or the recipe of an earlier run
                (`run.spec`).
            sites: captured now; the others are when they are first read, by one more forward.
            edits: made in every forward of this run, those that capture other sites later included.
            reuse: an earlier run of this model: the first columns that both share, ids and edits, are taken
                over, and only the rest is run and, by readouts, decoded. `run.reuse` says what was. False
                keeps nothing that a later run could take over.
            progress: called with `(layers passed, layers)`.
            options: of the prompt: `add_special_tokens=False`; `images=`, the pictures that its text or chat
                has places for; `decoder=` for an encoder-decoder, the text, ids or number of tokens that its
                decoder has; options of a chat template. See `encode_prompt`.
        Raises:
            PromptError: a prompt that the model cannot take, or several.
            CellError: a site that the model does not have.
            EditError: an edit that does not fit.
        """
        return LocalEngine(self).run(
            prompt, sites=sites, edits=edits, reuse=reuse, progress=progress, **options
        )

    def lens(self, prompt: Prompt | RunSpec | None = None, **kwargs: Any) -> LensWidget:
        """The widget on a prompt: see `LensWidget`."""
        return LensWidget(self, prompt, **kwargs)

    def _open(self, model_call: ModelCall, kind: type[Trace] = Trace) -> Trace:
        settle(self.hf_model)
        return super()._open(model_call, kind)

    def _inputs(self, prompt: tuple[Any, ...], kwargs: dict[str, Any], side: str | None) -> dict[str, Any]:
        add_special_tokens = kwargs.pop("add_special_tokens", True)
        if len(prompt) > 1:
            raise PromptError(
                f"{len(prompt)} prompts were given one by one. Give a list: trace([first, second])."
            )
        if not prompt and not {"input_ids", "inputs_embeds", "input_features"} & set(kwargs):
            raise PromptError("No prompt was given. Write trace(prompt), with a string, ids or an encoding.")
        if not prompt:
            return self._checked({**self.tokenize(kwargs)}, side)
        given, images = prompt[0], kwargs.pop("images", None)
        if needs_processor(given, images, self.tokenizer, self.processor):
            given = pictured(
                given, images, self.processor, self.hf_model, add_special_tokens=add_special_tokens
            )
        found = self.tokenize(given, side=side, add_special_tokens=add_special_tokens)
        encoding = {**found, **kwargs}
        if "attention_mask" in kwargs:
            if "position_ids" not in kwargs:
                encoding.pop("position_ids", None)  # they go by the mask, which is another one
            encoding = {**self.tokenize(encoding)}
        return self._checked(encoding, side)

    def _checked(self, encoding: dict[str, Any], side: str | None) -> dict[str, Any]:
        is_generation = side is not None
        check_lengths(encoding)
        check_pictures(encoding, self.hf_model, self.processor)
        check_continuation(encoding, self.hf_model, is_generation=is_generation)
        return after_cache(encoding, is_generation=is_generation)

    def _is_block(self, ref: ModuleRef) -> bool:
        # only elements of a list can be blocks: all else is settled without looking at the model
        return ref.path.rpartition(".")[2].isdigit() and ref.path in self._block_paths

    @property
    def _block_paths(self) -> frozenset[str]:
        return facts_of(self.hf_model).get(("block paths", *self._given.values()), self._find_block_paths)

    def _find_block_paths(self) -> frozenset[str]:
        try:
            return frozenset(self.anatomy.blocks)
        except (LensError, ImportError):
            return frozenset(_longest_list(self.hf_model))


def _name(given: Any) -> str:
    if isinstance(given, (str, os.PathLike)):
        return str(os.fspath(given))
    raise ModelError(
        f"The model is a {type(given).__name__}. Give one that transformers has loaded, or a name or folder."
    )


def _loaded(kind: Any, name: str, **options: Any) -> Any:
    """A model or tokenizer by its name; what transformers says of one that is not there is long."""
    try:
        return kind.from_pretrained(name, **options)
    except (OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0].rstrip(".: ")
        raise ModelError(
            f"{kind.__name__} could not load {name!r} ({reason}). Give a name of the Hugging Face hub, "
            "a folder that holds a causal language model with its tokenizer, or a model that is loaded."
        ) from error


def _source(name: str, **options: Any) -> str | None:
    """The call that loads a model by name again; None where an option cannot be written down."""
    # a token is a secret: whoever may load the model has one
    options = {key: value for key, value in options.items() if value is not None and key not in SECRETS}
    if not all(_is_literal(value) for value in (name, *options.values())):
        return None
    return f"lw.LanguageModel({', '.join([repr(name), *(f'{key}={options[key]!r}' for key in options)])})"


def _is_literal(value: Any) -> bool:
    """Whether a value's repr is source for it, `torch` being imported."""
    if isinstance(value, (list, tuple, dict)):
        return all(_is_literal(part) for part in (value.items() if isinstance(value, dict) else value))
    return isinstance(value, (str, int, float, torch.dtype))


def _longest_list(hf_model: nn.Module) -> list[str]:
    """The longest module list that is in no other: its elements pass for blocks if all else fails."""
    lists = {path: module for path, module in hf_model.named_modules() if isinstance(module, nn.ModuleList)}
    lengths = {
        path: len(module)
        for path, module in lists.items()
        if not any(path.startswith(f"{other}.") for other in lists)
    }
    longest = max(lengths, key=lengths.__getitem__, default="")
    return [f"{longest}.{index}" for index in range(lengths.get(longest, 0))]
