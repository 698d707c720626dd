"""What edits left untouched, as a proof; and what they did to the model's answer."""

from dataclasses import dataclass

import numpy as np

from lenswidget.interventions.places import reached_cells
from lenswidget.readout.cells import Cells
from lenswidget.readout.elsewhere import at_the_run
from lenswidget.readout.engine import Engine
from lenswidget.readout.query import Query
from lenswidget.readout.readout import Readout
from lenswidget.readout.run import EMBED_SITE, Run
from lenswidget.tolerances import SPLIT_FORWARD, UNTOUCHED


@dataclass(frozen=True)
class Proof:
    """The cells that a run's edits cannot reach, compared bit for bit with the run without them.

    Attributes:
        n_untouched: how many cells the edits cannot reach: those below their layers, and, where positions see
            earlier ones alone, those before them.
        n_equal: how many of these have the very same state.
        n_close: how many others are the same up to rounding: experts compute tokens together, and some
            kernels sum in another order each time.
    """

    n_untouched: int
    n_equal: int
    n_close: int = 0

    @property
    def ok(self) -> bool:
        return self.n_equal + self.n_close == self.n_untouched

    @property
    def text(self) -> str:
        """One plain line for the badge."""
        if not self.n_untouched:
            return "The edits reach every cell."
        of = f"of {self.n_untouched} cells that the edits cannot reach"
        if not self.ok:
            n = self.n_untouched - self.n_equal - self.n_close
            return f"{n} {of} differ from the run without edits: do not trust the difference."
        rest = f"; the other {self.n_close} up to rounding" if self.n_close else ""
        return f"{self.n_equal} {of} are bit-equal to the run without edits{rest}."


@dataclass(frozen=True)
class Effect:
    """What edits did to one token at `answer_position`, through the model's own tail; log-probs in nats.

    Attributes:
        token_id: the top token without edits.
        before, after: its log-prob without edits and with them.
        control: with the controls in place of the edits that have one; None where none has.
    """

    token_id: int
    before: float
    after: float
    control: float | None


@at_the_run
def prove(run: Run, base: Run) -> Proof:
    """The cells that the edits of `run` cannot reach, against those of `base`, a run of the same prompt."""
    edits = run.spec.active_edits
    reached = reached_cells(edits, run.n_layers, run.seq, is_causal=run.model.is_causal)
    n_untouched = n_equal = n_close = 0
    for row, layer in enumerate(range(-1, run.n_layers)):
        at = np.flatnonzero(~reached[row])
        if len(at):
            cells = Cells([layer] * len(at), at)
            own, theirs = (each.states_of(EMBED_SITE, cells) for each in (run, base))
            # NaN is equal to itself here: bits are compared
            is_same = ((own == theirs) | (own.isnan() & theirs.isnan())).all(-1)
            largest = theirs.float().abs().amax(-1)
            gap = (own.float() - theirs.float()).abs().amax(-1)
            is_close = ~is_same & (gap <= UNTOUCHED.bound(largest, own.dtype))
            if run.reuse.n_columns or base.reuse.n_columns:  # the two may have been run in other parts
                distance, norm = (own.float() - theirs.float()).norm(dim=-1), theirs.float().norm(dim=-1)
                is_close |= ~is_same & (distance <= SPLIT_FORWARD.bound(norm, own.dtype))
            n_untouched += len(at)
            n_equal += int(is_same.sum())
            n_close += int(is_close.sum())
    return Proof(n_untouched, n_equal, n_close)


def effect_of(engine: Engine, run: Run, base: Run, control: Run | None) -> tuple[Effect, Readout]:
    """What the edits of `run` did to the token that `base` answers with; and what `run` itself answers."""
    last = run.answer_cell
    answer = engine.read(Query(base, last, k=1))
    token_id = int(answer.ids[0, 0])
    if token_id < 0:
        return Effect(token_id, float("nan"), float("nan"), None), engine.read(Query(run, last, k=1))

    def read(of: Run) -> Readout:
        return engine.read(Query(of, last, track=[token_id]))

    def log_prob(readout: Readout) -> float:
        return float(readout.tracked_log_probs[0, 0])

    after = read(run)
    effect = Effect(
        token_id,
        float(answer.log_probs[0, 0]),
        log_prob(after),
        None if control is None else log_prob(read(control)),
    )
    return effect, after
