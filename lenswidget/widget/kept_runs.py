"""The runs of a widget, by id: those that are shown together, and a few that were shown before."""

from typing import NamedTuple

from lenswidget.errors import CellError
from lenswidget.readout.run import Run, RunSpec

# Runs that are kept beside the one that is shown, so that a late request for an earlier one is answered.
MOST_RUNS, MOST_BYTES = 3, 128 << 20


class Runs(NamedTuple):
    """A run; where it has edits, the run without them, and that with their controls if they have any."""

    run: Run
    base: Run | None = None
    control: Run | None = None


class KeptRuns:
    """Runs with the recipes by which they are made again once their states were let go.

    Attributes:
        shown: the id of the run that the widget shows; empty before the first.
        source: the id of the run that patches are taken from; empty where there is none.
        shown_runs: the run that is shown, and those it is compared with; None before the first and once they
            are released.
    """

    def __init__(self) -> None:
        self._runs: dict[str, Run] = {}
        self._specs: dict[str, RunSpec] = {}
        self.shown = ""
        self.source = ""
        self.shown_runs: Runs | None = None

    @property
    def together(self) -> set[str]:
        """The ids of the run that is shown and of those it is compared with."""
        return {self.shown, *(each.id for each in self.shown_runs or () if each is not None)}

    @property
    def base_id(self) -> str | None:
        """The id of the run that is shown before its edits; None where it has none."""
        runs = self.shown_runs
        return None if runs is None or runs.base is None else runs.base.id

    @property
    def spec(self) -> RunSpec:
        """The recipe of the run that is shown."""
        return self.spec_of(self.shown)

    def spec_of(self, run_id: str) -> RunSpec:
        """The recipe of a run that is kept.

        Raises:
            CellError: it is not.
        """
        spec = self._specs.get(run_id)
        if spec is None:
            raise CellError("The page asked about a run that is no longer kept: ask about the one shown.")
        return spec

    def kept(self, run_id: str) -> Run | None:
        """A run whose states are there; None where there are none."""
        return self._runs.get(run_id)

    def keep(self, run: Run) -> None:
        """Keep a run, as the newest."""
        self._runs.pop(run.id, None)
        self._runs[run.id] = run
        self._specs[run.id] = run.spec

    def drop(self, run_id: str) -> None:
        """Keep a run no longer, unless it is shown."""
        if run_id not in self.together:
            self._forget(run_id)

    def _forget(self, run_id: str) -> None:
        self._runs.pop(run_id, None)
        self._specs.pop(run_id, None)

    def show(self, runs: Runs, instead_of: str = "") -> None:
        """Keep some runs and make the first the one that is shown; the oldest others are let go.

        Args:
            instead_of: the id of a run that is of no use any more.
        """
        self._forget(instead_of)
        together = [each for each in runs if each is not None]
        for each in reversed(together):
            self.keep(each)
        self.shown, self.shown_runs = runs.run.id, runs
        kept = {self.source, *(each.id for each in together)}
        others = [each for each in self._runs.values() if each.id not in kept]
        while others and (len(others) > MOST_RUNS or sum(each.nbytes for each in others) > MOST_BYTES):
            self._forget(others.pop(0).id)
