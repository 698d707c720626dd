"""Hooks that cost one dict entry each, so that a trace that reads one value stays cheap.

`register_forward_hook` does the same through a handle object; for a trace that sets a handful of hooks
and removes them a millisecond later the handles would cost more than the hooks.
"""

from collections.abc import Callable
from typing import Any

from torch import nn

InputHook = Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], Any]
OutputHook = Callable[[nn.Module, tuple[Any, ...], Any], Any]
# Asked at each call of a module that may be skipped: whether it is, and what it returns instead.
SkipHook = Callable[[nn.Module], tuple[bool, Any]]
_GONE: Any = None


class Hooks:
    """The hooks of one forward: at most one on the input and one on the output of each module."""

    def __init__(self, on_input: InputHook, on_output: OutputHook, on_forward: SkipHook) -> None:
        self._on_input = on_input
        self._on_output = on_output
        self._on_forward = on_forward
        self._inputs: set[nn.Module] = set()
        self._outputs: set[nn.Module] = set()
        self._stubs: list[_Stub] = []

    def watch_input(self, module: nn.Module) -> None:
        """From its next call on, `module` reports what it is given."""
        if module not in self._inputs:
            self._inputs.add(module)
            # the object itself is the key: it is unique, and at hand for the removal
            module._forward_pre_hooks_with_kwargs[self] = True  # pyright: ignore
            module._forward_pre_hooks[self] = self._on_input  # pyright: ignore

    def watch_output(self, module: nn.Module) -> None:
        """From its next call on, `module` reports what it returns."""
        if module not in self._outputs:
            self._outputs.add(module)
            module._forward_hooks[self] = self._on_output  # pyright: ignore

    def watch_forward(self, module: nn.Module) -> None:
        """From its next call on, `module` asks whether it is to be skipped.

        A call picks the `forward` to run before it looks for hooks, so `forward` itself is replaced.
        """
        stub = module.__dict__.get("forward")
        if not isinstance(stub, _Stub):
            stub = _Stub(module)
        if self._on_forward not in stub.skip_hooks:
            # noted first: an interrupt may come before the next line
            self._stubs.append(stub)
            stub.skip_hooks.append(self._on_forward)
        module.__dict__["forward"] = stub

    def remove(self) -> None:
        """Remove every hook; calling it again does nothing."""
        for module in self._inputs:
            module._forward_pre_hooks.pop(self, None)  # pyright: ignore
            module._forward_pre_hooks_with_kwargs.pop(self, None)  # pyright: ignore
        for module in self._outputs:
            module._forward_hooks.pop(self, None)  # pyright: ignore
        for stub in self._stubs:
            stub.forget(self._on_forward)
        self._inputs.clear()
        self._outputs.clear()
        self._stubs.clear()
        self._on_input = self._on_output = self._on_forward = (
            _GONE  # a cycle: they hold the forward, which holds this
        )


class _Stub:
    """Replaces a module's `forward` while some trace may skip it; several may, and end in any order."""

    def __init__(self, module: nn.Module) -> None:
        self.skip_hooks: list[SkipHook] = []
        self._module = module
        self._had_own = "forward" in module.__dict__  # accelerate puts one there
        self._forward = module.forward

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        for skip_hook in tuple(self.skip_hooks):  # another thread's trace may end meanwhile
            is_skipped, value = skip_hook(self._module)
            if is_skipped:
                return value
        return self._forward(*args, **kwargs)

    @property
    def had(self) -> Any:
        """The forward that the instance had before, if any."""
        return self._forward if self._had_own else None

    def forget(self, skip_hook: SkipHook) -> None:
        if skip_hook in self.skip_hooks:
            self.skip_hooks.remove(skip_hook)
        attributes = self._module.__dict__
        if not self.skip_hooks and attributes.get("forward") is self:
            if self._had_own:
                attributes["forward"] = self._forward
            else:
                del attributes["forward"]


def own_forward(module: nn.Module) -> Any:
    """The `forward` that was put on the instance, behind a trace's own; None where it is the class's."""
    own = module.__dict__.get("forward")
    return own.had if isinstance(own, _Stub) else own
