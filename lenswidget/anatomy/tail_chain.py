"""The modules between the last block and the unembed, where they form a plain chain."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lenswidget.anatomy.recording import Call, Recording
from lenswidget.anatomy.stream import Stream
from lenswidget.nested import WHOLE, Slot
from lenswidget.tolerances import FORGETS_SCALE, MODULE_CHAIN, largest, within

MAX_STEPS = 8


@dataclass(frozen=True)
class TailStep:
    """One module on the way, with the constant that its input or the chain's end is multiplied by.

    `path` is "" for the end of the chain: only the constant counts there.
    """

    path: str
    scale: float = 1.0
    target: Slot = WHOLE
    is_norm: bool = False


def trace_tail(
    hf_model: nn.Module,
    seen: Recording,
    block: str,
    stream: Stream,
    unembed: str | None,
) -> tuple[TailStep, ...] | None:
    """Follows the last block's output through the modules it passes, up to the unembed's input.

    Each module must take exactly what the one before gave, up to a constant factor. None where the
    trail breaks: then only the model's own forward knows the way.
    """
    if unembed is None:
        return None
    calls = seen.by_path()
    last, head = calls[block][-1], calls[unembed][-1]
    if not head.taken or not last.ended < head.started:
        return None
    goal = _rows(next(iter(head.taken.values())))
    now = _rows(stream.layout.read(last.given[stream.target]))
    between = [call for call in seen.calls if last.ended < call.started and call.ended < head.started]
    modules = dict(hf_model.named_modules())
    steps: list[TailStep] = []
    clock = last.ended
    while len(steps) < MAX_STEPS:
        end = ratio(goal, now)
        following = _next(between, now, clock)
        if end == 1.0 or (following is None and end is not None):
            return (*steps, TailStep("", end or 1.0))
        if following is None:
            return None
        call, scale, target = following
        now, clock = _rows(call.given[target]), call.ended
        steps.append(TailStep(call.path, scale, target, _is_norm(modules[call.path], call)))
    return None


def _next(calls: Sequence[Call], now: Tensor, clock: int) -> tuple[Call, float, Slot] | None:
    """The first, outermost call that takes what is at hand as its only tensor."""
    for call in calls:
        if call.started < clock or len(call.taken) != 1 or not call.given:
            continue
        scale = ratio(_rows(next(iter(call.taken.values()))), now)
        if scale is not None and next(iter(call.taken)) == Slot((0, 0)):
            return call, scale, next(iter(call.given))
    return None


def _rows(tensor: Tensor) -> Tensor:
    return tensor.reshape(-1, tensor.shape[-1])


def ratio(numerator: Tensor, denominator: Tensor) -> float | None:
    """The one constant c for which numerator == c * denominator up to rounding; None if there is none."""
    if numerator.shape != denominator.shape:
        return None
    if torch.equal(numerator, denominator):
        return 1.0
    a, b = numerator.cpu().double(), denominator.cpu().double()
    square = float((b * b).sum())
    c = float((a * b).sum()) / square if square > 0 else 0.0
    if c == 0.0:
        return None
    return c if within(a, c * b, MODULE_CHAIN, (c * b).abs(), numerator.dtype) else None


def _is_norm(module: nn.Module, call: Call) -> bool:
    """A norm is what forgets the scale of its input."""
    given = next(iter(call.given.values()))
    taken = next(iter(call.taken.values()))
    if given.shape != taken.shape:
        return False
    unit = taken / taken.float().pow(2).mean().sqrt().to(taken.dtype).clamp_min(1e-6)
    try:
        once, twice = module(unit), module(unit * 8)
    except Exception:
        return False
    if not (isinstance(once, Tensor) and isinstance(twice, Tensor)):
        return False
    once, twice = once.float(), twice.float()
    return within(once, twice, FORGETS_SCALE, twice.abs() + 0.2 * largest(once))
