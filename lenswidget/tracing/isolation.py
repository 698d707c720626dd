"""The ambient state of torch, swapped whenever the body and the forward take turns.

Torch keeps grad mode, inference mode, autocast, the default dtype and device, function and dispatch
modes and saved-tensor hooks per thread. Body and forward share a thread, so each would otherwise see
what the other has switched on.
"""

import functools
import sys
import threading
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils import _device as device_module
from torch.utils import _python_dispatch

C: Any = torch._C  # pyright: ignore
_AUTOGRAD: Any = C._autograd
_DISPATCH: Any = _python_dispatch
_DEFAULT_DEVICE: Any = torch._GLOBAL_DEVICE_CONTEXT  # pyright: ignore
_autocast_devices = ("cpu",)
# taken at every switch: looked up once
_is_inference, _is_grad, _default_dtype = (
    torch.is_inference_mode_enabled,
    torch.is_grad_enabled,
    torch.get_default_dtype,
)
_is_autocast, _n_function_modes, _n_dispatch_modes, _top_saved_tensor_hooks = (
    C._is_any_autocast_enabled,
    C._len_torch_function_stack,
    C._len_torch_dispatch_stack,
    _AUTOGRAD._top_saved_tensors_default_hooks,
)
_tuple = tuple.__new__
_guards_kept: list[tuple[Any, bool]] = []


class TorchState(NamedTuple):
    """The settings of torch that decide what an operation does, as they are at one moment."""

    is_inference: bool
    is_grad: bool
    dtype: torch.dtype
    autocast: tuple[Any, ...]  # empty where none is on
    function_modes: tuple[Any, ...]
    dispatch_modes: tuple[Any, ...]
    saved_tensor_hooks: tuple[Any, ...]
    device: Any
    default_device: Any


def take() -> TorchState:
    """The state of this thread as it is now; costs about a microsecond, and is taken at every switch."""
    n_function_modes = _n_function_modes()
    return _tuple(
        TorchState,
        (
            _is_inference(),
            _is_grad(),
            _default_dtype(),
            _autocast() if _is_autocast() else (),
            tuple(C._get_function_stack_at(i) for i in range(n_function_modes)) if n_function_modes else (),
            tuple(_DISPATCH._get_current_dispatch_mode_stack()) if _n_dispatch_modes() else (),
            _saved_tensor_hooks() if _top_saved_tensor_hooks(False) is not None else (),
            device_module.CURRENT_DEVICE,
            _DEFAULT_DEVICE.__dict__.get("device_context"),
        ),
    )


class Switch:
    """Swaps the torch state of the body for that of the forward, and back.

    On the forward's side compiled modules run uncompiled: compiled code looks for hooks only where there
    were some when it was compiled.
    """

    def __init__(self) -> None:
        self._ambient_autocast = _autocast()
        self._guards: list[tuple[Any, bool]] = []  # with what each restores
        self._thread = threading.get_ident()
        self._stance: Any = None
        self._body_state: TorchState | None = None  # while the forward's is set

    def to_forward(self, now: TorchState, state: TorchState) -> None:
        """Make `state` the state of this thread, which is `now`."""
        self._body_state = now
        if now != state:
            self._change(now, state)
        dynamo: Any = sys.modules.get("torch._dynamo.eval_frame")
        self._stance = getattr(dynamo, "_stance", None)  # None as well where dynamo was never imported
        if self._stance is not None:
            dynamo._stance = _eager(dynamo)

    def to_body(self, now: TorchState, state: TorchState) -> None:
        """Make `state` the state of this thread, which is `now`."""
        if self._stance is not None:
            dynamo: Any = sys.modules["torch._dynamo.eval_frame"]
            dynamo._stance, self._stance = self._stance, None
        if now != state:
            self._change(now, state)
        self._body_state = None

    def settle(self) -> None:
        """Restore the body's state if an interrupt came while the two were swapped."""
        if self._body_state is not None and threading.get_ident() == self._thread:
            self.to_body(take(), self._body_state)

    def close(self) -> None:
        """Drop the guards that a forward has left, last first, without changing the state otherwise."""
        self.settle()
        if self._guards and threading.get_ident() != self._thread:
            # a guard acts on the thread that drops it, which is not the one it was made for: keep it
            _guards_kept.extend(self._guards)
            self._guards.clear()
        if self._guards:
            state = take()
            while self._guards:
                self._guards.pop()[0].__exit__(None, None, None)
            if _is_inference() != state.is_inference:
                # an interrupt came between the two: the forward's own guard went before one above it, which
                # has restored what it found there
                _guards_kept.append((C._InferenceMode(state.is_inference), not state.is_inference))
            self._set_all_but_inference(take(), state)

    def _change(self, now: TorchState, state: TorchState) -> None:
        if now.is_inference != state.is_inference:
            # a guard of inference mode also changes the dispatch keys of modes and autocast
            _unstack_dispatch_modes(now)
            self._set_inference(state.is_inference)
            now = take()
        self._set_all_but_inference(now, state)

    def _set_inference(self, is_inference: bool) -> None:
        """Inference mode can be set only by a guard, which restores, when it goes, what it found."""
        if self._guards and self._guards[-1][1] == is_inference:
            self._guards.pop()[0].__exit__(None, None, None)
        if _is_inference() != is_inference:
            # it acts when it is made; `__enter__` does nothing. No line between this and where it is kept: an
            # interrupt there would leave it in a traceback, and it would undo itself whenever that is freed
            self._guards.append((C._InferenceMode(is_inference), not is_inference))

    def _set_all_but_inference(self, now: TorchState, state: TorchState) -> None:
        if now.autocast != state.autocast:
            caches, *devices = state.autocast or self._ambient_autocast
            C.set_autocast_cache_enabled(caches)
            for name, is_on, dtype in devices:
                C.set_autocast_enabled(name, is_on and bool(state.autocast))
                C.set_autocast_dtype(name, dtype)
        _set_python_side(now, state)


