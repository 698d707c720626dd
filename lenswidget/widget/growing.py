"""The part of the widget that continues a run: column by column, each shown as it comes."""

from collections.abc import Generator
from typing import Any

from lenswidget.errors import Cancelled
from lenswidget.progress import drain
from lenswidget.readout.run import Run
from lenswidget.widget.branch_traits import BranchTraits
from lenswidget.widget.kept_runs import Runs
from lenswidget.widget.requests import GenerateRequest
from lenswidget.widget.session import Session
from lenswidget.widget.view_traits import ViewTraits

# of the event loop after each column, so that a cancel is read and handled
TURNS_AFTER_A_TOKEN = 2
# What the page is told whose run came too late.
OTHER_SHOWN = "Another run or comparison came meanwhile, and is shown."


class GrowingWidget(BranchTraits, ViewTraits):
    """What a widget needs to generate; `LensWidget` has the rest."""

    _session: Session
    _latest: str

    def generate(
        self, n_tokens: int = 40, *, temperature: float | int = 0.0, top_p: float | int = 1.0, seed: int = 0
    ) -> str | list[int]:
        """Continue the prompt that is shown, each token with its column of the grid as soon as it is there.

        Over the exact ids, under the edits that are shown: those that cover generated positions are made at
        each new one, the others at the prompt only. `w.prompt` is then the longer prompt, as ids, and
        `w.state` says how it was made. An interrupt (or *Stop* on the page) keeps what is there.

        Args:
            n_tokens: at most so many; a token that ends a text ends it earlier.
            temperature: 0 takes the most probable token each time; else tokens are drawn.
            top_p: drawn from the most probable tokens that together have this probability.
            seed: of the draws.
        Returns:
            The text of the new tokens, or their ids without a tokenizer.
        Raises:
            LensError: an option out of its range, or a model or prompt that cannot be continued.
        """
        with self._turn():
            self._end_comparison()
            n_before = self._session.run.seq
        grown = self._grow(n_tokens, temperature=temperature, top_p=top_p, seed=seed)
        drain(self._in_turns(grown))
        run = self._session.run
        new = run.token_ids[n_before:].tolist()
        return new if run.tokenizer is None else run.tokenizer.decode(new)

    def _generate_in_slices(
        self, request: GenerateRequest
    ) -> Generator[tuple[int, int], None, dict[str, str]]:
        """The page asked for it: with turns of the event loop in between, and until it is cancelled."""
        options = {"temperature": request.temperature, "top_p": request.top_p, "seed": request.seed}
        yield from self._grow(request.n_tokens, turns=TURNS_AFTER_A_TOKEN, **options)
        return {"run_id": self._session.shown}

    def _grow(
        self, n_tokens: int, *, turns: int = 1, **sampling: Any
    ) -> Generator[tuple[int, int], None, None]:
        """Show the run with one more column each time; once it ends or is stopped, all that belongs to it."""
        self._end_comparison()
        first = last = self._session.run
        runs = self._session.extend(n_tokens, **sampling)
        try:
            for done, run in enumerate(runs, 1):
                if self._latest not in (last.id, first.id):
                    raise Cancelled(OTHER_SHOWN)
                self._latest = run.id
                self._show_step(run, after=last)
                last = run
                for _ in range(turns):
                    yield done, n_tokens
        finally:
            runs.close()
            if last is not first and self._latest == last.id:
                runs_now = self._session.compared(last)
                self._latest = runs_now.run.id
                self._show(runs_now)

    def _show_step(self, run: Run, after: Run) -> None:
        """Show a run that another will soon follow: of its grid, only the newest column is sent.

        Args:
            after: the step before, or the run that was there at first.
        """
        raise NotImplementedError

    def _show(self, runs: Runs) -> None:
        raise NotImplementedError
