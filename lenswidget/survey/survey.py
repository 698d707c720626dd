"""Many prompts, one question: how early, how surely and where a model has the answer."""

from collections.abc import Iterator, Mapping, Sequence, Sized
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from lenswidget.anatomy.protocol import ReadableModel
from lenswidget.checks import is_integer
from lenswidget.errors import LensError
from lenswidget.interventions.recipe import Edit, check_edits
from lenswidget.lenses.lens import Lens, LensLike, as_lens
from lenswidget.progress import Progress, reporting
from lenswidget.readout.engine import Engine
from lenswidget.readout.local_engine import engine_of
from lenswidget.readout.run import EMBED_SITE
from lenswidget.survey.measured import Measured, measured_of, to_state
from lenswidget.survey.opener import Opener
from lenswidget.survey.result_file import ResultFile
from lenswidget.survey.rows import Rows, SurveyRow, survey_rows
from lenswidget.survey.table import Survey
from lenswidget.survey.work import Work, windows
from lenswidget.versions import __version__


@runtime_checkable
class Surveys(Protocol):
    """What makes a survey by itself: workers in other processes."""

    def survey(self, rows: Rows, **asked: Any) -> Survey: ...


def survey(
    model: "ReadableModel | Surveys | Mapping[str, ReadableModel]",
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

    Prompts of one length are run together, in batches of bounded size, where the first such batch gave what
    runs of single prompts give; with edits, and where it did not, they are run one at a time. Memory does not
    grow with their number but for the results (some 600 bytes each). A prompt that the model cannot take is
    kept with its error, and the others go on.

    Args:
        model: a `LanguageModel`, or several by name, to compare; one of `lw.connect`; or the workers of
            `lw.connect_workers`, which share the rows.
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
    if isinstance(model, Surveys):
        columns = {"prompt": prompt, "target": target, "foil": foil, "group": group}
        asked: dict[str, Any] = {"lens": lens, "site": site, "k": k, "edits": edits}
        return model.survey(rows, **columns, **asked, out=out, progress=progress)
    engines = _engines(model)
    lenses = _lenses(lens, engines)
    given = check_edits(edits)
    if not is_integer(k) or k < 1:
        raise LensError(f"Asked for the top k={k!r:.40}. Pass an integer, 1 or more.")
    conditions: dict[str, tuple[Edit, ...]] = {"plain": (), **({"edited": given} if given else {})}
    work = Work(engines, lenses, conditions, site)
    columns = {"prompt": prompt, "target": target, "foil": foil, "group": group}
    asked = {**columns, "site": site, **work.identity(), "lenswidget": __version__}
    listed = survey_rows(rows, prompt, target, foil, group)
    if isinstance(rows, str):
        rows = Path(rows)
    total = len(rows) if isinstance(rows, Sized) else None
    file = nullcontext() if out is None else ResultFile(out, asked)
    with reporting(progress, "Survey", "prompt") as report, file as kept:
        found = _measured(work, listed, kept, report, total)
    if not found:
        raise LensError("Asked to survey no rows; pass at least one prompt with its answer.")
    names = {each.name for each in lenses.values()}
    opener = Opener(engines, lenses, conditions)
    return Survey(int(k), " and ".join(sorted(names)), site, tuple(found), opener)


def _measured(
    work: Work, listed: Iterator[SurveyRow], file: ResultFile | None, report: Any, total: int | None
) -> list[Measured]:
    """Every result, those that the file had included, by prompt."""
    had = {} if file is None else {_key(each): each for each in file.found()}
    conditions = work.conditions()
    results: list[Measured] = []
    report(0, total or 1)
    for window in windows(listed):
        digests = {row.index: row.digest for row in window}
        found: dict[tuple[int, str, str], Measured] = {}
        for name, condition in conditions:
            for row in window:
                known = had.pop((digests[row.index], row.index, name, condition), None)
                if known is not None:
                    found[row.index, name, condition] = measured_of(known)
        for name, condition in conditions:
            needed = {row.index for row in window if (row.index, name, condition) not in found}
            for each in work.measure(window, name, condition, needed):
                if file is not None:
                    file.append({**to_state(each), "digest": digests[each.row]})
                found[each.row, name, condition] = each
                done = (len(results) + len(found)) // len(conditions)
                report(done, max(total or 0, done))
        results += [found[row.index, name, condition] for row in window for name, condition in conditions]
    n = len(results) // len(conditions)
    report(n, max(n, 1))
    return results


def _key(kept: Mapping[str, Any]) -> tuple[str, int, str, str]:
    return kept["digest"], kept["row"], kept["model"], kept["condition"]


def _engines(model: Any) -> dict[str, Engine]:
    if isinstance(model, Mapping):
        if not model or not all(isinstance(name, str) for name in model):
            raise LensError("Asked to survey models without names; pass a mapping {name: model}.")
        return {name: engine_of(each) for name, each in model.items()}
    engine = engine_of(model)
    return {engine.info().name: engine}


def _lenses(lens: Any, engines: Mapping[str, Engine]) -> dict[str, Lens]:
    if not isinstance(lens, Mapping):
        return {name: as_lens(lens) for name in engines}
    if missing := [name for name in engines if name not in lens]:
        raise LensError(f"The lenses name no {', '.join(missing)}; pass one for each model, or one for all.")
    return {name: as_lens(lens[name]) for name in engines}