@functools.cache
def _eager(dynamo: Any) -> Any:
    return dynamo.DynamoStance("force_eager")


def _set_python_side(now: TorchState, state: TorchState) -> None:
    if now.is_grad != state.is_grad:
        C._set_grad_enabled(state.is_grad)
    if now.dtype != state.dtype:
        torch.set_default_dtype(state.dtype)
    if now.function_modes != state.function_modes:
        for _ in now.function_modes:
            C._pop_torch_function_stack()
        for mode in state.function_modes:
            C._push_on_torch_function_stack(mode)
    if now.dispatch_modes != state.dispatch_modes:
        _unstack_dispatch_modes(now)
        for mode in state.dispatch_modes:
            _DISPATCH._push_mode(mode)
    if now.saved_tensor_hooks != state.saved_tensor_hooks:
        for _ in now.saved_tensor_hooks:
            _AUTOGRAD._pop_saved_tensors_default_hooks()
        for pack, unpack in state.saved_tensor_hooks:
            _AUTOGRAD._push_saved_tensors_default_hooks(pack, unpack)
    if now.device != state.device:
        device_module.CURRENT_DEVICE = state.device
    if now.default_device is not state.default_device:
        _DEFAULT_DEVICE.device_context = state.default_device


def _unstack_dispatch_modes(now: TorchState) -> None:
    for _ in now.dispatch_modes:
        _DISPATCH._pop_mode()


def _autocast() -> tuple[Any, ...]:
    global _autocast_devices
    if len(_autocast_devices) == 1 and torch.cuda.is_initialized():
        _autocast_devices = ("cpu", "cuda")
    return (
        C.is_autocast_cache_enabled(),
        *[(name, C.is_autocast_enabled(name), C.get_autocast_dtype(name)) for name in _autocast_devices],
    )


def _saved_tensor_hooks() -> tuple[Any, ...]:
    """The stack of default hooks, oldest first: only its top can be read, so it is unstacked."""
    top = _AUTOGRAD._top_saved_tensors_default_hooks(False)
    stack: list[Any] = []
    while top is not None:
        stack.append(top)
        _AUTOGRAD._pop_saved_tensors_default_hooks()
        top = _AUTOGRAD._top_saved_tensors_default_hooks(False)
    stack.reverse()
    for pack, unpack in stack:
        _AUTOGRAD._push_saved_tensors_default_hooks(pack, unpack)
    return tuple(stack)


def random_state() -> list[Tensor]:
    """The state of torch's random generators, on the CPU and on each CUDA device; not part of `take`."""
    state = [torch.default_generator.get_state()]
    if torch.cuda.is_initialized():
        state += torch.cuda.get_rng_state_all()
    return state


def set_random_state(state: list[Tensor]) -> None:
    """Draw from here on the random numbers that followed when `state` was taken."""
    torch.default_generator.set_state(state[0])
    if len(state) > 1:
        torch.cuda.set_rng_state_all(state[1:])


def is_same_random_state(a: list[Tensor], b: list[Tensor]) -> bool:
    """Whether both give the same random numbers."""
    return len(a) == len(b) and all(map(torch.equal, a, b))
