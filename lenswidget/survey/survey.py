"""Many prompts, one question: how early, how surely and where a model has the answer."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence, Sized
from pathlib import Path
from typing import Any

import numpy as np

from lenswidget.anatomy.protocol import ReadableModel
from lenswidget.checks import is_integer
from lenswidget.errors import LensError
from lenswidget.interventions.recipe import Edit, RunSpec, check_edits
from lenswidget.lenses.lens import Lens, LensLike, as_lens
from lenswidget.progress import Progress, reporting
from lenswidget.readout.engine import Engine
from lenswidget.readout.local_engine import LocalEngine
from lenswidget.readout.run import EMBED_SITE
from lenswidget.survey.answers import read_answer
from lenswidget.survey.measured import Measured, measured_of, to_state
from lenswidget.survey.opener import Opener
from lenswidget.survey.result_file import ResultFile
from lenswidget.survey.rows import Rows, SurveyRow, survey_rows
from lenswidget.survey.table import Survey
from lenswidget.versions import __version__


def survey(
    model: ReadableModel | Mapping[str, ReadableModel],
    rows: Rows,
    *,
    prompt: str = "prompt",
    target: str = "target",
    foil: str | None = None,
    group: str | None = None,
    lens: LensLike | Mapping[str, LensLike] = None,
    site: str = EMBED_SITE,
    k: int = 1,
    edits: Edit | Sequence[Edit] = (),
    out: str | Path | None = None,
    progress: Progress = True,
) -> Survey:
    """Read every prompt at its end and say, layer by layer, how probable its answer is and what its rank.

    Prompts are run one at a time, so memory does not grow with their number but for the results (some 600
    bytes each). A prompt that the model cannot take is kept with its error, and the others go on.

    Args:
        model: a `LanguageModel`, or several by name, to compare.
        rows: mappings with the columns below, or pairs (prompt, target); a DataFrame of pandas or polars; a
            `datasets.Dataset`; or the path of a file of JSON lines.
        prompt: the column with text, token ids or a chat.
        target: the column with the answer: text as it follows the prompt (mind the space in " Paris"), a
            token id, or a list of such, which are forms of one answer. Text of several tokens counts with its
            exact log-probability, token after token.
        foil: a column with the answer that it is measured against, likewise.
        group: a column that prompts are counted by.
        lens: None is the logit lens; for several models a mapping by their names.
        site: what is read.
        k: a layer has an answer whose rank is below `k`; 1 is the top token alone.
        edits: with any, each prompt is run without and with them.
        out: a file of JSON lines that every result is added to. A survey that was stopped, or killed, goes on
            from it when it is called again, and ends with the same table.
        progress: True for a bar, a function `(done, prompts)`, or False. Prompts are counted where they have
            a length; else the second number is the first.
    Raises:
        LensError: no model, no rows, a lens or site that the model does not have, or an `out` that holds
            something else.
        PromptError: a row that lacks a column, or holds something else there.
        EditError: an edit that is not complete.
    """
    engines = _engines(model)
    lenses = _lenses(lens, engines)
    given = check_edits(edits)
    if not is_integer(k) or k < 1:
        raise LensError(f"Asked for the top k={k!r:.40}. Pass an integer, 1 or more.")
    conditions = {"plain": (), **({"edited": given} if given else {})}
    work = _Work(engines, lenses, conditions, site)
    columns = {"prompt": prompt, "target": target, "foil": foil, "group": group}
    asked = {**columns, "site": site, **work.identity(), "lenswidget": __version__}
    listed = survey_rows(rows, prompt, target, foil, group)
    if isinstance(rows, str):
        rows = Path(rows)
    total = len(rows) if isinstance(rows, Sized) else None
    with reporting(progress, "Survey", "prompt") as report:
        if out is None:
            found = [each for row in _told(listed, report, total) for each in work.measure(row)]
        else:
            found = _into_file(ResultFile(out, asked), work, _told(listed, report, total))
    if not found:
        raise LensError("Asked to survey no rows; pass at least one prompt with its answer.")
    names = {each.name for each in lenses.values()}
    return Survey(
        int(k), " and ".join(sorted(names)), site, tuple(found), Opener(engines, lenses, conditions)
    )


def _into_file(file: ResultFile, work: "_Work", listed: Iterator[SurveyRow]) -> list[Measured]:
    """Every result, those that the file had included, by prompt."""
    kept = {(each["digest"], each["row"], each["model"], each["condition"]): each for each in file.found()}
    found: list[Measured] = []
    with file:
        for row in listed:
            digest = _digest(row)
            for name, condition in work.conditions():
                had = kept.pop((digest, row.index, name, condition), None)
                if had is not None:
                    found.append(measured_of(had))
                    continue
                measured = work.measure_one(row, name, condition)
                file.append({**to_state(measured), "digest": digest})
                found.append(measured)
    return found


class _Work:
    """The models, lenses and conditions that each prompt is measured with."""

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

    def identity(self) -> dict[str, Any]:
        """What decides the numbers, as JSON, as far as it can be told by name."""
        return {
            "models": list(self._engines),
            "lenses": {name: _told_lens(lens) for name, lens in self._lenses.items()},
            "edits": {name: [repr(edit) for edit in edits] for name, edits in self._edits.items()},
        }

    def conditions(self) -> Iterator[tuple[str, str]]:
        """Each model's name with each condition."""
        for name in self._engines:
            for condition in self._edits:
                yield name, condition

    def measure(self, row: SurveyRow) -> list[Measured]:
        """One prompt under every condition."""
        return [self.measure_one(row, name, condition) for name, condition in self.conditions()]

    def measure_one(self, row: SurveyRow, name: str, condition: str) -> Measured:
        """One prompt under one condition; what the model refuses is told, not raised."""
        engine, lens = self._engines[name], self._lenses[name]
        told: dict[str, Any] = {
            "row": row.index,
            "group": row.group,
            "prompt": row.prompt,
            "model": name,
            "condition": condition,
            "targets": row.targets,
        }
        try:
            run = engine.run(RunSpec(engine.encode(row.prompt), edits=self._edits[condition]))
            answer = read_answer(engine, run, row.targets, lens, self._site)
            foil = read_answer(engine, run, row.foils, lens, self._site) if row.foils else None
        except LensError as error:
            none = np.empty(0)
            return Measured(
                **told,
                layers=none.astype(np.int64),
                log_probs=none,
                ranks=none.astype(np.int64),
                error=str(error),
            )
        return Measured(
            **told,
            layers=answer.layers,
            log_probs=answer.log_probs,
            ranks=answer.ranks,
            foil_log_probs=None if foil is None else foil.log_probs,
        )


