"""Going on from a cache, and the lengths of what goes with each token.

transformers extends a mask that is too short by zeros and cuts one that is too long, and some models forget
what is in a cache when they are given several tokens at once; neither says a word.
"""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

from lenswidget.errors import PromptError
from lenswidget.models.facts import facts_of
from lenswidget.models.hf_model import device_of, inference, logits_of, takes
from lenswidget.tolerances import CONTINUATION, largest, within

# Inputs with a value for each token, under the inputs that hold the tokens; the first of these is looked at.
_PER_TOKEN = {
    ("decoder_input_ids", "decoder_inputs_embeds"): ("decoder_attention_mask", "decoder_position_ids"),
    ("input_ids", "inputs_embeds"): ("attention_mask", "position_ids", "token_type_ids", "mm_token_type_ids"),
}
_MASKS = {"attention_mask", "decoder_attention_mask"}
_CACHES = ("past_key_values", "cache_params")
# How many tokens are cached, and how many follow at once, where a model's cache is tried.
_TRIED_PREFIX, _TRIED_REST = 5, 3
_DEPTH = 4


def check_lengths(encoding: Mapping[str, Any]) -> None:
    """Refuse masks, positions and token types that do not fit the tokens that they go with.

    A mask may cover the new tokens alone or those in a cache too.

    Raises:
        PromptError: says which, and both lengths.
    """
    for holders, names in _PER_TOKEN.items():
        tokens = next((found for name in holders if (found := encoding.get(name)) is not None), None)
        if not isinstance(tokens, Tensor) or tokens.ndim < 2:
            continue
        n_rows, n_tokens = tokens.shape[:2]
        for name in names:
            value = encoding.get(name)
            if not isinstance(value, Tensor):
                continue
            is_mask = name in _MASKS
            # a mask of four axes has one for the tokens that look and one for those that are looked at
            found = value.shape[-2] if is_mask and value.ndim == 4 else value.shape[-1]
            allowed = _mask_lengths(encoding, n_tokens) if is_mask and value.ndim == 2 else {n_tokens}
            if found not in allowed:
                cached = "".join(f" or, with those in the cache, {n}" for n in sorted(allowed - {n_tokens}))
                raise PromptError(
                    f"The {name} is for {found} tokens, but the prompt has {n_tokens}{cached}. Give one "
                    "value for each token, or leave it out."
                )
            if is_mask and value.ndim == 2 and len(value) != n_rows:
                raise PromptError(
                    f"The {name} has {len(value)} rows, but there are {n_rows} prompts. Give a row for each."
                )


def _mask_lengths(encoding: Mapping[str, Any], n_tokens: int) -> set[int]:
    """How long a mask `[batch, n]` may be."""
    cache = _cache(encoding)
    room = cache.get_max_cache_shape() if hasattr(cache, "get_max_cache_shape") else None
    # a cache of fixed size takes a mask of that size
    fixed = {room} if isinstance(room, int) and room >= n_tokens else set[int]()
    return {n_tokens, n_tokens + n_cached(cache)} | fixed


def _cache(encoding: Mapping[str, Any]) -> Any:
    return next((found for name in _CACHES if (found := encoding.get(name)) is not None), None)


def n_cached(cache: Any) -> int:
    """How many positions a cache holds; 0 where it does not say."""
    if hasattr(cache, "get_seq_length"):
        with suppress(ValueError):  # a cache of states alone, as Mamba's, refuses to count
            return int(cache.get_seq_length())
        return 0
    return int(cache[0][0].shape[-2]) if isinstance(cache, tuple) and cache else 0


def after_cache(encoding: dict[str, Any], *, is_generation: bool = False) -> dict[str, Any]:
    """An encoding whose mask covers what its `past_key_values` hold, as `generate` would make it.

    A mask of the new tokens alone would hide most of the prefix.

    Args:
        is_generation: more tokens than the cache holds are the whole text, as `generate` takes it.
    """
    n_past, mask = n_cached(encoding.get("past_key_values")), encoding.get("attention_mask")
    given = encoding.get("input_ids", encoding.get("inputs_embeds"))
    if not n_past or not isinstance(mask, Tensor) or given is None or mask.shape[1] != given.shape[1]:
        return encoding
    if is_generation and given.shape[1] > n_past:
        return encoding
    past = torch.ones(mask.shape[0], n_past, dtype=mask.dtype, device=mask.device)
    return {**encoding, "attention_mask": torch.cat([past, mask], dim=1)}


