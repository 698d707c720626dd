"""What a survey does with each row: every model, every condition, and several rows at a time where it can."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np

from lenswidget.errors import LensError
from lenswidget.interventions.recipe import Edit, RunSpec
from lenswidget.lenses.lens import Lens
from lenswidget.readout.engine import Engine
from lenswidget.readout.local_engine import LocalEngine
from lenswidget.survey.answers import Answer, read_answers
from lenswidget.survey.batches import Batches
from lenswidget.survey.measured import Measured
from lenswidget.survey.rows import SurveyRow

# Rows that are looked at together, to find some of one length; workers in other processes share such windows.
WINDOW = 128


class Work:
    """The models, lenses and conditions that each prompt is measured with.

    Args:
        edits: of each condition; "plain" has none.
    """

    def __init__(
        self,
        engines: Mapping[str, Engine],
        lenses: Mapping[str, Lens],
        edits: Mapping[str, tuple[Edit, ...]],
        site: str,
    ) -> None:
        self._engines, self._lenses, self._edits, self._site = engines, lenses, edits, site
        for name, engine in engines.items():
            engine.check_lens(lenses[name])
            sites = engine.info().sites
            if site not in sites:
                raise LensError(f"Asked to survey {site!r:.40}. {name} has the sites {', '.join(sites)}.")
        self._batches = {
            name: Batches(engine, lenses[name], site)
            for name, engine in engines.items()
            if isinstance(engine, LocalEngine)
        }

    def identity(self) -> dict[str, Any]:
        """What decides the numbers, as JSON, as far as it can be told by name."""
        return {
            "models": list(self._engines),
            "lenses": {name: _told_lens(lens) for name, lens in self._lenses.items()},
            "edits": {name: [repr(edit) for edit in edits] for name, edits in self._edits.items()},
        }

    def conditions(self) -> list[tuple[str, str]]:
        """Each model's name with each condition."""
        return [(name, condition) for name in self._engines for condition in self._edits]

    def measure(
        self, rows: Sequence[SurveyRow], name: str, condition: str, needed: set[int]
    ) -> Iterator[Measured]:
        """The rows that are needed under one condition, as they come; what a model refuses is told.

        Args:
            rows: of one window: which rows are run together hangs on these alone.
            needed: their places.
        """
        batches = self._batches.get(name)
        done: set[int] = set()
        if batches is not None and not self._edits[condition] and needed:
            try:
                for job in batches.measured(batches.jobs(rows), needed):
                    done.add(job.row.index)
                    yield self._told(job.row, name, condition, job.answers())
            except LensError:
                pass  # which of them it is, is told below
        for row in rows:
            if row.index in needed - done:
                yield self._alone(row, name, condition)

    def _alone(self, row: SurveyRow, name: str, condition: str) -> Measured:
        engine, lens = self._engines[name], self._lenses[name]
        try:
            run = engine.run(RunSpec(engine.encode(row.prompt), edits=self._edits[condition]), reuse=False)
            answers = [forms for forms in (row.targets, row.foils) if forms]
            return self._told(row, name, condition, read_answers(engine, run, answers, lens, self._site))
        except LensError as error:
            return self._told(row, name, condition, [], str(error))

    def _told(
        self, row: SurveyRow, name: str, condition: str, answers: Sequence[Answer], error: str = ""
    ) -> Measured:
        none = np.empty(0)
        answer = answers[0] if answers else Answer(none.astype(np.int64), none, none.astype(np.int64))
        return Measured(
            row=row.index,
            group=row.group,
            prompt=row.prompt,
            model=name,
            condition=condition,
            layers=answer.layers,
            log_probs=answer.log_probs,
            ranks=answer.ranks,
            foil_log_probs=answers[1].log_probs if len(answers) > 1 else None,
            error=error,
            targets=row.targets,
        )


def windows(rows: Iterator[SurveyRow]) -> Iterator[list[SurveyRow]]:
    """Rows in lists of `WINDOW`: the same rows go together however often they are asked for."""
    while window := list(islice(rows, WINDOW)):
        yield window


def _told_lens(lens: Lens) -> str:
    """A lens's name, and the digest of the texts that it was fitted on where it has one."""
    provenance = getattr(lens, "provenance", None)
    texts = getattr(provenance, "texts", "")
    return f"{lens.name} {texts[:16]}".strip()
