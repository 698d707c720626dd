"""Pictures in a prompt: encoded by the model's processor, checked against their placeholders, and as bands.

Which ids stand for a picture comes from the model's configuration and its processor. transformers reads a
placeholder without a picture as a plain token and says nothing.
"""

import re
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from lenswidget.errors import PromptError
from lenswidget.models.bands import Band
from lenswidget.models.caches import holds_text
from lenswidget.models.patches import patch_grid
from lenswidget.models.prompts import is_chat

# What a configuration and a processor call the ids that stand for pictures, and for film and sound.
_PLACEHOLDER = re.compile(r"(image|video|audio)_token_(id|ids|index)")
# The usual way to write a picture; a processor may have another.
WRITTEN = "<image>"


def placeholder_ids(hf_model: nn.Module, processor: Any = None) -> dict[int, str]:
    """The ids that stand for a picture ("image"), a film ("video") or sound ("audio"), with their kinds."""
    to_dict = getattr(getattr(hf_model, "config", None), "to_dict", dict)
    fields: dict[str, Any] = to_dict()
    found = _kinds(fields)
    if not found and processor is not None:
        # second: a processor may call the token that opens a picture by this name
        names = [name for name in dir(processor) if _PLACEHOLDER.fullmatch(name)]
        found = _kinds({name: getattr(processor, name, None) for name in names})
    return found


def _kinds(fields: Mapping[str, Any]) -> dict[int, str]:
    found: dict[int, str] = {}
    for name, value in fields.items():
        kind = _PLACEHOLDER.fullmatch(name)
        for each in value if isinstance(value, (list, tuple)) else [value]:
            if kind and isinstance(each, int) and not isinstance(each, bool) and each >= 0:
                found[each] = kind[1]
    return found


def check_pictures(encoding: Mapping[str, Any], hf_model: nn.Module, processor: Any = None) -> None:
    """Refuse placeholders without what they stand for, and pictures without a place in the text.

    Raises:
        PromptError: says how many there are of which.
    """
    ids = encoding.get("input_ids")
    if not isinstance(ids, Tensor):
        return
    known = placeholder_ids(hf_model, processor)
    if not known:
        return
    listed = torch.tensor(sorted(known), device=ids.device)
    is_placeholder = torch.isin(ids, listed)
    n = int(is_placeholder.sum())
    has_media = any(_is_media(name, value) for name, value in encoding.items())
    cache = encoding.get("past_key_values")
    if n and not has_media and not (cache is not None and holds_text(cache)):
        first = int(ids[is_placeholder][0])
        raise PromptError(
            f"The prompt has {n} placeholder{'s' * (n > 1)} for a{'n' * (known[first] != 'video')} "
            f"{known[first]} (token {first}) and nothing to put there, so the model would read them as plain "
            "tokens. Give images=[...], or the encoding that the processor made with them."
        )
    if has_media and not n and "image" in known.values() and "pixel_values" in encoding:
        raise PromptError(
            "The prompt has pictures (pixel_values) but no placeholder where they go. Write one into the "
            "text for each, or leave the pictures out."
        )


_OF_TEXT = re.compile(
    r"(decoder_)?(input_ids|inputs_embeds)|\w*mask|\w*position_ids|\w*token_type_ids|labels"
)


def _is_media(name: str, value: Any) -> bool:
    """Whether an input is pictures or sound, or their features: numbers that are not of the text."""
    if _OF_TEXT.fullmatch(name) or name == "past_key_values":
        return False
    if isinstance(value, Tensor):
        return value.is_floating_point() or value.dtype is torch.uint8
    return isinstance(value, (Mapping, list, tuple)) and bool(value)


def needs_processor(prompt: Any, images: Any, tokenizer: Any, processor: Any) -> bool:
    """Whether a prompt is one for the processor: it has pictures, or is a chat and has no other template."""
    if images is not None:
        return True
    if not is_chat(prompt):
        return False
    is_templated = bool(getattr(tokenizer, "chat_template", None))
    return _has_pictures(prompt) or (not is_templated and bool(getattr(processor, "chat_template", None)))


def _has_pictures(messages: Any) -> bool:
    """Whether a chat's contents hold anything besides text."""
    contents = [message.get("content") for message in messages]
    parts = [part for content in contents if isinstance(content, (list, tuple)) for part in content]
    return any(isinstance(part, Mapping) and part.get("type", "text") != "text" for part in parts)


def pictured(
    prompt: Any,
    images: Any,
    processor: Any,
    hf_model: nn.Module,
    *,
    add_special_tokens: bool = True,
    **chat: Any,
) -> dict[str, Any]:
    """A prompt with pictures as the model's keyword arguments, made by its processor.

    Args:
        prompt: text with a placeholder for each picture, as the processor writes it or `<image>`; or a chat,
            whose contents have `{"type": "image"}` where a picture goes.
        images: the pictures, in order, or one; None where the chat's contents hold them.
        chat: options of the chat template.
    Raises:
        PromptError: no processor, a prompt of another kind, or one that the processor refuses.
    """
    if processor is None:
        raise PromptError(
            "Asked for pictures, but the model was loaded with a tokenizer alone. Give the processor: "
            "LanguageModel(hf_model, processor)."
        )
    listed = None if images is None else list(images) if isinstance(images, (list, tuple)) else [images]
    if is_chat(prompt):
        found = _of_chat(prompt, listed, processor, chat)
    elif chat:
        raise PromptError(f"Asked for {', '.join(chat)} with a prompt that is not a chat: leave that out.")
    elif isinstance(prompt, str):
        options = {} if add_special_tokens else {"add_special_tokens": False}
        found = _of_text(str(prompt), listed, processor, hf_model, options)
    else:
        raise PromptError(
            f"Asked for images= with a prompt that is a {type(prompt).__name__}. Give text or a chat, or the "
            "processor's own encoding without images=."
        )
    return {name: _fit(value, hf_model) for name, value in found.items()}


