"""One run of a model as a coroutine: it runs to the next moment that the body asks for, and waits there."""

import contextvars
import functools
import threading
from collections.abc import Callable, Collection, Iterable
from typing import Any

from greenlet import getcurrent, greenlet
from torch import nn

from lenswidget.tracing import isolation
from lenswidget.tracing.hooks import Hooks
from lenswidget.tracing.moments import CallOrder, Moment
from lenswidget.tracing.output_cache import OutputCache

NOTHING: Any = object()


class Abandoned(BaseException):
    """Raised to end a forward that is not needed any more; no `Exception`, so that no model catches it."""


# How far torch looks down the C stack when it makes an error: c10's `get_backtrace`.
TORCH_FRAMES = 64


def _call(function: Callable[[], Any]) -> Any:
    return function()


def _deep_stack() -> Callable[[Callable[[], Any]], Any]:
    """A function that calls its argument on top of more C frames than torch follows.

    Below a greenlet's first frame lies stack memory that the body has overwritten since. An error that torch
    makes in the forward, caught or not, would follow these frames and crash the process. Each partial is one
    frame; the attribute keeps `functools` from merging it with the next.
    """
    function: Any = _call
    for _ in range(TORCH_FRAMES + 16):
        function = functools.partial(function)
        function.is_kept = True
    return function


_call_on_deep_stack = _deep_stack()


