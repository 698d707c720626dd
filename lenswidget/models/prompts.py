"""Prompts of every kind, as the keyword arguments that a causal LM takes."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from transformers import BatchEncoding

from lenswidget.checks import check_text
from lenswidget.errors import PromptError
from lenswidget.models.caches import check_lengths
from lenswidget.models.facts import facts_of
from lenswidget.models.hf_model import inference, takes, text_config
from lenswidget.tolerances import PADDING, largest, within

# Text, token ids, an encoding, embeddings or a chat; several make a batch where that is taken.
Prompt: TypeAlias = str | Sequence[Any] | Mapping[str, Any] | Tensor | npt.NDArray[Any]
_KINDS = "a string, a list of strings, token ids, an encoding, or embeddings [batch, seq, d_model]"


def model_inputs(
    prompt: Any,
    tokenizer: Any,
    hf_model: nn.Module,
    device: Any,
    *,
    side: str | None = None,
    add_special_tokens: bool = True,
) -> BatchEncoding:
    """A prompt, or several, as the model's keyword arguments, on its device.

    Args:
        prompt: a string; a list of strings; token ids, as a list, a list of lists, or a tensor, numpy array
            or series, `[seq]` or `[batch, seq]`; an encoding (a mapping with `input_ids`, of tensors, arrays
            or lists); or embeddings `[batch, seq, d_model]`. Prompts of different length make one batch,
            padded on `side`.
        tokenizer: the model's own; needed for strings only.
        hf_model: the model, asked for what its forward takes and how long a prompt may be.
        device: where the tensors go.
        side: "left" or "right"; the tokenizer's own unless given.
        add_special_tokens: whether the tokenizer adds its own to strings. A BOS that a string begins with and
            that the tokenizer adds as well is put there once.
    Returns:
        `input_ids [batch, seq]` and `attention_mask [batch, seq]`, or `inputs_embeds [batch, seq, d_model]`;
        with padding, `position_ids [batch, seq]` as well, where the model takes them: so every row is as
        it would be alone.
    Raises:
        PromptError: an empty prompt, one longer than the model's context, ids outside the vocabulary, a
            string without a tokenizer, something else altogether, or another side.
    """
    if side not in (None, "left", "right"):
        raise PromptError(f'Asked to pad on the {side!r} side. Give side="left" or side="right".')
    prompt = _as_tensor(prompt)
    if isinstance(prompt, Mapping):
        encoding = {str(key): _as_batch(str(key), value) for key, value in prompt.items()}
    elif isinstance(prompt, Tensor) and prompt.is_floating_point():
        if prompt.ndim not in (2, 3):
            raise _refusal(prompt)
        encoding = {"inputs_embeds": prompt if prompt.ndim == 3 else prompt[None]}
    else:
        rows = _rows(prompt, lambda text: _tokens(text, tokenizer, hf_model, add_special_tokens))
        side = side or getattr(tokenizer, "padding_side", "right")
        encoding = _padded(rows, _pad_id(tokenizer, hf_model), left=side == "left")
    encoding = {
        key: value.to(device) if isinstance(value, Tensor) else value for key, value in encoding.items()
    }
    _check(encoding, hf_model)
    check_lengths(encoding)
    _add_positions(encoding, hf_model)
    return BatchEncoding(encoding)


Row = dict[str, list[int]]  # what one prompt gives per token: "input_ids", and what else its tokenizer says


def _rows(prompt: Any, tokens: Callable[[str], Row]) -> list[Row]:
    if isinstance(prompt, str):
        return [tokens(prompt)]
    if isinstance(prompt, Tensor):
        if prompt.ndim not in (1, 2):
            raise _refusal(prompt)
        return [{"input_ids": row} for row in (prompt if prompt.ndim == 2 else prompt[None]).tolist()]
    if not isinstance(prompt, Sequence) or isinstance(prompt, bytes) or not prompt:
        raise _refusal(prompt)
    items: list[Any] = list(prompt)
    if all(isinstance(item, str) for item in items):
        return [tokens(item) for item in items]
    if all(_is_id(item) for item in items):
        return [{"input_ids": [int(item) for item in items]}]
    if all(isinstance(item, (Sequence, Tensor)) and not isinstance(item, str) for item in items):
        rows = [item.tolist() if isinstance(item, Tensor) else list(item) for item in items]
        if all(_is_id(token) for row in rows for token in row):
            return [{"input_ids": [int(token) for token in row]} for row in rows]
    raise _refusal(prompt)


def _as_tensor(value: Any) -> Any:
    """Numbers that a numpy array or a pandas series holds, as a tensor; anything else as it is."""
    array = value.to_numpy() if hasattr(value, "to_numpy") else value
    if isinstance(array, np.ndarray) and array.dtype.kind in "iuf":
        return torch.from_numpy(np.ascontiguousarray(array))
    if isinstance(array, np.ndarray) and array.dtype.kind in "UO":
        return array.tolist()
    return str(value) if isinstance(value, np.str_) else value


def _as_batch(name: str, value: Any) -> Any:
    """An encoding's lists, arrays and rows as one tensor `[batch, seq]`; other values stay."""
    value = _as_tensor(value)
    if isinstance(value, Tensor) and value.ndim == 1:
        return value[None]
    if not isinstance(value, list):
        return value
    try:
        tensor = torch.tensor(value, device="cpu")
    except (ValueError, TypeError):
        raise PromptError(
            f"The encoding's {name} cannot be made into one tensor. Pad its rows to one length."
        ) from None
    return tensor[None] if tensor.ndim == 1 else tensor


