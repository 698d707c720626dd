"""One prompt as a value: what the model takes, which tokens the columns show, and how to make it again."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from lenswidget.errors import PromptError
from lenswidget.models.bands import Band, band_to_json, bands_of_json, check_bands, spans_of
from lenswidget.models.chat_spans import chat_bands
from lenswidget.models.decoder_ids import add_decoder, start_ids
from lenswidget.models.hf_model import is_encoder_decoder, takes
from lenswidget.models.pictures import check_pictures, needs_processor, picture_bands, pictured
from lenswidget.models.prompts import chat_ids, is_chat, model_inputs, starts_twice

# Integer inputs of at most so many numbers in all are written out in code.
MOST_IN_CODE = 4096
# What token ids alone bring along.
_OF_IDS = frozenset({"input_ids", "attention_mask"})


@dataclass(frozen=True, eq=False)
class EncodedPrompt:
    """One prompt, with everything that came with it. Every forward of a run takes the same `model_inputs`.

    Attributes:
        model_inputs: the keyword arguments of the model's forward, tensors `[1, ...]` on its device.
        column_ids: `[seq]` int64 on the CPU: the token of each column of the grid. Those of the decoder in an
            encoder-decoder; without the padding that the attention mask leaves out.
        columns: `[seq]` int64: where the columns lie in the model's own sequence; None where they are all.
        text: the text that was given, where the tokenizer makes the same inputs of it again; else None.
        extras: the names of the inputs that neither the text nor the ids alone would bring along.
        options: what `encode_prompt` was told besides the prompt.
        notes: remarks for people, one sentence each.
        bands: columns that belong together: the messages of a chat, what its template puts around them.
    """

    model_inputs: Mapping[str, Any]
    column_ids: Int[Tensor, " seq"]
    columns: Int[Tensor, " seq"] | None = None
    text: str | None = None
    extras: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    notes: tuple[str, ...] = ()
    bands: tuple[Band, ...] = ()

    @property
    def seq(self) -> int:
        """How many columns the grid has."""
        return len(self.column_ids)

    @property
    def spans(self) -> dict[str, list[int]]:
        """The columns of each role of a chat, and those of its `template`: see `bands.spans_of`."""
        return spans_of(self.bands)

    @property
    def as_given(self) -> str | list[int]:
        """The text, or else the ids of the columns."""
        return self.column_ids.tolist() if self.text is None else self.text

    @property
    def code(self) -> str | None:
        """The Python value that `model.trace` makes the same inputs of; None if it cannot be written."""
        is_whole = "decoder_input_ids" not in self.model_inputs  # a trace puts no start token there
        if self.text is not None and is_whole and not self.options:
            return repr(self.text)
        if self.text is not None and is_whole and set(self.options) == {"images"}:
            return f"{self.text!r}, images=images"
        if not self.extras and is_whole and self.text is None:
            return repr(self.model_inputs["input_ids"][0].tolist())
        values = list(self.model_inputs.values())
        is_short = sum(value.numel() for value in values if isinstance(value, Tensor)) <= MOST_IN_CODE
        if not is_short or not all(isinstance(v, Tensor) and not v.is_floating_point() for v in values):
            return None
        written = ", ".join(f"{name!r}: {value.tolist()}" for name, value in self.model_inputs.items())
        return f"{{{written}}}"

    def to_state(self) -> dict[str, Any]:
        """The prompt as plain JSON values; `from_state` is the inverse."""
        if self.text is not None and "images" not in self.options:
            return {"text": self.text, **({"options": dict(self.options)} if self.options else {})}
        bands = {"bands": [band_to_json(band) for band in self.bands]} if self.bands else {}
        if not self.extras and self.text is None:
            return {"ids": self.model_inputs["input_ids"][0].tolist(), **bands}
        inputs = {name: tensor_to_json(name, value) for name, value in self.model_inputs.items()}
        return {"inputs": inputs, **bands}

    def __repr__(self) -> str:
        extras = f", with {', '.join(self.extras)}" if self.extras else ""
        return f"EncodedPrompt({self.as_given!r:.60}: {self.seq} columns{extras})"


def prompt_of_state(state: Any) -> tuple[Any, dict[str, Any]]:
    """What `to_state` wrote, as a prompt and options for `encode_prompt`.

    Raises:
        PromptError: it is anything else.
    """
    match state:
        case {"text": str(text), **rest}:
            options = rest.get("options", {})
            if isinstance(options, dict):
                return text, {str(name): value for name, value in options.items()}
        case {"ids": list(ids), **rest}:
            return ids, _bands_option(rest)
        case {"inputs": dict(inputs), **rest}:
            return {str(name): tensor_of_json(value) for name, value in inputs.items()}, _bands_option(rest)
        case _:
            pass
    raise PromptError(f"The state's recipe is {state!r:.80}. Pass w.state of another widget as it is.")


def _bands_option(state: Mapping[str, Any]) -> dict[str, Any]:
    return {"bands": bands_of_json(state["bands"])} if state.get("bands") else {}


def encode_prompt(
    prompt: Any,
    tokenizer: Any,
    hf_model: nn.Module,
    device: torch.device,
    *,
    decoder: Any = None,
    add_special_tokens: bool = True,
    images: Any = None,
    processor: Any = None,
    bands: Sequence[Band] = (),
    **chat: Any,
) -> EncodedPrompt:
    """One prompt of any kind that `model_inputs` takes, ready to be run.

    Args:
        prompt: a string, token ids, an encoding of one prompt, or a chat: a list of messages with `role` and
            `content`, rendered by the tokenizer's own template.
        decoder: for an encoder-decoder, what the decoder has so far: text or ids (its start token is put
            before them where it is missing), or how many tokens to continue greedily; None is the start
            token alone.
        add_special_tokens: whether the tokenizer adds its own, a BOS say, to text.
        images: pictures, in the order of their placeholders in the text, or of their places in the chat.
        processor: of a model that takes pictures.
        bands: columns that belong together, of ids or an encoding; those of a chat are found.
        chat: options of the chat template, `add_generation_prompt` and `enable_thinking` say.
    Raises:
        PromptError: a prompt that the model cannot take, several prompts, or embeddings.
    """
    if isinstance(prompt, EncodedPrompt):
        return prompt
    notes: list[str] = []
    text = str(prompt) if isinstance(prompt, str) else None  # numpy's text is not plain
    messages = prompt if is_chat(prompt) else None
    is_for_processor = needs_processor(prompt, images, tokenizer, processor)
    if is_for_processor:
        prompt = pictured(prompt, images, processor, hf_model, add_special_tokens=add_special_tokens, **chat)
    elif is_chat(prompt):
        prompt = chat_ids(prompt, tokenizer, **chat)
    elif chat:
        raise PromptError(f"Asked for {', '.join(chat)} with a prompt that is not a chat: leave that out.")
    elif text is not None and starts_twice(text, tokenizer) and add_special_tokens:
        notes.append(f"The text begins with {tokenizer.bos_token}, which the tokenizer adds: one is used.")
    inputs = dict(model_inputs(prompt, tokenizer, hf_model, device, add_special_tokens=add_special_tokens))
    inputs.pop("labels", None)  # of a loss, which no readout shows; some processors add them
    _check_one(inputs)
    check_pictures(inputs, hf_model, processor)
    if "position_ids" in inputs and "input_ids" in inputs and takes(hf_model, "attention_mask"):
        # without a mask and without a cache, transformers takes jumps in the positions for prompts that were
        # packed into one row, and keeps them apart; its own forward, which fills a cache, does not
        inputs.setdefault("attention_mask", torch.ones_like(inputs["input_ids"]))
    if is_encoder_decoder(hf_model):
        add_decoder(inputs, decoder, tokenizer, hf_model, device)
    elif decoder is not None:
        raise PromptError(
            f"Asked for decoder={decoder!r:.40}, but {type(hf_model).__name__} has no decoder beside an "
            "encoder: leave it out."
        )
    columns = _columns(inputs, hf_model)
    ids = column_source(inputs)[0].cpu().long()
    with_images = images is not None and text is not None
    extras = () if with_images else _extras(inputs, text, tokenizer, hf_model, device, add_special_tokens)
    if text is not None and "input_ids" in extras:
        text = None  # a tokenizer that draws lots made other ids of it
        extras = _extras(inputs, text, tokenizer, hf_model, device, add_special_tokens)
    if text is not None and decoder is not None:
        text = None  # text alone would not bring the decoder's ids again
    options: dict[str, Any] = {} if add_special_tokens else {"add_special_tokens": False}
    if with_images:
        options["images"] = images
    shown = ids if columns is None else ids[columns]
    pictures = () if bands else picture_bands(shown, inputs, hf_model, processor)
    if messages is not None and not is_encoder_decoder(hf_model):  # whose columns are not the chat's
        renderer = processor if is_for_processor else tokenizer
        bands, remarks = chat_bands(messages, shown.tolist(), tokenizer, renderer=renderer, **chat)
        notes += remarks
    return EncodedPrompt(
        MappingProxyType(inputs),
        shown,
        columns,
        text,
        extras,
        MappingProxyType(options),
        tuple(notes),
        check_bands((*bands, *pictures), len(shown)),
    )


def column_source(inputs: Mapping[str, Any]) -> Tensor:
    """The ids `[1, seq]` that the columns show: the decoder's where there are such."""
    return inputs["decoder_input_ids"] if "decoder_input_ids" in inputs else inputs["input_ids"]


