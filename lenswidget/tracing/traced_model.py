"""A traced model: any module of torch, made ready to be traced."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from lenswidget.errors import TraceError
from lenswidget.tracing.aliases import Aliases
from lenswidget.tracing.locks import ModelLock, lock_of
from lenswidget.tracing.modules import TracedModule
from lenswidget.tracing.moments import CallOrder, ModuleRef
from lenswidget.tracing.open_traces import open_traces
from lenswidget.tracing.replay import ModelCall
from lenswidget.tracing.trace import Trace


class TracedModel(TracedModule):
    """Any `torch.nn.Module`, ready to be traced.

    `with TracedModel(module).trace(x) as tracer:` runs the body of the block beside `module(x)`; inside,
    every module of the tree has `.output`, `.input`, `.inputs` and `.skip(value)`, and can be called.

    Args:
        module: any module; it is used as it is, never copied or changed. In a trace, compiled modules run
            as they were written.
        rename: other names for modules, by path: with `{"transformer.h": "blocks"}` the blocks are
            `model.blocks` as well. A path counts from any module that has it, and the alias is an attribute
            of that module: see `Aliases`.
    Raises:
        TraceError: it is no module, or a name of `rename` is taken or leads nowhere.
    """

    def __init__(self, module: Any, *, rename: Mapping[str, str] | None = None) -> None:
        if not isinstance(module, nn.Module):
            raise TraceError(f"Asked to trace a {type(module).__name__}. Give a torch.nn.Module.")
        # what torch.compile returns wraps the module that it runs
        module = getattr(module, "_orig_mod", module)
        super().__init__(module, ModuleRef("", module, ()), Aliases(module, rename or {}, dir(type(self))))
        self._order = CallOrder()
        self._lock = lock_of(module)

    @property
    def lock(self) -> ModelLock:
        """Held while a thread traces or calls this model; the same for every wrapper of the module."""
        return self._lock

    def trace(self, *args: Any, **kwargs: Any) -> Trace:
        """A trace of the model called with these arguments, to be opened by `with`.

        Raises:
            TraceError: there are no arguments.
        """
        if not args and not kwargs:
            raise TraceError("trace() was given no input. Give it what the model's forward takes.")
        return self._open(ModelCall(self._ref.module, args, kwargs))

    def _open(self, model_call: ModelCall, kind: type[Trace] = Trace) -> Trace:
        return kind(
            self._ref.module,
            model_call,
            self._order,
            self._lock,
            is_block=self._is_block,
            aliases=self._aliases,
        )

    def _is_block(self, ref: ModuleRef) -> bool:
        """Whether the module is a decoder block, whose output is wrapped; a plain module has none."""
        return False

    def _may_keep(self, name: str) -> bool:
        # a subclass may have attributes of its own, but none that hides the model's, and none set in a trace
        is_open = any(trace.is_open and trace.root is self._ref.module for trace in open_traces.get())
        is_taken = hasattr(self._ref.module, name) or self._aliases.path(self._ref.module, name) is not None
        return name.startswith("_") or not (is_open or is_taken)