def check_continuation(encoding: Mapping[str, Any], hf_model: nn.Module, *, is_generation: bool) -> None:
    """Refuse to go on from a cache in a way in which this model forgets what is in it.

    Args:
        is_generation: as for `after_cache`.
    Raises:
        PromptError: the model goes on by single tokens only, or not at all.
    """
    cache = _cache(encoding)
    given = encoding.get("input_ids", encoding.get("inputs_embeds"))
    if cache is None or not isinstance(given, Tensor) or not holds_text(cache):
        return
    name, n_new, n_past = type(hf_model).__name__, given.shape[1], n_cached(cache)
    if is_generation and not n_past:
        raise PromptError(
            f"Asked to generate after a cache, but the one of {name} does not say how many tokens it holds, "
            "and generate would read the whole text once more. Leave the cache out."
        )
    n_new -= n_past if is_generation and n_new > n_past else 0
    found = _goes_on_by(hf_model, has_positions="position_ids" in encoding)
    if found is None or found > 1 or (found == 1 and n_new == 1):
        return
    several = "" if found == 0 else "one token at a time, or "
    raise PromptError(
        f"Asked to go on from a cache with {n_new} token{'s' * (n_new > 1)}, but {name} then gives other "
        f"logits than for the whole text: it forgets what is in the cache. Give {several}the whole text "
        "without a cache."
    )


def holds_text(cache: Any) -> bool:
    """Whether a cache has been filled: it counts tokens, or has a number in one of its states."""
    return bool(n_cached(cache)) or any(
        bool(leaf.detach().any()) for leaf in _states(cache, 0) if leaf.numel() and not leaf.is_meta
    )


def _states(value: Any, depth: int) -> Iterator[Tensor]:
    """The floating tensors in a cache, whatever it is built of."""
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield value
        return
    inner: Any = value if isinstance(value, (list, tuple)) else ()
    if isinstance(value, Mapping):
        inner = value.values()
    elif hasattr(value, "__dict__"):
        inner = vars(value).values()
    # a cache holds layers, which hold states, which may lie in lists or by name; none is deeper
    for item in inner if depth < _DEPTH else ():
        yield from _states(item, depth + 1)


def _goes_on_by(hf_model: nn.Module, *, has_positions: bool) -> int | None:
    """How many tokens at once the model goes on with as if the cached ones stood there: several, one, none.

    Tried once on a few tokens, against the whole text. None where the model could not be tried.
    """
    key = ("goes on from a cache by", has_positions)
    return facts_of(hf_model).get(key, lambda: _tried(hf_model, has_positions))


def _tried(hf_model: nn.Module, has_positions: bool) -> int | None:
    ids = torch.arange(3, 3 + _TRIED_PREFIX + _TRIED_REST, device=device_of(hf_model))[None]
    try:
        with inference(hf_model):
            whole = logits_of(hf_model(input_ids=ids))[0, _TRIED_PREFIX:].float()
            alone = logits_of(hf_model(input_ids=ids[:, _TRIED_PREFIX:]))[0].float()
            several = _continued(hf_model, ids, _TRIED_REST, has_positions)
            # beside what forgetting the prefix altogether does, rounding is small and forgetting is not
            size = largest(alone - whole)
            if several is not None and within(several, whole, CONTINUATION, size):
                return _TRIED_REST
            single = _continued(hf_model, ids, 1, has_positions)
            if several is None or single is None:
                return None
            return int(within(single, whole, CONTINUATION, size))
    except Exception:  # a model may need more than ids: what it does with a cache is then not known
        return None


def _continued(hf_model: nn.Module, ids: Tensor, step: int, has_positions: bool) -> Tensor | None:
    """The logits `[rest, d_vocab]` of the last tokens, given by so many from a cache; None without one."""
    options: dict[str, Any] = {"use_cache": True} if takes(hf_model, "use_cache") else {}
    out = hf_model(input_ids=ids[:, :_TRIED_PREFIX], **options)
    cache = {name: found for name in _CACHES if (found := getattr(out, name, None)) is not None}
    if not cache:
        return None
    rows: list[Tensor] = []
    for at in range(_TRIED_PREFIX, ids.shape[1], step):
        positions = torch.arange(at, at + step, device=ids.device)[None]
        given = {**cache, **options, **({"position_ids": positions} if has_positions else {})}
        rows.append(logits_of(hf_model(input_ids=ids[:, at : at + step], **given))[0].float())
    return torch.cat(rows)