def _check_one(inputs: Mapping[str, Any]) -> None:
    ids = inputs.get("decoder_input_ids", inputs.get("input_ids"))
    if ids is None and "input_features" in inputs:
        return
    if ids is None or ids.shape[0] != 1:
        found = "embeddings" if ids is None else f"{ids.shape[0]} prompts"
        raise PromptError(f"Asked to run {found} for a readout. Give one prompt, as text or token ids.")
    if "past_key_values" in inputs:
        raise PromptError(
            "Asked to run a prompt with past_key_values for a readout, which runs a prompt more than once. "
            "Give the whole prompt, or use model.trace(prompt, past_key_values=...)."
        )


def _columns(inputs: Mapping[str, Any], hf_model: nn.Module) -> Tensor | None:
    """The positions that the mask keeps, `[seq]`; None where it keeps all."""
    name = "decoder_attention_mask" if "decoder_input_ids" in inputs else "attention_mask"
    mask = inputs.get(name)
    if not isinstance(mask, Tensor) or mask.ndim != 2 or mask.shape != column_source(inputs).shape:
        return None
    kept = mask[0].bool().cpu()
    if bool(kept.all()):
        return None
    if not bool(kept.any()):
        raise PromptError(f"The prompt's {name} leaves every token out. Give it a 1 for each token.")
    return kept.nonzero().squeeze(1)


