"""The final norm and the unembed's product in float32, as fast as the machine gives it."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import embedding

from lenswidget.models.facts import facts_of
from lenswidget.models.hf_model import device_of
from lenswidget.models.product import PACK_BYTES, pack, packed_product, timing
from lenswidget.models.split import is_spread
from lenswidget.tolerances import WIDENED_NORM, largest, within

# Weights stored in these are converted: bfloat16 has 8 significant bits, so logits would tie.
HALVES = (torch.bfloat16, torch.float16)
# Rows of a 16-bit weight that are float32 at a time, where it is too large to be packed.
ROWS_CONVERTED = 4096
# For the rows of the weight that some logits are computed again with: on the CPU they stay in a core's cache.
EXACT_BYTES, EXACT_BYTES_ELSEWHERE = 3 << 19, 64 << 20


class Unembed:
    """Prepared states to float32 logits, as `tail.project` gives them.

    On the CPU the weight is kept in oneDNN's own order where that was measured to be faster (`product.py`).

    Args:
        tail: a `Tail`.
    """

    def __init__(self, tail: Any):
        self._tail = tail
        self._linear = tail.linear()
        self._wide = widened(tail)
        # arithmetic is in float32 only if what comes before the product is
        self._is_float32 = self._wide is not None or (
            self._linear is not None and self._linear.weight.dtype is torch.float32
        )
        self._packed = _packed(tail.hf_model, self._linear) if self._is_float32 else None
        self._buffer: Tensor | None = None

    @property
    def device(self) -> torch.device:
        """Where the product is computed, as far as the model says."""
        return device_of(self._tail.hf_model) if self._linear is None else self._linear.weight.device

    @property
    def stored_dtype(self) -> torch.dtype | None:
        """What the unembed's weight is stored in; None where that is not known."""
        return None if self._linear is None else self._linear.weight.dtype

    def prepare(self, states: Tensor) -> Tensor:
        """`tail.prepare`, `[cells, d_model]` to `[cells, d_unembed]`, in float32 wherever that can be had."""
        return self._tail.prepare(states) if self._wide is None else self._wide(states)

    def __call__(self, prepared: Tensor) -> Tensor:
        """`[n, d_unembed]` to float32 logits `[n, d_vocab]`, valid until the next call."""
        linear = self._linear
        if linear is None or not self._is_float32:
            return self._tail.project(prepared)
        if self._packed is not None:
            bias = None if linear.bias is None else linear.bias.float()
            product = packed_product(prepared, self._packed, bias)
        else:
            product = self._product(prepared, linear.weight)
            product = product if linear.bias is None else product.add_(linear.bias)
        return self._tail.post(product)

    @property
    def is_exact(self) -> bool:
        """Whether single logits can be computed again, to the last bit of float32."""
        return self._is_float32 and self._tail.post_ops is not None

    def exact(self, prepared: Tensor, ids: Tensor) -> Tensor:
        """Some logits of each row, summed in float64; `[n, d_unembed]` and `[n, m]` to float64 `[n, m]`.

        A float32 product over d_model terms is off by up to 1e-4 where logits reach 100.
        """
        assert self._linear is not None
        weight, bias = self._linear.weight, self._linear.bias
        room = EXACT_BYTES if prepared.device.type == "cpu" else EXACT_BYTES_ELSEWHERE
        n_at_once = max(1, room // (8 * ids.shape[1] * weight.shape[1]))
        found = torch.empty(ids.shape, dtype=torch.float64, device=prepared.device)
        for start in range(0, len(ids), n_at_once):
            rows = slice(start, start + n_at_once)
            torch.sum(embedding(ids[rows], weight) * prepared[rows, None].double(), dim=-1, out=found[rows])
        return self._tail.post_ops(found if bias is None else found.add_(bias[ids]))

    def forget(self) -> None:
        """Gives the buffer back."""
        self._buffer = None

    def _product(self, prepared: Tensor, weight: Tensor) -> Tensor:
        """Without the bias, in the buffer; a weight of 16 bits is converted piece by piece."""
        out = self._room(len(prepared), prepared.device)
        if weight.dtype is torch.float32:
            return torch.mm(prepared, weight.T, out=out)
        for start in range(0, len(weight), ROWS_CONVERTED):
            piece = slice(start, start + ROWS_CONVERTED)
            out[:, piece] = prepared @ weight[piece].float().T
        return out

    def _room(self, n: int, device: torch.device) -> Tensor:
        """The buffer's first n rows, for a device where allocating anew costs more than the product."""
        if self._buffer is None or len(self._buffer) < n:
            self._buffer = None
            self._buffer = torch.empty(n, self._linear.out_features, dtype=torch.float32, device=device)
        return self._buffer[:n]


def _packed(hf_model: nn.Module, linear: Any) -> Tensor | None:
    """The weight in oneDNN's order, made once per weight; None where that cannot be had."""
    if linear is None or linear.weight.device.type != "cpu":
        return None
    return facts_of(hf_model).get(("packed", id(linear)), lambda: _pack(linear))


def _pack(linear: Any) -> Tensor | None:
    weight = linear.weight.detach()
    # several processes that hold the model must not go by clocks of their own: their logits would differ
    if 4 * weight.numel() > PACK_BYTES or not (is_spread() or timing().is_packed):
        return None
    return pack(weight.float())


def free_bytes(device: torch.device) -> int:
    """Memory of a CUDA device that can still be had: what is free, and what torch keeps of it unused."""
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + kept


def widened(tail: Any) -> Callable[[Tensor], Tensor] | None:
    """`tail.prepare` in float32, `[cells, d_model]` to `[cells, d_unembed]`, for a tail stored in 16 bits.

    The same modules run, on float32 copies of their few parameters; what they give is checked against
    the 16-bit way. None where the tail is float32 anyway, or is not a plain chain of local modules and a
    local linear head.
    """
    linear, steps = tail.linear(), tail.anatomy.tail_steps
    if linear is None or linear.weight.dtype not in HALVES or not tail.is_fast or steps is None:
        return None
    chain: list[tuple[Any, Any, dict[str, Tensor]]] = []
    for step in steps:
        module = tail.hf_model.get_submodule(step.path) if step.path else None
        tensors = _float32(module) if module is not None else {}
        if tensors is None:
            return None
        chain.append((step, module, tensors))
    device = linear.weight.device

    def prepare(states: Tensor) -> Tensor:
        x = states.to(device=device, dtype=torch.float32)
        for step, module, tensors in chain:
            x = x * step.scale if step.scale != 1.0 else x
            x = step.target.get(functional_call(module, tensors, (x,))) if module is not None else x
        return x

    return prepare if _agrees(prepare, tail, linear.weight) else None


def _float32(module: nn.Module) -> dict[str, Tensor] | None:
    """A module's tensors in float32; None where it is hooked, offloaded or quantised."""
    for part in module.modules():
        if "_hf_hook" in part.__dict__ or "forward" in part.__dict__:
            return None
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    if any(type(t) not in (nn.Parameter, Tensor) or t.device.type == "meta" for t in tensors.values()):
        return None
    return {name: t.detach().float() if t.is_floating_point() else t for name, t in tensors.items()}


def _agrees(prepare: Callable[[Tensor], Tensor], tail: Any, weight: Tensor) -> bool:
    d_model = tail.anatomy.d_model
    probe = torch.linspace(-2, 2, 2 * d_model, device=weight.device).view(2, d_model).to(weight.dtype)
    try:
        wide, narrow = prepare(probe), tail.prepare(probe).float()
    except (RuntimeError, TypeError, ValueError):
        return False
    same = within(wide, narrow, WIDENED_NORM, largest(narrow), weight.dtype)
    return wide.dtype is torch.float32 and same
