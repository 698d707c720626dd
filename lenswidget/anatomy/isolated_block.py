"""One block outside its model, run on what it was given in the watched forward."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lenswidget.anatomy.decomposition import HookPoint
from lenswidget.anatomy.recording import Call, recording
from lenswidget.anatomy.stream import Stream, layouts
from lenswidget.nested import tensors


class IsolatedBlock:
    """A block that can be run again and again, with its input and the outputs of its parts changed."""

    def __init__(self, block: nn.Module, call: Call, stream: Stream, shape: torch.Size):
        self.block, self.call, self.stream, self.shape = block, call, stream, shape
        self.entering = stream.layout.read(call.taken[stream.source])
        self.leaving = stream.layout.read(call.given[stream.target])
        self.dtype = self.leaving.dtype

    def run(
        self,
        entering: Tensor,
        edits: Mapping[HookPoint, Tensor] | None = None,
        *,
        in_place: bool = False,
        disturb_others: bool = False,
    ) -> tuple[Tensor, list[Call]]:
        """The leaving stream and the submodules' calls, with some values replaced (recorded before that).

        `disturb_others` adds noise to what else the block is given per row: per position, or of a source.
        """
        inputs = self._disturbed() if disturb_others else self.call.inputs
        args, kwargs = self.stream.with_entering(inputs[0], inputs[1], entering.clone())
        handles: list[Any] = []
        with recording(self.block, self.shape, bool) as calls:
            try:
                for point, states in (edits or {}).items():
                    handles.append(_edited(self.block.get_submodule(point.path), point, states, in_place))
                output = self.block(*args, **kwargs)
            finally:
                for handle in handles:
                    handle.remove()
        return self.stream.leaving(output), [call for call in calls if call.path]

    def _disturbed(self) -> Any:
        inputs = self.call.inputs
        for slot, tensor in tensors(inputs):
            is_source = tensor.ndim == 3 and len(tensor) == self.shape[0]
            if slot != self.stream.source and (is_source or layouts(tensor.shape, *self.shape)):
                inputs = slot.put(inputs, tensor + noise(tensor))
        return inputs

    def value(self, point: HookPoint, calls: Sequence[Call]) -> Tensor:
        """What stood at a point, `[batch, seq, d_model]`."""
        call = next(call for call in calls if call.path == point.path)
        kept = call.given if point.is_output else call.taken
        tensor = kept[point.slot]
        return tensor.unflatten(0, tuple(self.shape)) if point.layout is None else point.layout.read(tensor)


def _edited(module: nn.Module, point: HookPoint, states: Tensor, in_place: bool) -> Any:
    """Hooks a module so that these states stand at a point."""
    if point.is_output:
        hook = partial(_after, point, states, in_place)
        return module.register_forward_hook(hook, with_kwargs=True)
    hook = partial(_before, point, states, in_place)
    return module.register_forward_pre_hook(hook, with_kwargs=True)


def _after(
    point: HookPoint,
    states: Tensor,
    in_place: bool,
    _module: nn.Module,
    _args: Any,
    _kwargs: Any,
    output: Any,
) -> Any:
    return _replaced(output, point, states, in_place)


def _before(
    point: HookPoint, states: Tensor, in_place: bool, _module: nn.Module, args: Any, kwargs: Any
) -> Any:
    return _replaced((args, kwargs), point, states, in_place)


def _replaced(value: Any, point: HookPoint, states: Tensor, in_place: bool) -> Any:
    if in_place:
        point.slot.get(value).copy_(point.slot.get(point.write(value, states)))
        return value
    # a copy: some models add to it in place
    return point.write(value, states.clone())


def noise(like: Tensor) -> Tensor:
    """Seeded noise of the same mean square."""
    generator = torch.Generator("cpu").manual_seed(0)
    noise = torch.randn(like.shape, generator=generator, device="cpu").to(like)
    return noise * like.float().pow(2).mean().sqrt().to(like.dtype)