def _extras(
    inputs: Mapping[str, Any],
    text: str | None,
    tokenizer: Any,
    hf_model: nn.Module,
    device: torch.device,
    add_special_tokens: bool,
) -> tuple[str, ...]:
    """The names of the inputs that text, or ids, would not give again by themselves."""
    if text is not None:
        alone: Mapping[str, Any] = model_inputs(
            text, tokenizer, hf_model, device, add_special_tokens=add_special_tokens
        )
    elif "input_ids" not in inputs:
        return tuple(inputs)
    elif inputs.keys() <= _OF_IDS and bool(inputs.get("attention_mask", torch.ones(1)).bool().all()):
        return ()
    else:
        alone = model_inputs(inputs["input_ids"], tokenizer, hf_model, device)
    start = start_ids(hf_model, device) if is_encoder_decoder(hf_model) else None
    alone = alone if start is None else {"decoder_input_ids": start, **alone}
    return tuple(name for name, value in inputs.items() if not _is_same(value, alone.get(name)))


def _is_same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.shape == other.shape and bool(torch.equal(one, other.to(one.dtype)))
    return one is other


def tensor_to_json(name: str, value: Any) -> dict[str, Any]:
    """A tensor as JSON, bit for bit; `tensor_of_json` is the inverse.

    Args:
        name: of what is written, for the message.
    Raises:
        PromptError: it is no tensor.
    """
    if not isinstance(value, Tensor):
        raise PromptError(f"The prompt's {name} is a {type(value).__name__}, which a state cannot hold.")
    bits = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    dtype = str(value.dtype).removeprefix("torch.")
    return {"dtype": dtype, "shape": list(value.shape), "base64": base64.b64encode(bits).decode()}


def tensor_of_json(value: Any) -> Tensor:
    """The tensor that `tensor_to_json` wrote, on the CPU.

    Raises:
        PromptError: it is anything else.
    """
    try:
        bits = torch.frombuffer(bytearray(base64.b64decode(value["base64"])), dtype=torch.uint8)
        return bits.view(getattr(torch, value["dtype"])).reshape(value["shape"]).clone()
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError):
        raise PromptError(
            f"The state's recipe holds {value!r:.60} for a tensor. Pass w.state of another widget as it is."
        ) from None
