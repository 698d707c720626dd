"""A forward in two parts: the keys and values of a prefix are kept, and the rest is run after them.

Whether a model gives the same in two parts as in one is tried once on a few tokens, and not concluded from
its name. What cannot be seen on a few tokens (rotary embeddings that turn with the length of the text) is
asked of the configuration.
"""

import inspect
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from lenswidget.models.facts import facts_of
from lenswidget.models.hf_model import (
    device_of,
    inference,
    is_encoder_decoder,
    logits_of,
    takes,
    text_config,
)
from lenswidget.models.split import largest_of_all
from lenswidget.tolerances import SPLIT_FORWARD, spacing

Pair = tuple[Tensor, Tensor] | None

# The text that is tried, and how many of its tokens are kept.
_TRIED, _TRIED_PREFIX = 10, 6
# Layers of a cache that hold one key and one value of each token, and nothing else.
_PLAIN_LAYERS = frozenset({"DynamicLayer", "DynamicSlidingWindowLayer"})
# Rotary embeddings whose angles do not depend on how long the text is.
_FIXED_ROPES = frozenset({"default", "linear", "llama3", "yarn", "proportional"})


@dataclass(frozen=True, eq=False)
class KeyPart:
    """Keys and values of neighbouring columns of one text.

    Attributes:
        pairs: of each layer of the cache, `[1, heads, columns, d_head]` twice; None for a layer that has none
            of its own, because it reads another's.
        n_columns: how many columns.
    """

    pairs: tuple[Pair, ...]
    n_columns: int

    @property
    def nbytes(self) -> int:
        """Bytes of all keys and values."""
        return sum(tensor.nbytes for pair in self.pairs if pair for tensor in pair)

    def first(self, n: int) -> "KeyPart":
        """The first `n` columns; they share memory unless that would hold on to much more than they need."""
        if n >= self.n_columns:
            return self
        is_few = 2 * n < self.n_columns
        pairs = tuple(pair and _pair(pair[0][..., :n, :], pair[1][..., :n, :], is_few) for pair in self.pairs)
        return KeyPart(pairs, n)

    def after(self, n: int) -> "KeyPart":
        """The columns after the first `n`, in memory of their own."""
        pairs = tuple(pair and _pair(pair[0][..., n:, :], pair[1][..., n:, :], True) for pair in self.pairs)
        return KeyPart(pairs, self.n_columns - n)


def _pair(keys: Tensor, values: Tensor, to_copy: bool) -> tuple[Tensor, Tensor]:
    return (keys.clone(), values.clone()) if to_copy else (keys, values)


def first_columns(parts: Sequence[KeyPart], n: int) -> tuple[KeyPart, ...]:
    """Of parts that follow each other, the first `n` columns."""
    found: list[KeyPart] = []
    for part in parts:
        if n > 0:
            found.append(part.first(n))
        n -= part.n_columns
    return tuple(found)


def keys_in(cache: Any, start: int = 0) -> KeyPart | None:
    """What a cache holds of the columns from `start` on, in memory of its own; None if it is not plain."""
    if type(cache) is not DynamicCache:
        return None
    layers = getattr(cache, "layers", None)
    if layers is not None and not all(type(layer).__name__ in _PLAIN_LAYERS for layer in layers):
        return None
    pairs = list(_pairs(cache))
    n_held = {pair[0].shape[-2] for pair in pairs if pair}
    # a window that has rolled over holds fewer columns than the text has
    if not n_held or n_held != {int(cache.get_seq_length())}:
        return None
    kept = (pair and _pair(pair[0][..., start:, :], pair[1][..., start:, :], start > 0) for pair in pairs)
    return KeyPart(tuple(kept), n_held.pop() - start)


def _pairs(cache: Any) -> Iterator[Pair]:
    if hasattr(cache, "layers"):
        for layer in cache.layers:
            keys, values = getattr(layer, "keys", None), getattr(layer, "values", None)
            if isinstance(keys, Tensor) and isinstance(values, Tensor) and keys.ndim == 4:
                yield keys, values
            else:
                yield None
    else:  # transformers before 4.54
        yield from zip(cache.key_cache, cache.value_cache, strict=True)