class Forward:
    """The model's forward in a greenlet of its own.

    `advance` runs it to the first of some moments and returns that moment, with the value there in `value`.
    The rest of the forward sees the value that is in `reply` when it is advanced again.

    Args:
        start: runs the model and returns its result.
        root: the module whose tree is watched.
        switch: swaps the torch state between the two sides.
        ambient: the torch state that the forward starts in.
        order: learns the call order that this forward shows.
        watch_all: set hooks on every module from the start, so that it is known which moments have passed.
        count_steps: count every call of the root as a step, and the calls within it from 0.
        cache: gets the outputs of its modules.
    """

    def __init__(
        self,
        start: Callable[[], Any],
        root: nn.Module,
        switch: isolation.Switch,
        ambient: isolation.TorchState,
        order: CallOrder,
        *,
        watch_all: bool,
        count_steps: bool,
        cache: OutputCache | None = None,
    ) -> None:
        self.position: Moment | None = None  # None before the start and after the end
        self.value: Any = None
        self.reply: Any = None
        self.result: Any = NOTHING
        self.step = 0
        self.returned: dict[
            nn.Module, int | None
        ] = {}  # length of the tuple that each watched module returned
        self._skip: tuple[nn.Module, Any] | None = None
        self._ancestors: Iterable[nn.Module] = ()
        self._start: Callable[[], Any] | None = start
        self._root = root
        self._switch = switch
        self._state = ambient
        self._order = order
        self._watches_all = watch_all
        self._count_steps = count_steps
        self._cache = cache
        self._stops: Collection[Moment] = ()
        self._n_begun: dict[nn.Module, int] = {}
        self._n_done: dict[nn.Module, int] = {}
        self._calls: list[tuple[nn.Module, str, int]] = []
        self._error: BaseException | None = None
        self._thread = threading.get_ident()
        self._body: greenlet | None = None
        self._greenlet: greenlet | None = greenlet(functools.partial(_call_on_deep_stack, self._run))
        self._greenlet.gr_context = contextvars.copy_context()
        self._hooks = Hooks(self._on_input, self._on_output, self._on_forward)

    # --- the body's side

    def begin(self) -> None:
        """Set the hooks that are needed from the start; from here on it must be closed."""
        for module in self._root.modules() if self._watches_all else self._order.repeated:
            self._hooks.watch_input(module)
            self._hooks.watch_output(module)
        for module in self._cache.modules if self._cache is not None else ():
            self._hooks.watch_output(module)

    def watch(self, moment: Moment, ancestors: Iterable[nn.Module]) -> None:
        """Make the forward able to stop at the moment; without effect on a call that has begun.

        A call decides at its beginning whether it looks for hooks at all. The module's ancestors are watched
        as well, because their calls begin before the moment, and the body may ask for them there.
        """
        if moment.kind == "input":
            self._hooks.watch_input(moment.module)
            self._hooks.watch_forward(moment.module)
        self._hooks.watch_output(moment.module)
        if ancestors is not self._ancestors:
            self._ancestors = ancestors
            for module in ancestors:
                self._hooks.watch_output(module)

    def has_passed(self, moment: Moment) -> bool | None:
        """Whether the forward has passed the moment; None where it set no hook for it in time."""
        if moment.step != self.step:
            return moment.step < self.step
        n_calls = self._n_begun if moment.kind == "input" else self._n_done
        if n_calls.get(moment.module, 0) > moment.call:
            return True
        return False if self._watches_all else None

    def called(self) -> list[nn.Module]:
        """The modules called so far in this step, in order, as far as they were watched."""
        return list(self._n_begun)

    def skip(self, value: Any) -> None:
        """Return `value` from the module at whose input the forward waits, without running it."""
        assert self.position is not None
        self._skip = (self.position.module, value)

    def advance(self, stops: Collection[Moment]) -> Moment | None:
        """Run on to the first of `stops`; None when the forward ended first, with its value in `result`.

        Raises:
            BaseException: the forward raised it.
        """
        forward = self._greenlet
        if forward is None:
            return None
        self._stops = stops
        self._resume(forward)
        if self.position is None:
            self.close()
        if self._error is not None:
            try:
                raise self._error
            finally:
                self._error = None
        return self.position

    def close(self) -> None:
        """Remove the hooks and end the forward wherever it is; calling it again does nothing."""
        forward = self._greenlet
        if forward is None:
            return
        self._hooks.remove()
        if self._watches_all and not self._count_steps:
            self._order.learn(self._calls, self.returned, self.result is not NOTHING)
        # a greenlet cannot be reached from another thread: there it ends when it is collected
        if forward and not forward.dead and threading.get_ident() == self._thread:
            self._stops = ()
            self._resume(forward, Abandoned())
            thrown, self._error = self._error, None
            if not forward.dead:  # an interrupt came before it was reached
                self._resume(forward, Abandoned())
        else:
            thrown = None
        self._greenlet = self.position = self._start = self._body = self._skip = None
        self.value = self.reply = None
        if thrown is not None and not isinstance(thrown, Exception):
            raise thrown  # an interrupt that struck while the forward was ended

    def _resume(self, forward: greenlet, thrown: BaseException | None = None) -> None:
        self._switch.settle()
        here, has_switched = isolation.take(), False
        try:
            self._body = forward.parent = getcurrent()
            self._switch.to_forward(here, self._state)
            has_switched = True
            if thrown is None:
                forward.switch()
            else:
                forward.throw(thrown)
        except BaseException as error:  # an interrupt may strike between the two sides
            self._error = error
            self.position = None
            if has_switched:
                self._state = isolation.take()
            self._switch.settle()
        else:
            self._switch.to_body(self._state, here)

    # --- the forward's side

    def _run(self, *_: Any) -> None:
        assert self._start is not None
        try:
            self.result = self._start()
        except Abandoned:
            pass
        except BaseException as error:
            self._error = error
        self.position = None
        self._state = isolation.take()

    # Each hook returns at once if the call is not this forward's: the body's own, another trace's, or one on
    # another thread, which may have found the hook just before it was removed.

    def _on_input(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None
    ) -> Any:
        if getcurrent() is not self._greenlet:
            return None
        if self._count_steps and module is self._root:
            self.step += module in self._n_begun
            self._n_begun.clear()
            self._n_done.clear()
        call = self._n_begun.get(module, 0)
        self._n_begun[module] = call + 1
        if self._watches_all:
            self._calls.append((module, "input", call))
        moment = Moment(module, "input", call, self.step)
        return self._wait(moment, (args, kwargs)) if moment in self._stops else None

    def _on_output(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if getcurrent() is not self._greenlet:
            return None
        call = self._n_done.get(module, 0)
        self._n_done[module] = call + 1
        if self._watches_all:
            self._calls.append((module, "output", call))
            self.returned[module] = len(output) if isinstance(output, tuple) else None
        moment = Moment(module, "output", call, self.step)
        reply = self._wait(moment, output) if moment in self._stops else None
        if self._cache is not None:
            self._cache.record(module, output if reply is None else reply)
        return reply

    def _on_forward(self, module: nn.Module) -> tuple[bool, Any]:
        if getcurrent() is not self._greenlet or self._skip is None or self._skip[0] is not module:
            return False, None
        value, self._skip = self._skip[1], None
        return True, value

    def _wait(self, moment: Moment, value: Any) -> Any:
        assert self._body is not None
        self.position = moment
        self.value = self.reply = value
        self._state = isolation.take()
        del value
        self._body.switch()
        reply, self.value, self.reply = self.reply, None, None
        return reply
