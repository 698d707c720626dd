"""The norm of a model stored in 16 bits, in float32: bfloat16 has 8 significant bits, so logits would tie."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

HALVES = (torch.bfloat16, torch.float16)


def widened(tail: Any) -> Callable[[Tensor], Tensor] | None:
    """`tail.prepare` in float32, `[cells, d_model]` to `[cells, d_head]`, for a tail stored in 16 bits.

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
    near = 8 * torch.finfo(weight.dtype).eps * float(narrow.abs().max())
    return wide.dtype is torch.float32 and bool(((wide - narrow).abs() <= near).all())