def cache_of(parts: Sequence[KeyPart], hf_model: nn.Module) -> Any:
    """A cache for the model's forward, filled with the columns of `parts`, in their order."""
    cache = _empty_cache(hf_model)
    for layer in range(len(parts[0].pairs)):
        pairs = [part.pairs[layer] for part in parts]
        if pairs[0] is None:
            continue
        keys = torch.cat([pair[0] for pair in pairs if pair], dim=-2)
        values = torch.cat([pair[1] for pair in pairs if pair], dim=-2)
        cache.update(keys, values, layer)
    return cache


def _empty_cache(hf_model: nn.Module) -> Any:
    takes_config = "config" in inspect.signature(DynamicCache.__init__).parameters
    config = text_config(hf_model)
    return DynamicCache(config=config) if takes_config and config is not None else DynamicCache()


@dataclass(frozen=True)
class SplitForward:
    """Whether a model's forward may be split.

    Attributes:
        why_not: the rest of a sentence that begins with "because"; empty where it may be split.
        gap: the largest difference that was found, as a share of the norm of what differs.
        bound: what rounding explains.
        longest: of texts of up to so many tokens; None for all.
    """

    why_not: str
    gap: float = 0.0
    bound: float = 0.0
    longest: int | None = None

    @property
    def text(self) -> str:
        """One plain line for `print(model.anatomy)`."""
        if self.why_not:
            return f"always run whole, because {self.why_not}"
        upto = "" if self.longest is None else f" in texts of up to {self.longest} tokens"
        return f"a prefix that was run before is taken over{upto}; off by {self.gap:.0e} of its norm at most"


def may_be_split(hf_model: nn.Module, n_tokens: int, most_bytes: int) -> bool:
    """Whether it is worth keeping the keys of a text, as far as that can be told without running the model.

    Args:
        n_tokens: of the text.
        most_bytes: that its keys and values may take.
    """
    per_token = facts_of(hf_model).get("key bytes per token", lambda: _bytes_per_token(hf_model))
    return per_token is not None and per_token * n_tokens <= most_bytes


def _bytes_per_token(hf_model: nn.Module) -> int | None:
    """Of keys and values, by the configuration; None where no plain cache is filled."""
    config = text_config(hf_model)
    takes_both = takes(hf_model, "use_cache") and takes(hf_model, "past_key_values")
    if config is None or is_encoder_decoder(hf_model) or not takes_both:
        return None
    try:
        layers = getattr(_empty_cache(hf_model), "layers", ())
        n_heads = getattr(config, "num_attention_heads", None) or 1
        n_key_heads = getattr(config, "num_key_value_heads", None) or n_heads
        width = getattr(config, "head_dim", None) or -(
            -(getattr(config, "hidden_size", None) or 1) // n_heads
        )
    except Exception:  # no cache of transformers is made for it, or a field differs from layer to layer
        return None
    if not all(type(layer).__name__ in _PLAIN_LAYERS for layer in layers):
        return None
    n_layers = getattr(config, "num_hidden_layers", None) or 1
    return (
        2 * n_layers * n_key_heads * width * torch.finfo(getattr(hf_model, "dtype", torch.float32)).bits // 8
    )


def split_forward(hf_model: nn.Module) -> SplitForward:
    """Whether this model gives the same in two parts as in one: tried once, until the model changes."""
    return facts_of(hf_model).get("split forward", lambda: _tried(hf_model))


def split_forward_of(hf_model: nn.Module) -> Callable[[], SplitForward]:
    """`split_forward` of a model, for one who is not to keep the model alive."""
    refer = weakref.ref(hf_model)

    def find() -> SplitForward:
        found = refer()
        return SplitForward("the model is gone") if found is None else split_forward(found)

    return find


def _tried(hf_model: nn.Module) -> SplitForward:
    if is_encoder_decoder(hf_model):
        return SplitForward("its columns are those of a decoder beside an encoder")
    if not (takes(hf_model, "use_cache") and takes(hf_model, "past_key_values")):
        return SplitForward("its forward takes no past_key_values")
    try:
        with inference(hf_model):
            why_not, gap, bound = _compared(hf_model)
    except Exception as error:  # whatever a model's own code raises
        return SplitForward(f"trying it failed with {type(error).__name__}")
    return SplitForward(why_not, gap, bound, _border(hf_model))