def _is_id(item: Any) -> bool:
    return (
        hasattr(item, "__index__")
        and not isinstance(item, bool)
        and not (isinstance(item, Tensor) and item.ndim)
    )


def _check_tokenizer(tokenizer: Any) -> None:
    if tokenizer is None:
        raise PromptError(
            "The prompt is a string, but the model was loaded without a tokenizer. "
            "Give token ids, or LanguageModel(hf_model, tokenizer)."
        )


def text_ids(text: str, tokenizer: Any) -> list[int]:
    """The ids of a text without the tokenizer's special tokens.

    Raises:
        PromptError: there is no tokenizer.
    """
    _check_tokenizer(tokenizer)
    check_text(text, "The text", PromptError)
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def starts_twice(text: str, tokenizer: Any) -> bool:
    """Whether a text begins with the BOS that the tokenizer would put before it."""
    check_text(text, "The prompt", PromptError)
    bos = getattr(tokenizer, "bos_token", None)
    if not isinstance(bos, str) or not bos or not text.startswith(bos):
        return False
    ids = list(tokenizer(text)["input_ids"])
    return len(ids) > 1 and ids[0] == ids[1] == tokenizer.bos_token_id


def is_chat(prompt: Any) -> bool:
    """Whether a prompt is a list of messages, each a mapping with a `role`."""
    is_list = isinstance(prompt, Sequence) and not isinstance(prompt, (str, bytes)) and len(prompt) > 0
    return is_list and all(isinstance(message, Mapping) and "role" in message for message in prompt)


def chat_ids(messages: Any, tokenizer: Any, **options: Any) -> list[int]:
    """The ids of a chat, rendered by the tokenizer's own template, which puts every special token itself.

    Raises:
        PromptError: no tokenizer, one without a template, or messages that the template refuses.
    """
    _check_tokenizer(tokenizer)
    if not getattr(tokenizer, "chat_template", None):
        raise PromptError("The prompt is a chat, but the tokenizer has no chat template. Give text or ids.")
    options = {"add_generation_prompt": True, **options}
    for message in messages:
        for name, value in message.items():
            if isinstance(value, str):
                check_text(value, f"The {name} of a message", PromptError)
    try:
        found = tokenizer.apply_chat_template(list(messages), tokenize=True, return_dict=True, **options)
    except Exception as error:  # a template may raise whatever it likes
        reason = str(error).strip().partition("\n")[0].rstrip(".")
        raise PromptError(f"The tokenizer's chat template refused the messages: {reason}.") from error
    return list(found["input_ids"])


def _tokens(text: str, tokenizer: Any, hf_model: nn.Module, add_special_tokens: bool) -> Row:
    _check_tokenizer(tokenizer)
    check_text(text, "The prompt", PromptError)
    encoding = tokenizer(text) if add_special_tokens else tokenizer(text, add_special_tokens=False)
    skipped = int(add_special_tokens and starts_twice(text, tokenizer))
    # the mask is made here; a tokenizer may say more, as token types, and the model may take it
    names = [
        name
        for name in encoding
        if name == "input_ids" or (name != "attention_mask" and takes(hf_model, name))
    ]
    return {name: list(encoding[name])[skipped:] for name in names}