def _fit(value: Any, hf_model: Any) -> Any:
    """Pictures in the model's dtype, which its first convolution wants."""
    dtype = getattr(hf_model, "dtype", None)
    is_float = isinstance(value, Tensor) and value.is_floating_point()
    return value.to(dtype) if is_float and isinstance(dtype, torch.dtype) else value


def _of_chat(messages: Any, images: list[Any] | None, processor: Any, chat: Mapping[str, Any]) -> Any:
    options = {"add_generation_prompt": True, **chat}
    if images is not None:
        messages = _filled(messages, images)
    with _refusals("chat template"):
        return processor.apply_chat_template(
            list(messages), tokenize=True, return_dict=True, return_tensors="pt", **options
        )


def _filled(messages: Any, images: list[Any]) -> list[Any]:
    """The messages with the pictures put where their contents have an empty place for one."""
    left = iter(images)
    n_used = 0
    filled: list[Any] = []
    for message in messages:
        content = message.get("content")
        if not isinstance(content, (list, tuple)):
            filled.append(message)
            continue
        parts: list[Any] = []
        for part in content:
            if isinstance(part, Mapping) and part.get("type") == "image" and not set(part) - {"type"}:
                image = next(left, None)
                n_used += image is not None
                part = part if image is None else {**part, "image": image}
            parts.append(part)
        filled.append({**message, "content": parts})
    if n_used != len(images):
        raise PromptError(
            f'{len(images)} images were given, and the chat has {n_used} empty places {{"type": "image"}}. '
            "Give one for each."
        )
    return filled


def _of_text(
    text: str, images: list[Any] | None, processor: Any, hf_model: nn.Module, options: Mapping[str, Any]
) -> Any:
    """The text encoded as it is, else with `<image>` written in the processor's own way."""
    first: PromptError | None = None
    for written in dict.fromkeys([text, *(text.replace(WRITTEN, own) for own in _own_marks(processor))]):
        try:
            with _refusals("processor"):
                found = processor(text=written, images=images, return_tensors="pt", **options)
                check_pictures(found, hf_model, processor)
            return found
        except PromptError as error:
            first = first or error
    assert first is not None
    raise first


def _own_marks(processor: Any) -> list[str]:
    """How the processor may write a picture: what it calls its image tokens, those that open one first."""
    sources = (processor, getattr(processor, "tokenizer", None))
    names = ("boi_token", "start_image_token", "image_start_token", "image_token")
    found = [getattr(source, name, None) for name in names for source in sources]
    return [str(each) for each in found if each]


@contextmanager
def _refusals(what: str) -> Generator[None, None, None]:
    """Raises what a processor raises as one sentence of ours."""
    try:
        yield
    except PromptError:
        raise
    except Exception as error:  # a processor may raise whatever it likes
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise PromptError(f"The {what} refused the prompt with its pictures: {reason:.300}.") from error


def picture_bands(
    ids: Tensor, inputs: Mapping[str, Any], hf_model: nn.Module, processor: Any = None
) -> tuple[Band, ...]:
    """The columns of each picture, folded at first; each column says its patch where that is known.

    Args:
        ids: `[seq]`, of the columns.
        inputs: the model's, pictures included.
    """
    known = placeholder_ids(hf_model, processor)
    if not known:
        return ()
    spans = list(_spans(ids.tolist(), known, _breaks(processor)))
    sizes = [sum(1 for i in ids.tolist()[start:stop] if i in known) for start, stop, _ in spans]
    bands: list[Band] = []
    for place, (start, stop, kind) in enumerate(spans):
        names: Sequence[str] = ()
        if kind == "image" and stop - start == sizes[place]:
            grid = patch_grid(place, sizes, inputs, hf_model)
            names = [] if grid is None else _names(*grid)
        bands.append(Band(start, stop, "image", kind, stop - start > 1, tuple(names)))
    return tuple(bands)


def _names(n_rows: int, n_columns: int) -> list[str]:
    return [f"r{row + 1} c{column + 1}" for row in range(n_rows) for column in range(n_columns)]


def _breaks(processor: Any) -> frozenset[int]:
    """The ids that end a row of patches, where the processor puts such between them."""
    found = getattr(processor, "image_break_token_id", None)
    return frozenset([found] if isinstance(found, int) else [])


def _spans(
    ids: list[int], known: Mapping[int, str], breaks: frozenset[int]
) -> Iterator[tuple[int, int, str]]:
    """The runs of placeholders, `(start, stop, kind)`; a break inside belongs to the run."""
    kinds = [known.get(i, "break" if i in breaks else "") for i in ids]
    for at, kind in enumerate(kinds):
        is_inside = kind == "break" and 0 < at < len(kinds) - 1
        if is_inside and kinds[at - 1] and kinds[at - 1] == kinds[at + 1]:
            kinds[at] = kinds[at - 1]
    at = 0
    for kind, run in groupby(kinds):
        n = len(list(run))
        if kind and kind != "break":
            yield at, at + n, kind
        at += n