def _engines(model: Any) -> dict[str, Engine]:
    if isinstance(model, Mapping):
        if not model or not all(isinstance(name, str) for name in model):
            raise LensError("Asked to survey models without names; pass a mapping {name: model}.")
        return {name: LocalEngine(each) for name, each in model.items()}
    engine = LocalEngine(model)
    return {engine.info().name: engine}


def _lenses(lens: Any, engines: Mapping[str, Engine]) -> dict[str, Lens]:
    if not isinstance(lens, Mapping):
        return {name: as_lens(lens) for name in engines}
    if missing := [name for name in engines if name not in lens]:
        raise LensError(f"The lenses name no {', '.join(missing)}; pass one for each model, or one for all.")
    return {name: as_lens(lens[name]) for name in engines}


def _told(rows: Iterator[SurveyRow], report: Any, total: int | None) -> Iterator[SurveyRow]:
    done = 0
    for row in rows:
        report(done, max(total or 0, done + 1))
        yield row
        done += 1
    report(done, done)


def _told_lens(lens: Lens) -> str:
    """A lens's name, and the digest of the texts that it was fitted on where it has one."""
    provenance = getattr(lens, "provenance", None)
    texts = getattr(provenance, "texts", "")
    return f"{lens.name} {texts[:16]}".strip()


def _digest(row: SurveyRow) -> str:
    """Of all that decides a row's numbers, to know it again in a file."""
    told = json.dumps([row.prompt, row.targets, row.foils, row.group], sort_keys=True, default=repr)
    return hashlib.sha256(told.encode("utf-8", "surrogatepass")).hexdigest()[:16]
