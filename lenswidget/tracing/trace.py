"""A trace: the body of a `with` block and a model's forward take turns on one thread."""

import threading
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from lenswidget.errors import OutOfOrderError
from lenswidget.nested import leaves
from lenswidget.tracing.diagnostics import TraceErrors
from lenswidget.tracing.forward import NOTHING
from lenswidget.tracing.moments import ModuleRef, Moment
from lenswidget.tracing.nnsight_names import OF_A_TRACE
from lenswidget.tracing.output_cache import OutputCache, cache_of
from lenswidget.tracing.save_method import add_save
from lenswidget.tracing.steps import Steps
from lenswidget.tracing.values import SavableTuple, as_block_output, check_fit, plain, with_hidden_states
from lenswidget.tracing.with_block import WithBlock


class Trace(WithBlock):
    """One run of a model, open while its `with` block runs. `TracedModel.trace` makes it.

    The body of the block and the model's forward take turns: asking for a value lets the forward run
    until the value is there, and no further. What the body never asks for is never computed.
    """

    _step = 0
    _result: Any = NOTHING

    def __getattr__(self, name: str) -> Any:
        remedy = OF_A_TRACE.get(name)
        raise AttributeError(
            f"A trace has no attribute {name!r}" + (f": {remedy}" if remedy else "."), name=name, obj=self
        )

    @property
    def result(self) -> Any:
        """What the model returns: asking for it runs the forward to its end.

        Stays after the trace has closed, where it was asked for inside.

        Raises:
            TraceError: the trace is closed, and did not run to the end.
        """
        if self._result is NOTHING:
            self._check_open("the result")
            self._end_body_turn()
            self._end(self._cursor.run_to_end())
        return self._result

    @property
    def steps(self) -> Steps:
        """The steps of a generation, each a call of the model; a plain trace has one step.

        `for step in tracer.steps:` moves on from step to step; inside the loop every module's `.output` and
        `.input` are those of that step.
        """
        return Steps(self._to_step)

    def cache(
        self,
        modules: Iterable[Any] | None = None,
        *,
        device: torch.device | str | None = None,
        max_bytes: int = 4 * 2**30,
    ) -> OutputCache:
        """Keep what modules return in this run; asked for first in the body, as the forward then begins.

        When the body ends, the forward runs to its end, so that the cache is complete.

        Args:
            modules: traced modules or their paths; every module inside the model unless given.
            device: where the copies are kept, as `"cpu"`; where each output is, unless given.
            max_bytes: the most that the copies may take.
        Returns:
            a mapping from paths to outputs, which outlives the trace.
        Raises:
            OutOfOrderError: the forward has begun, or there is a cache already.
            TraceError: a path that the model does not have.
        """
        self._check_open("a cache")
        cursor = self._cursor
        if cursor.at is not None or cursor.has_ended or cursor.cache is not None:
            raise OutOfOrderError(
                "Asked for a cache of a forward that has begun, or has one. Ask once, first in the body."
            )
        paths = None if modules is None else [self._path(module) for module in modules]
        cursor.cache = cache_of(self.root, paths, device, max_bytes, self._is_block)
        return cursor.cache

    def read(self, ref: ModuleRef, kind: str) -> Any:
        """The value of a module's call: what it returned, or the pair of what it was given.

        Args:
            kind: "output" or "input".
        Raises:
            NotReachedError: the module does not run in this forward.
            OutOfOrderError: it ran in a generation, which has passed it.
        """
        moment = Moment(ref.module, kind, ref.call, self._step)
        if moment not in self._values:
            self._reach(moment, ref)
        return self._views[moment] if moment in self._views else self._values[moment]

    def write(self, ref: ModuleRef, kind: str, value: Any) -> None:
        """Replace what a module returned, or what it was given, for the rest of the forward.

        Raises:
            OutOfOrderError: the forward has passed it.
            ShapeError: the value does not fit.
        """
        moment = self._reach_to_write(ref, kind)
        found = self._values[moment]
        if kind == "output" and self._is_block(ref):
            states = value[0] if isinstance(value, tuple) and len(value) == 1 else value
            value = with_hidden_states(found, plain(states)) if isinstance(states, Tensor) else value
        value = plain(value)
        check_fit(value, found, self._errors(ref).name(moment))
        self._end_body_turn()
        self._cursor.reply = value
        self._edit_log.log_assignment(moment, value)
        self._record(moment, ref, value)
        self._edit_log.begin_body_turn()

    def skip(self, ref: ModuleRef, value: Any) -> None:
        """Let a module return `value` without running.

        Raises:
            OutOfOrderError: the module has run, or is running.
        """
        self._check_open("a skip")
        value = plain(value)
        if isinstance(value, Tensor) and self._is_block(ref):
            n_parts = self._cursor.n_parts(ref)
            value = value if n_parts is None else (value, *[None] * (n_parts - 1))
        moment = self._reach_to_write(ref, "input")
        self._end_body_turn()
        self._cursor.skip(value)
        self._edit_log.log_skip(moment, value)
        self._edit_log.begin_body_turn()

    def _reach_to_write(self, ref: ModuleRef, kind: str) -> Moment:
        """Bring the forward to a moment, so that its value there can be changed."""
        moment = Moment(ref.module, kind, ref.call, self._step)
        if moment not in self._values or moment != self._cursor.at:
            self._reach(moment, ref, to_write=True)
        return moment

    def _reach(self, moment: Moment, ref: ModuleRef, *, to_write: bool = False) -> None:
        """Bring the forward to a moment, or replay it: the value is then in `_values`."""
        if self._state != "open" or threading.get_ident() != self._thread.ident:
            self._check_open(self._errors(ref).name(moment))
        if self._cursor.at is not None:
            self._end_body_turn()
        try:
            self._bring(moment, ref, to_write)
        finally:
            self._edit_log.begin_body_turn()

    def _bring(self, moment: Moment, ref: ModuleRef, to_write: bool) -> None:
        cursor = self._cursor
        if moment in self._values:
            raise self._errors(ref).too_late(moment, cursor.at)
        if not cursor.has_passed(moment) and cursor.advance_to(moment, ref):
            self._record(moment, ref, cursor.value)
        else:
            self._replay(moment, ref, to_write)

    def _replay(self, moment: Moment, ref: ModuleRef, to_write: bool) -> None:
        cursor = self._cursor
        if cursor.replay(moment, ref):
            if to_write:
                raise self._errors(ref).too_late(moment, cursor.at)
            return self._record(moment, ref, cursor.replayed)
        # it has not been passed after all: no hook was set in time, or the guess was wrong
        if not cursor.has_ended and cursor.advance_to(moment, ref):
            return self._record(moment, ref, cursor.value)
        raise self._errors(ref).not_reached(moment, cursor.called())

    def _record(self, moment: Moment, ref: ModuleRef, value: Any) -> None:
        self._values[moment] = value
        if isinstance(value, dict) and add_save(value):
            self._saveable.append(value)
        self._views.pop(moment, None)
        if moment.kind == "output" and moment.module is ref.module and self._is_block(ref):
            self._views[moment] = as_block_output(value)
        elif type(value) is tuple:
            self._views[moment] = SavableTuple(value)
        self._watch(moment, value)

    def _watch(self, moment: Moment, value: Any) -> None:
        """Watch a value for edits in place, which a replay must make as well."""
        found = leaves(value)
        self._model_call.protect(found)
        if moment == self._cursor.at:
            self._edit_log.watch(moment, value, found)

    def _end_body_turn(self) -> None:
        """The forward is about to go on: log the body's edits in place where the forward waits."""
        at = self._cursor.at
        if at is None:
            return
        self._edit_log.end_body_turn(at)
        view = self._views.get(at)
        if isinstance(view, Tensor) and view.requires_grad:
            # the forward goes on from the very tensor that the body holds, so that gradients reach it
            self._cursor.reply = with_hidden_states(self._values[at], plain(view))

    def _to_step(self, step: int) -> bool:
        """Move on to the beginning of a step; False if there is none."""
        self._check_open(f"step {step}")
        return step == 0

    def _end(self, result: Any) -> None:
        self._cursor.end(result)
        self._result = result
        if isinstance(result, dict) and add_save(result):
            self._saveable.append(result)
        if not self._is_generation:
            self._values.setdefault(Moment(self.root, "output"), result)

    def _path(self, module: Any) -> str:
        return self._aliases.resolve(self.root, module) if isinstance(module, str) else module.path

    def _errors(self, ref: ModuleRef) -> TraceErrors:
        refs = (ref,) if self._state == "closed" else (ref, self._cursor.ref)
        return TraceErrors(self.root, self._is_generation, refs)