def _refusal(prompt: Any) -> PromptError:
    if isinstance(prompt, Sequence) and not prompt:
        return PromptError("The prompt is empty: it holds no token. Give at least one.")
    found = f"a tensor {list(prompt.shape)}" if isinstance(prompt, Tensor) else f"a {type(prompt).__name__}"
    return PromptError(f"The prompt is {found}. Give {_KINDS}.")


def _pad_id(tokenizer: Any, hf_model: Any) -> int:
    config = getattr(hf_model, "config", None)
    for source in (tokenizer, config):
        for name in ("pad_token_id", "eos_token_id"):
            value = getattr(source, name, None)
            if isinstance(value, int) and value >= 0:
                return value
    return 0  # padding is masked: which id it has does not matter


def _padded(rows: list[Row], pad_id: int, *, left: bool) -> dict[str, Tensor]:
    if not all(row["input_ids"] for row in rows):
        raise PromptError("The prompt is empty: it holds no token. Give at least one.")
    width = max(len(row["input_ids"]) for row in rows)
    rows = [{**row, "attention_mask": [1] * len(row["input_ids"])} for row in rows]

    def fill(name: str, values: list[int]) -> list[int]:
        padding = [pad_id if name == "input_ids" else 0] * (width - len(values))
        return padding + values if left else values + padding

    return {name: torch.tensor([fill(name, row[name]) for row in rows], device="cpu") for name in rows[0]}


def _check(encoding: dict[str, Any], hf_model: Any) -> None:
    ids = encoding.get("input_ids")
    given = ids if ids is not None else encoding.get("inputs_embeds")
    if given is None and isinstance(encoding.get("input_features"), Tensor):
        return  # sound: the encoder's, which has no token ids
    if not isinstance(given, Tensor):
        raise PromptError(
            f"The encoding holds {', '.join(encoding) or 'nothing'}. It needs input_ids or inputs_embeds."
        )
    if given.ndim < 2 or given.shape[0] == 0 or given.shape[1] == 0:
        raise PromptError(
            f"The prompt is empty: it has the shape {list(given.shape)}. Give at least one token."
        )
    if ids is not None and (ids.is_floating_point() or ids.dtype is torch.bool):
        raise PromptError(f"The prompt's input_ids are {ids.dtype}. Give integers.")
    config = text_config(hf_model)
    longest = getattr(config, "max_position_embeddings", None)
    if isinstance(longest, int) and 0 < longest < given.shape[1]:
        raise PromptError(
            f"The prompt has {given.shape[1]} tokens, but the model takes {longest}. Shorten it."
        )
    d_vocab = getattr(config, "vocab_size", None)
    if ids is not None and isinstance(d_vocab, int):
        least, most = int(ids.min()), int(ids.max())
        if least < 0 or most >= d_vocab:
            wrong = least if least < 0 else most
            raise PromptError(
                f"The prompt has token id {wrong}, but ids run from 0 to {d_vocab - 1}. Check the tokenizer."
            )


def _add_positions(encoding: dict[str, Any], hf_model: nn.Module) -> None:
    """Where padding comes first, a token's position is its place among the tokens, not in the row."""
    mask = encoding.get("attention_mask")
    is_given = "position_ids" in encoding or not {"input_ids", "inputs_embeds"} & encoding.keys()
    if not isinstance(mask, Tensor) or mask.ndim != 2 or is_given or bool(mask[:, 0].all()):
        return
    if takes(hf_model, "position_ids"):
        given = encoding["input_ids"] if "input_ids" in encoding else encoding["inputs_embeds"]
        # with a cache, the mask covers what is in it too
        encoding["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)[:, -given.shape[1] :]
    elif not _bears_left_padding(hf_model, mask.device):
        raise PromptError(
            f"The batch is padded on the left, and {type(hf_model).__name__} gives other logits with it than "
            'without. Pad it on the right: model.tokenize(prompts, side="right").'
        )


def _bears_left_padding(hf_model: nn.Module, device: Any) -> bool:
    """Whether a model that is not told positions finds them in the mask: tried once, on two tokens."""

    def tried() -> bool:
        ids, mask = torch.tensor([[0, 1, 2]], device=device), torch.tensor([[0, 1, 1]], device=device)
        with inference(hf_model):
            padded = hf_model(input_ids=ids, attention_mask=mask).logits[0, 1:].float()
            alone = hf_model(input_ids=ids[:, 1:], attention_mask=mask[:, 1:]).logits[0].float()
        return within(padded, alone, PADDING, largest(alone))

    return facts_of(hf_model).get("bears left padding", tried)
