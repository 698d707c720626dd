"""What attention does, seen at the operators that compute it: the same for every model and implementation."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

_FUSED = functional.scaled_dot_product_attention
_PRODUCTS: frozenset[Any] = frozenset({torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.bmm, Tensor.bmm})


@dataclass(frozen=True, eq=False)
class Attended:
    """One product of attention weights and values, at one position of one batch row.

    Attributes:
        weights: `[heads, keys]`, in the dtype in which the values were multiplied, or float32.
        values: `[heads or fewer, keys, d_value]`, shared by groups of heads where there are fewer.
        index: which such product of the watched modules it was.
        batch: how many batch rows there were.
    """

    weights: Tensor
    values: Tensor
    index: int
    batch: int

    @property
    def n_heads(self) -> int:
        return len(self.weights)

    @property
    def d_value(self) -> int:
        return self.values.shape[-1]

    def head_values(self) -> Tensor:
        """`[heads, keys, d_value]`: each head's own."""
        return self.values.repeat_interleave(self.n_heads // len(self.values), dim=0)

    def up_to(self, n_keys: int, seq: int) -> "Attended":
        """The same over `seq` positions, where it was over the first `n_keys`; later ones get nothing."""
        if self.values.shape[-2] != n_keys:
            return self
        pad = seq - n_keys
        weights = functional.pad(self.weights, (0, pad))
        return replace(self, weights=weights, values=functional.pad(self.values, (0, 0, 0, pad)))

    def output(self) -> Tensor:
        """`[heads, d_value]` float64: the weights times the values."""
        return torch.einsum("hk,hkd->hd", self.weights.double(), self.head_values().double())


class AttentionWatch(TorchFunctionMode):
    """Notes each product of attention weights and values while it is entered, at one position.

    Weights that the model's own code computes are taken as they are. Where torch's fused operator computes
    them, one row of them is computed again from the queries, keys and mask that it was given.

    Args:
        shape: `(batch, seq)` of the model's inputs.
        row, position: of the batch and of the model's own sequence.
        change: called with a product's index and its result `[batch, heads, seq, d_value]`; what it returns
            takes the result's place.
    """

    def __init__(
        self,
        shape: tuple[int, int],
        row: int,
        position: int,
        change: Callable[[int, Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.found: list[Attended] = []
        self._shape, self._row, self._position = shape, row, position
        self._change = change
        self._n = 0

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        options = kwargs or {}
        result = func(*args, **options)
        if func is _FUSED:
            given = dict(
                zip(("query", "key", "value", "attn_mask", "dropout_p", "is_causal"), args, strict=False)
            )
            seen = self._fused(**{**given, **options})
        elif func in _PRODUCTS and len(args) == 2:
            seen = self._product(*args)
        else:
            return result
        if seen is None:
            return result
        self.found.append(seen)
        return result if self._change is None else self._changed(result, seen)

    def _changed(self, result: Tensor, seen: Attended) -> Tensor:
        assert self._change is not None
        each = result.reshape(self._shape[0], seen.n_heads, self._shape[1], seen.d_value)
        return self._change(seen.index, each).reshape(result.shape)

    def _product(self, weights: Any, values: Any) -> Attended | None:
        batch, seq = self._shape
        if not (isinstance(weights, Tensor) and isinstance(values, Tensor)):
            return None
        if weights.ndim < 3 or values.ndim != weights.ndim or weights.shape[-2] != seq:
            return None
        if weights.shape[:-2].numel() % batch or values.shape[:-2].numel() % batch:
            return None
        return self._note(
            weights.reshape(batch, -1, *weights.shape[-2:])[self._row, :, self._position].detach().clone(),
            values.reshape(batch, -1, *values.shape[-2:])[self._row].detach(),
        )

    def _fused(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Attended | None:
        batch, seq = self._shape
        if query.ndim != 4 or len(query) != batch or query.shape[-2] != seq:
            return None
        at = self._position
        queries = query[self._row, :, at].detach().float()
        keys = key[self._row].detach().float()
        keys = keys.repeat_interleave(len(queries) // len(keys), dim=0)
        scores = torch.einsum("hd,hkd->hk", queries, keys)
        scores = scores * (query.shape[-1] ** -0.5 if scale is None else scale)
        if attn_mask is not None:
            mask = attn_mask.expand(batch, -1, -1, -1)[self._row, :, at].detach()
            scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype is torch.bool else scores + mask
        if is_causal:
            scores[:, at + 1 :] = -torch.inf
        return self._note(scores.softmax(-1), value[self._row].detach())

    def _note(self, weights: Tensor, values: Tensor) -> Attended | None:
        n_keys = values.shape[-2]
        if weights.shape[-1] != n_keys or len(values) == 0 or len(weights) % len(values):
            return None
        self._n += 1
        return Attended(weights, values, self._n - 1, self._shape[0])
