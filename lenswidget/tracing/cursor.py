"""Tracks how far a trace's forward has run, moves it on, and replays it to reach earlier moments."""

from collections.abc import Callable, Collection
from functools import partial
from typing import Any

from torch import nn

from lenswidget.tracing import isolation
from lenswidget.tracing.diagnostics import name_module
from lenswidget.tracing.edit_log import EditLog
from lenswidget.tracing.forward import NOTHING, Forward
from lenswidget.tracing.moments import CallOrder, ModuleRef, Moment
from lenswidget.tracing.output_cache import OutputCache
from lenswidget.tracing.replay import ModelCall, replay_to


class Cursor:
    """Where a trace stands in its model, over one or several forwards.

    A `Forward` is one run, from its start to its end; the cursor has one in progress and starts others for
    replays. Whether a moment has been passed is known only where a hook was set before it. Elsewhere it is
    guessed from earlier runs, and the guess is checked: a forward that ended without meeting a moment that
    was thought to lie ahead is lost, and is replayed to where it stood when it is next needed.

    Attributes:
        at: the moment where the forward waits; None before its start and after its end.
        ref: the module that it was brought there for.
        value: what the forward has there.
        reply: what the rest of the forward will see in its place.
        has_ended: the body asked for the end, and it has been reached.
        result: what the model returned, once a forward has ended.
        replayed: the value that the last replay found.
        cache: gets the outputs of the forward in progress, if the body has asked for that.
    """

    def __init__(
        self,
        model_call: ModelCall,
        root: nn.Module,
        order: CallOrder,
        edit_log: EditLog,
        *,
        is_generation: bool,
    ) -> None:
        self.at: Moment | None = None
        self.ref = ModuleRef("", root, ())
        self.value: Any = None
        self.reply: Any = None
        self.has_ended = False
        self.result: Any = NOTHING
        self.replayed: Any = None
        self.cache: OutputCache | None = None
        self._model_call = model_call
        self._root = root
        self._order = order
        self._edit_log = edit_log
        self._is_generation = is_generation
        self._ambient = isolation.take()
        self._switch = isolation.Switch()
        self._forward: Forward | None = None
        self._last_begun: Forward | None = None  # the forward in progress, or a replay

    def skip(self, value: Any) -> None:
        """Let the module at whose input the forward waits return `value` without running."""
        self._forward_in_progress().skip(value)

    def has_passed(self, moment: Moment) -> bool:
        """Whether the forward has passed the moment; a guess where no hook was set for it in time."""
        if self.has_ended or self.at is None:
            return self.has_ended
        known = self._forward.has_passed(moment) if self._forward is not None else None
        if known is not None:
            return known
        # where nothing is known, a replay finds out without going further than the body has asked
        return not self._order.is_before(self.at, moment)

    def advance_to(self, moment: Moment, ref: ModuleRef, *also: Moment) -> bool:
        """Run the forward on to the moment, or to the first of the other moments.

        Returns:
            whether it waits at one of them now; otherwise it has ended, and is lost.
        """
        forward = self._forward or self._forward_in_progress()
        forward.watch(moment, ref.ancestors)
        reached = self._advance(forward, {moment, *also})
        if reached is None:
            self.result, self._forward = forward.result, None
            return False
        self.at, self.ref = reached, ref
        self.value = self.reply = forward.value
        return True

    def replay(self, moment: Moment, ref: ModuleRef) -> bool:
        """Run the model again, with the edits made so far, for the value of a moment that has passed.

        Returns:
            whether the replay met the moment before it came to where the forward waits; its value is then
            in `replayed`. Otherwise the moment lies ahead, if the model comes to it at all.
        """
        self._model_call.check_replayable(f"{ref.name or 'the model'}.{moment.kind}")
        stops = {moment} if self.at is None else {moment, self.at}
        replay = self._fresh(self._model_call.replay)
        with self._model_call.keeping_random_state():
            met = replay_to(replay, stops, self._edit_log, {})
            self._order.may_draw = self._order.may_draw or self._model_call.has_drawn()
        self.replayed = replay.value
        replay.close()
        return met == moment

    def run_to_end(self) -> Any:
        """Run the forward to its end, as the body has asked, and return what the model returns."""
        if not self.has_ended:
            forward = self._forward or self._forward_in_progress()
            self._advance(forward, ())
            self.end(forward.result)
        return self.result

    def end(self, result: Any) -> None:
        """Take note that the forward has ended, as the body has asked, with the model's return value."""
        self.result, self.has_ended, self.at, self._forward = result, True, None, None
        self.value = self.reply = None

    def called(self) -> list[nn.Module]:
        """The modules that run in this forward, in order of their first call."""
        if self._is_generation:
            return self._forward.called() if self._forward is not None else []
        self._learn_order(None)
        return self._order.called()

    def n_parts(self, ref: ModuleRef) -> int | None:
        """The length of the tuple that the module returns; None where it returns anything but a tuple."""
        seen = self._forward.returned if self._forward is not None else {}
        if ref.module not in seen and not self._order.has_returned(ref.module):
            self._learn_order(Moment(ref.module, "output"))
        return seen.get(ref.module, self._order.n_parts(ref.module))

    def close(self) -> None:
        """End the forward wherever it is, and restore the thread's torch state."""
        self.value = self.reply = self.replayed = None
        try:
            if self._forward is not None:
                self._forward.close()
            if self._last_begun is not None and self._last_begun is not self._forward:
                self._last_begun.close()
            self._forward = self._last_begun = None
        finally:
            self._switch.close()

    def _forward_in_progress(self) -> Forward:
        """The forward in progress: started now, or replayed to where it stood if it was lost."""
        if self._forward is None and self.at is None:
            self._forward = self._fresh(self._model_call.run, cache=self.cache)
        elif self._forward is None:
            assert self.at is not None
            self._model_call.check_replayable("more of the model")
            if self.cache is not None:
                self.cache.clear()  # it holds what the lost forward returned
            forward = self._fresh(self._model_call.replay, cache=self.cache)
            values: dict[Moment, Any] = {}
            forward.watch(self.at, self.ref.ancestors)
            with self._model_call.keeping_random_state():
                replay_to(forward, {self.at}, self._edit_log, values)
                self._edit_log.apply(forward, values)
            # it draws other numbers from here on than the lost forward drew
            self._edit_log.log_random_state(self.at)
            self._forward = forward
        return self._forward

    def _advance(self, forward: Forward, stops: Collection[Moment]) -> Moment | None:
        if self.at is not None:
            forward.reply = self.reply
        try:
            return forward.advance(stops)
        except BaseException as error:
            forward.close()  # an interrupt may come when it has ended and not yet been closed
            self._forward = None
            name_module(error, self._root)
            raise

    def _fresh(
        self,
        start: Callable[[], Any],
        *,
        watch_all: bool = False,
        count_steps: bool | None = None,
        cache: OutputCache | None = None,
    ) -> Forward:
        watch_all = watch_all or self._is_generation or not self._order.is_complete
        count_steps = self._is_generation if count_steps is None else count_steps
        if self._last_begun is not None and self._last_begun is not self._forward:
            self._last_begun.close()  # left open by an interrupt, or by an error of the model
        self._last_begun = forward = Forward(
            partial(self._run_and_note_draws, start) if watch_all and not count_steps else start,
            self._root,
            self._switch,
            self._ambient,
            self._order,
            watch_all=watch_all,
            count_steps=count_steps,
            cache=cache,
        )
        forward.begin()
        return forward

    def _run_and_note_draws(self, start: Callable[[], Any]) -> Any:
        result = start()
        self._order.may_draw = self._model_call.has_drawn()
        return result

    def _learn_order(self, until: Moment | None) -> None:
        """Run once more, without edits and watching every module, to learn what this model calls."""
        if until is None and self._order.is_complete:
            return
        replay = self._fresh(self._model_call.replay, watch_all=True, count_steps=False)
        with self._model_call.keeping_random_state():
            replay_to(replay, set() if until is None else {until}, EditLog(), {})
        replay.close()
