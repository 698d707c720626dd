"""The way of a trace through its model: how far the forward has come, and how to get anywhere else."""

from collections.abc import Callable, Collection
from functools import partial
from typing import Any

from torch import nn

from lenswidget.tracing import isolation
from lenswidget.tracing.diagnostics import name_module
from lenswidget.tracing.edit_log import EditLog
from lenswidget.tracing.forward import NOTHING, Forward
from lenswidget.tracing.moments import CallOrder, ModuleRef, Moment
from lenswidget.tracing.replay import ModelCall, run_to


class Cursor:
    """The forward in progress, and reruns where something has been passed.

    Whether a moment has been passed is known only where it was watched for. Elsewhere it is guessed from
    earlier forwards, and the guess is checked: a forward that ended without meeting a moment that was
    thought to lie ahead is lost, and is run again to where it stood when it is next needed.

    Attributes:
        at: where the forward stands; None before its start and after its end.
        ref: of the module that it was brought there for.
        value: what the forward had there.
        reply: what the rest of the forward will see in its place.
        has_ended: the body asked for the end, and it has been reached.
        result: what the model returned, where it came to its end.
        replayed: what the last rerun found.
    """

    def __init__(
        self, inputs: ModelCall, root: nn.Module, order: CallOrder, changes: EditLog, *, is_generation: bool
    ) -> None:
        self.at: Moment | None = None
        self.ref = ModuleRef("", root, ())
        self.value: Any = None
        self.reply: Any = None
        self.has_ended = False
        self.result: Any = NOTHING
        self.replayed: Any = None
        self._inputs = inputs
        self._root = root
        self._order = order
        self._changes = changes
        self._is_generation = is_generation
        self._ambient = isolation.take()
        self._switch = isolation.Switch()
        self._forward: Forward | None = None
        self._begun: Forward | None = None  # last: the same, or a rerun

    def skip(self, value: Any) -> None:
        """Let the module that has just been given its input return `value` unrun."""
        self._standing().skip(value)

    def has_passed(self, moment: Moment) -> bool:
        """Whether the moment lies behind: known in a generation, otherwise perhaps a guess."""
        if self.has_ended or self.at is None:
            return self.has_ended
        known = self._forward.has_passed(moment) if self._forward is not None else None
        if known is not None:
            return known
        # where nothing is known, a rerun finds out without going further than the body has asked
        return not self._order.is_before(self.at, moment)

    def go_on(self, moment: Moment, ref: ModuleRef, *also: Moment) -> bool:
        """Move the forward to the moment, or to the first of the other moments.

        Returns:
            whether it stands at one of them now; otherwise it has ended, and is lost.
        """
        forward = self._forward or self._standing()
        forward.watch(moment, ref.around)
        reached = self._advance(forward, {moment, *also})
        if reached is None:
            self.result, self._forward = forward.result, None
            return False
        self.at, self.ref = reached, ref
        self.value = self.reply = forward.value
        return True

    def look_back(self, moment: Moment, ref: ModuleRef) -> bool:
        """Run the model again, with the changes made so far, to see what stood at a moment that has passed.

        Returns:
            whether the rerun met the moment before it came to where the forward stands; what stood there is
            then in `replayed`. Otherwise the moment lies ahead, if anywhere.
        """
        self._inputs.check_repeatable(f"{ref.path or 'the model'}.{moment.kind}")
        stops = {moment} if self.at is None else {moment, self.at}
        rerun = self._fresh(self._inputs.start_again)
        with self._inputs.random_state_kept():
            met = run_to(rerun, stops, self._changes, {})
            self._order.draws = self._order.draws or self._inputs.has_drawn()
        self.replayed = rerun.value
        rerun.close()
        return met == moment

    def to_end(self) -> Any:
        """Run to the end, as the body has asked; returns what the model returns."""
        if not self.has_ended:
            forward = self._forward or self._standing()
            self._advance(forward, ())
            self.end(forward.result)
        return self.result

    def end(self, result: Any) -> None:
        """The forward is at its end, as the body has asked, and this is what the model returned."""
        self.result, self.has_ended, self.at, self._forward = result, True, None, None
        self.value = self.reply = None

    def called(self) -> list[nn.Module]:
        """The modules that run in this forward, in order of their first call."""
        if self._is_generation:
            return self._forward.called() if self._forward is not None else []
        self._scout(None)
        return self._order.called()

    def n_returned(self, ref: ModuleRef) -> int | None:
        """Of how many parts is the tuple that the module returns; None for anything but a tuple."""
        seen = self._forward.returned if self._forward is not None else {}
        if ref.module not in seen and not self._order.has_returned(ref.module):
            self._scout(Moment(ref.module, "output"))
        return seen.get(ref.module, self._order.n_returned(ref.module))

    def close(self) -> None:
        """End the forward wherever it is, and put the thread's state back."""
        self.value = self.reply = self.replayed = None
        try:
            if self._forward is not None:
                self._forward.close()
            if self._begun is not None and self._begun is not self._forward:
                self._begun.close()
            self._forward = self._begun = None
        finally:
            self._switch.close()

    def _standing(self) -> Forward:
        """The forward in progress: begun now, or run again to where it stood if it was lost."""
        if self._forward is None and self.at is None:
            self._forward = self._fresh(self._inputs.start)
        elif self._forward is None:
            assert self.at is not None
            self._inputs.check_repeatable("more of the model")
            forward = self._fresh(self._inputs.start_again)
            values: dict[Moment, Any] = {}
            forward.watch(self.at, self.ref.around)
            with self._inputs.random_state_kept():
                run_to(forward, {self.at}, self._changes, values)
                self._changes.apply(forward, values)
            # what it draws from here on is not what the lost one drew
            self._changes.drawn(self.at)
            self._forward = forward
        return self._forward

    def _advance(self, forward: Forward, stops: Collection[Moment]) -> Moment | None:
        if self.at is not None:
            forward.reply = self.reply
        try:
            return forward.advance(stops)
        except BaseException as error:
            self._forward = None
            name_module(error, self._root)
            raise

    def _fresh(
        self, start: Callable[[], Any], *, watch_all: bool = False, count_steps: bool | None = None
    ) -> Forward:
        watch_all = watch_all or self._is_generation or not self._order.is_complete
        count_steps = self._is_generation if count_steps is None else count_steps
        self._begun = forward = Forward(
            partial(self._learning, start) if watch_all and not count_steps else start,
            self._root,
            self._switch,
            self._ambient,
            self._order,
            watch_all=watch_all,
            count_steps=count_steps,
        )
        forward.begin()
        return forward

    def _learning(self, start: Callable[[], Any]) -> Any:
        result = start()
        self._order.draws = self._inputs.has_drawn()
        return result

    def _scout(self, until: Moment | None) -> None:
        """Run once more, unchanged and watching everything, to learn what this model calls."""
        if until is None and self._order.is_complete:
            return
        rerun = self._fresh(self._inputs.start_again, watch_all=True, count_steps=False)
        with self._inputs.random_state_kept():
            run_to(rerun, set() if until is None else {until}, EditLog(), {})
        rerun.close()
