"""The part of the widget that forks: a tree of runs, each of which can be shown again or beside another."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, SupportsIndex
from uuid import uuid4

import traitlets as t

from lenswidget.errors import CellError, EditError, LensError, PromptError
from lenswidget.interventions.forking import forked
from lenswidget.interventions.recipe import RunSpec
from lenswidget.interventions.recipe_state import edits_of_state, sampling_of_state
from lenswidget.models.encoded_prompt import prompt_of_state
from lenswidget.readout.pair import Pair
from lenswidget.readout.run import Run
from lenswidget.widget.branches import Branch, Branches, n_shared
from lenswidget.widget.kept_runs import Runs
from lenswidget.widget.paired_session import PairedSession
from lenswidget.widget.session import Session
from lenswidget.widget.turns import TakesTurns
from lenswidget.widget.view_traits import SHARED

# Of a side's name: what it has from the first token on that the other side has not.
N_TOKENS_NAMED = 8


class BranchTraits(TakesTurns):
    """The tree of the runs that were forked, and the one that the shown run stands beside."""

    _session: Session
    _branches: Branches
    # that of one run, while two are shown
    _session_of_one: Session | None = None

    branches = t.List(t.Dict(), read_only=True).tag(**SHARED)

    def fork(self, position: int, token: str | SupportsIndex) -> None:
        """Show a branch of the prompt: its tokens up to a position, and then another token.

        What the two share is taken over. The run that was shown stays among `w.branches`, and can be shown
        again.

        Args:
            position: the last column that is kept, 0 or more.
            token: an id, or text that is exactly one token.
        Raises:
            CellError: no such position or token.
            PromptError: the prompt is more than token ids.
        """
        with self._whole():
            session = self._session_of_one or self._session
            source = Branch(session.shown, session.spec)
            self._fork(source, forked(source.spec, position, session.token_id(token)))

    def show_branch(self, branch: str | int) -> None:
        """Show a run of the tree again: at once where it is kept, else it is run again.

        Args:
            branch: its id, or its place in `w.branches`.
        Raises:
            CellError: there is none.
        """
        with self._whole():
            self._show_again(self._branch(branch))

    def compare_with(self, branch: str | int | None) -> None:
        """Show the run that is shown beside another of the tree, on one grid; None shows it alone again.

        As `CompareWidget` does: A is the other one, B the one that is shown, and `w.view` says which of them
        the grid shows, or the `"difference"`. Another prompt, an edit or a fork ends it.

        Args:
            branch: the other's id, or its place in `w.branches`.
        Raises:
            CellError: there is none.
        """
        with self._whole():
            if branch is None:
                self._end_comparison()
            else:
                self._compare_with(self._branch(branch))

    def _compare_with(self, other: Branch) -> None:
        self._end_comparison()
        session, b = self._session, self._session.run
        a = self._run_of(other)
        n = n_shared(other.ids, b.token_ids.tolist())
        first, second = (session.labels.text(run.token_ids.tolist()[n:][:N_TOKENS_NAMED]) for run in (a, b))
        names = (first or "the shorter one", second or "the shorter one")
        engine = session.engine
        pair = Pair(a, b, "run", names, (engine, engine))
        paired = PairedSession(pair, None, session.lenses, strict=False)
        self._session_of_one, self._session = session, paired
        self._show_as_latest(paired.first())
        self.set_trait("view", "difference")

    def _end_comparison(self) -> None:
        """Show one run again, where two are shown."""
        if self._session_of_one is None:
            return
        self._session, self._session_of_one = self._session_of_one, None
        self._show_as_latest(self._session.shown_runs or Runs(self._session.run))
        self.set_trait("view", "after")

    def _show_as_latest(self, runs: Runs) -> None:
        """Show runs of another session: what still runs for the one before is not shown there."""
        self._note_run(runs.run)
        self._show(runs)

    def _way_back(self) -> Callable[[], None]:
        """What shows again, in the sessions and the tree, what is shown now: one run, or two."""
        traits = super()._way_back()
        if "_branches" not in self.__dict__:  # it has just begun
            return traits
        session, of_one, tree = self._session, self._session_of_one, self._branches.copy()
        shown = [(each, each.shown_runs) for each in (of_one, session) if each is not None]

        def back() -> None:
            self._session, self._session_of_one, self._branches = session, of_one, tree
            for each, runs in shown:
                if runs is not None:
                    each.show(runs)
                    self._note_run(runs.run)
            traits()

        return back

    def _branch(self, branch: str | int) -> Branch:
        tree = self._branches.all
        if isinstance(branch, int) and not isinstance(branch, bool) and -len(tree) <= branch < len(tree):
            return tree[branch]
        for each in tree:
            if each.id == branch:
                return each
        raise CellError(
            f"Asked for the branch {branch!r:.60} of {len(tree)}. Give its id, or its place in w.branches."
        )

    def _run_of(self, branch: Branch) -> Run:
        """The run of a branch, as it is kept or made again."""
        try:
            run = self._session.run_of(branch.id)
        except CellError:
            return self._session.execute(branch.spec).run
        return run if run.is_current else self._session.execute(branch.spec).run

    def _show_again(self, branch: Branch) -> None:
        self._end_comparison()
        self._show(self._runs_again(branch))

    def _runs_again(self, branch: Branch) -> Runs:
        """A run of the tree: the kept one where nothing has to be run for it."""
        if branch.id in self._session.together and self._session.shown_runs is not None:
            return self._session.shown_runs
        if not branch.spec.active_edits:
            run = self._session.kept(branch.id)
            if run is not None and run.is_current:
                self._note_run(run)
                return Runs(run)
        return self._execute(branch.spec)

    def _fork(self, source: Branch, spec: RunSpec) -> None:
        self._end_comparison()
        runs = self._execute(spec)
        self._branches.fork(source, Branch(runs.run.id, runs.run.spec))
        self._show(runs)

    def _keep_branches(self, run: Run) -> None:
        """Another run is shown: the tree says which it is."""
        if self._session_of_one is None:
            self._branches.show(Branch(run.id, run.spec))
            self.set_trait("branches", self._branches.message(self._session.labels))

    def _recipe_state(self) -> dict[str, Any]:
        """That of the run which was there before two were shown."""
        return (self._session_of_one or self._session).recipe_state()

    def _branches_state(self) -> list[dict[str, Any]]:
        """The recipes of the tree, as JSON; none of one that JSON cannot hold."""
        session = self._session_of_one or self._session
        try:
            return [session.state_of(branch.spec) for branch in self._branches.all]
        except (PromptError, EditError):
            return []

    def _restored_branches(self, session: Session, written: Any) -> Branches:
        """The tree of a state; its runs are made when they are asked for."""
        if not isinstance(written, list) or not all(isinstance(each, Mapping) for each in written):
            raise LensError(
                f"The state's branches are {written!r:.60}. Pass w.state of another widget as it is."
            )
        tree: list[Branch] = []
        for recipe in written:
            prompt, options = prompt_of_state(recipe)
            edits = edits_of_state(recipe, session.lens, session.encode)
            spec = RunSpec(session.encode(prompt, **options), edits=edits)
            tree.append(Branch(uuid4().hex, replace(spec, sampling=sampling_of_state(recipe))))
        found = Branches()
        found.restore(tree)
        return found

    def _note_run(self, run: Run) -> None:
        raise NotImplementedError

    def _execute(self, spec: RunSpec) -> Runs:
        raise NotImplementedError

    def _show(self, runs: Runs) -> None:
        raise NotImplementedError
