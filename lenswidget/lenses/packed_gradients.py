"""Gradients through linear maps with oneDNN's own order of the weights, where that is faster than `torch.mm`.

A row of a Jacobian goes back through every linear map of the model, and on a CPU hardly anything else costs.
"""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lenswidget.models.product import PACK_BYTES, pack, packed_product, timing
from lenswidget.models.split import is_spread


@dataclass(frozen=True)
class _Packed:
    """A transposed weight `[d_in, d_out]`; in a box, since functorch cannot look into such a tensor."""

    weight: Tensor


class _Back(torch.autograd.Function):
    """A gradient `[..., d_out]` to that of the input, `[..., d_in]`; the rows of a vmap in one product."""

    @staticmethod
    def forward(gradient: Tensor, packed: _Packed) -> Tensor:
        rows = gradient.reshape(-1, gradient.shape[-1]).contiguous()
        return packed_product(rows, packed.weight).view(*gradient.shape[:-1], -1)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Nothing is kept: no gradient of a gradient is asked for."""

    @staticmethod
    def vmap(info: Any, in_dims: Any, *args: Any) -> tuple[Tensor, int]:
        """The rows beside one another; `[rows, ..., d_in]`."""
        gradient, packed = args
        return _Back.apply(gradient.movedim(in_dims[0], 0), packed), 0


class _Linear(torch.autograd.Function):
    """`nn.functional.linear` whose gradient goes through a packed weight; no weight gets a gradient."""

    @staticmethod
    def forward(states: Tensor, weight: Tensor, bias: Tensor | None, packed: _Packed) -> Tensor:
        return nn.functional.linear(states, weight, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.packed = inputs[3]

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor, None, None, None]:
        (gradient,) = grad_outputs
        return _Back.apply(gradient, ctx.packed), None, None, None


class _Packing(TorchFunctionMode):
    """Has `nn.functional.linear` with some weights go the other way; the model itself is left as it is."""

    def __init__(self, packed: dict[int, _Packed]) -> None:
        super().__init__()
        self._packed = packed

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """`func`, unless it is a linear map with one of the weights."""
        if func is nn.functional.linear and len(args) == 3 and not kwargs:
            states, weight, bias = args
            packed = self._packed.get(id(weight))
            if packed is not None:
                return _Linear.apply(states, weight, bias, packed)
        return func(*args, **(kwargs or {}))


@contextmanager
def packed_gradients(hf_model: nn.Module) -> Generator[None, None, None]:
    """Inside, gradients of inputs take the faster way; values are what they are.

    Nothing changes where the plain product is the faster, on another device than the CPU, in another type
    than float32, or where the weights are too large to be held once more. No parameter may want a gradient.
    """
    weights = _weights(hf_model)
    n_bytes = sum(4 * weight.numel() for weight in weights)
    if not weights or n_bytes > PACK_BYTES or is_spread() or not timing().is_packed:
        yield
        return
    transposed = {id(weight): pack(weight.detach().T.contiguous()) for weight in weights}
    with _Packing({key: _Packed(packed) for key, packed in transposed.items() if packed is not None}):
        yield


def _weights(hf_model: nn.Module) -> list[Tensor]:
    """Of linear maps on the CPU and in float32; the vocabulary's is not gone through."""
    head = getattr(hf_model, "get_output_embeddings", lambda: None)()
    weights = [each.weight for each in hf_model.modules() if type(each) is nn.Linear and each is not head]
    return [each for each in weights if each.device.type == "cpu" and each.dtype == torch.float32]
