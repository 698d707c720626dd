"""`lenswidget.compare`: two runs, read where they belong together."""

import warnings
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from lenswidget.errors import Cancelled, FidelityWarning, LensError
from lenswidget.lenses.lens import LensLike, as_lens
from lenswidget.progress import Progress, drain, reporting
from lenswidget.readout.alignment import MISSING
from lenswidget.readout.compared import Array, Comparison, Side
from lenswidget.readout.pair import Pair, pair_of, tracked_in_both
from lenswidget.readout.paired_reading import PREFIX, PairedCells
from lenswidget.readout.reading import read_slices
from lenswidget.readout.run import EMBED_SITE

# What each side says: names of a readout's arrays.
_OWN = ("ids", "log_probs", "tracked_log_probs", "tracked_ranks")


def compare(
    *given: Any,
    lens: LensLike = None,
    site: str = EMBED_SITE,
    k: int = 5,
    track: Iterable[Any] = (),
    progress: Progress = None,
    cancelled: Callable[[], bool] | None = None,
) -> Comparison:
    """What differs between two runs, in the cells that belong together.

    Columns are aligned by token ids: equal stretches together, a stretch that was replaced by as many tokens
    place by place, all others missing on one side. Where the vocabularies differ, columns go together whose
    tokens end at the same character of one text, top tokens are compared as texts, and there is no KL. Rows
    go together by relative depth. `CompareWidget` shows the same on a grid.

    Args:
        given: a model and two prompts; two models and one prompt; two runs; or a model that has an adapter
            and one prompt, which is run with the adapter off (a) and on (b).
        lens: how states are carried to the tail; None is the logit lens.
        site: what is read.
        k: how many top tokens of each cell.
        track: tokens whose log-prob and rank are wanted, as texts that are one token, or ids.
        progress: called with `(cells done, cells in all)`; True shows a tqdm bar.
        cancelled: asked between slices; once it says True, `Cancelled` is raised.
    Raises:
        LensError: anything else was given.
        ModelError: a model that has no adapter, or one whose adapter is merged or changes the unembed.
        PromptError: a prompt that a model cannot take, or columns that cannot be aligned.
        CellError: a token that is not one of the vocabulary.
    Warns:
        FidelityWarning: a run's last row is not the model's own logits.
    """
    if not (cancelled is None or callable(cancelled)):
        raise LensError(
            f"Asked to compare with cancelled={cancelled!r:.60}; pass a function that says True to stop."
        )
    return compare_pair(pair_of(given), lens, site, k, track, progress, cancelled)


def compare_pair(
    pair: Pair,
    lens: LensLike,
    site: str,
    k: int,
    track: Iterable[Any],
    progress: Progress = None,
    cancelled: Callable[[], bool] | None = None,
    stacklevel: int = 3,
) -> Comparison:
    """`compare` of what has been run; `stacklevel` is where its warning points."""
    for run in (pair.a, pair.b):
        run.check_model(values=True)
    alignment = pair.align(site, as_lens(lens))
    n_rows, n_columns = len(alignment.rows), len(alignment.columns)
    cells = PairedCells(
        pair.a,
        pair.b,
        layers=np.repeat(alignment.rows, n_columns, axis=0),
        positions=np.tile(alignment.columns, (n_rows, 1)),
        tracked=tracked_in_both(track, pair),
        share_ids=pair.why_no_kl is None,
        lens=lens,
        site=site,
        k=k,
    )
    with reporting(progress, "comparison", "cell") as report:

        def between(done: int, total: int) -> None:
            report(done, total)
            if cancelled is not None and cancelled():
                raise Cancelled(f"The comparison was stopped after {done} of {total} cells.")

        found: dict[str, Array] = drain(cells.slices(read_slices), between)
        report(len(cells.layers), len(cells.layers))
    for run in (pair.a, pair.b):
        if not run.fidelity.ok:
            complaint = run.fidelity.complaint(run.model.name)
            warnings.warn(f"{complaint} Do not trust these numbers.", FidelityWarning, stacklevel=stacklevel)
    sides = [_side(pair, i, cells, found) for i in (0, 1)]
    tops = [side.ids[:, 0] if cells.share_ids else side.tokens() for side in sides]
    is_known = (sides[0].ids[:, 0] >= 0) & (sides[1].ids[:, 0] >= 0)
    return Comparison(
        a=sides[0],
        b=sides[1],
        alignment=alignment,
        site=site,
        lens=as_lens(lens).name,
        is_missing=(cells.positions == MISSING).any(1),
        agrees=np.where(is_known, tops[0] == tops[1], np.nan).astype(np.float64),
        kl_to_b=found.get("kl_from_reference"),
        kl_to_a=found.get("kl_to_reference"),
        js=found.get("js_reference"),
        why_no_kl=pair.why_no_kl,
    )


def _side(pair: Pair, i: int, cells: PairedCells, found: dict[str, Array]) -> Side:
    run = (pair.a, pair.b)[i]
    return Side(
        name=pair.names[i],
        run_id=run.id,
        layers=cells.layers[:, i],
        positions=cells.positions[:, i],
        tracked_ids=np.array(cells.tracked[i], np.int64),
        tokenizer=run.tokenizer,
        **{name: found[name if i else PREFIX + name] for name in _OWN},
    )