def _compared(hf_model: nn.Module) -> tuple[str, float, float]:
    """Why not, the gap and its bound: the first tokens and then the others, against all at once."""
    ids = torch.arange(3, 3 + _TRIED, device=device_of(hf_model))[None]
    whole_out = hf_model(**_given(hf_model, ids), use_cache=True)
    before_out = hf_model(**_given(hf_model, ids[:, :_TRIED_PREFIX]), use_cache=True)
    whole, logits = keys_in(getattr(whole_out, "past_key_values", None)), logits_of(whole_out)[0]
    before = keys_in(getattr(before_out, "past_key_values", None))
    if whole is None or before is None:
        kind = type(getattr(whole_out, "past_key_values", None)).__name__
        return f"its cache, a {kind}, cannot be cut at a token", 0.0, 0.0
    bound = SPLIT_FORWARD.bound(1.0, max(logits.dtype, _dtype(whole), key=lambda each: torch.finfo(each).eps))
    # each process that has a part of the model sees its own keys, and all must decide alike
    gap = max(
        gap_of(logits_of(before_out)[0], logits[:_TRIED_PREFIX]),
        largest_of_all(hf_model, _gap_of_keys(before, whole.first(_TRIED_PREFIX))),
    )
    if not gap <= bound:
        return f"what it says of a prefix depends on what follows, by {gap:.0e} of its norm", gap, bound
    inputs = {**_given(hf_model, ids), "input_ids": ids[:, _TRIED_PREFIX:]}
    rest_out = hf_model(**inputs, past_key_values=cache_of([before], hf_model), use_cache=True)
    both = keys_in(rest_out.past_key_values)
    if both is None:
        return "its cache cannot be cut at a token", 0.0, 0.0
    keys_gap = largest_of_all(hf_model, _gap_of_keys(both, whole))
    gap = max(gap, gap_of(logits_of(rest_out)[0], logits[_TRIED_PREFIX:]), keys_gap)
    return ("" if gap <= bound else f"a forward in two parts differs by {gap:.0e} of its norm"), gap, bound


def _given(hf_model: nn.Module, ids: Tensor) -> dict[str, Any]:
    return {
        "input_ids": ids,
        **({"attention_mask": torch.ones_like(ids)} if takes(hf_model, "attention_mask") else {}),
    }


def _dtype(part: KeyPart) -> torch.dtype:
    return next(pair[0].dtype for pair in part.pairs if pair)


def _gap_of_keys(part: KeyPart, other: KeyPart) -> float:
    both = zip(part.pairs, other.pairs, strict=True)
    gaps = [
        gap_of(mine[0].transpose(1, 2).flatten(2), theirs[0].transpose(1, 2).flatten(2))
        if mine is not None and theirs is not None
        else 0.0
        if mine is theirs
        else torch.inf
        for mine, theirs in both
    ]
    return max(gaps)


def gap_of(one: Tensor, other: Tensor) -> float:
    """The largest distance of two states `[..., width]`, as a share of the second's norm; NaN is infinite."""
    if one.shape != other.shape:
        return torch.inf
    ours, theirs = one.detach().float(), other.detach().float().to(one.device)
    finite = ours.isfinite() & theirs.isfinite()
    if not bool((finite | (ours == theirs)).all()):  # ids that are masked out have -inf on both sides
        return torch.inf
    ours, theirs = ours.where(finite, 0), theirs.where(finite, 0)
    # a state of zeros is equal to zeros
    sizes = theirs.norm(dim=-1).clamp_min(spacing(one.dtype))
    return float(((ours - theirs).norm(dim=-1) / sizes).max()) if one.numel() else 0.0


def _border(hf_model: nn.Module) -> int | None:
    """How long a text may be before its length turns the positions of all its tokens; None for any length."""
    config = text_config(hf_model)
    ropes: list[dict[str, Any]] = []
    for name in ("rope_parameters", "rope_scaling"):
        given = getattr(config, name, None)
        if isinstance(given, dict):
            nested = [value for value in given.values() if isinstance(value, dict)]
            ropes += nested or [given]
    borders: list[int] = []
    for rope in ropes:
        if rope.get("rope_type", rope.get("type", "default")) in _FIXED_ROPES:
            continue
        for source, name in (
            (rope, "original_max_position_embeddings"),
            (vars(config), "original_max_position_embeddings"),
            (vars(config), "max_position_embeddings"),
        ):
            if isinstance(source.get(name), int):
                borders.append(source[name])
                break
        else:
            borders.append(0)
    return min(borders, default=None)
