"""How far two runs are the same before either is run: the first columns, with the same edits."""

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from lenswidget.interventions.places import positions_of, reached_cells
from lenswidget.interventions.recipe import Edit, RunSpec

# What these do to a position depends on its state alone, so that some of their positions may be left out.
_ROW_BY_ROW = frozenset({"zero", "scale", "add", "project_out"})
# What came with a prompt beside its ids: of these, nothing else than ids decides what a position says.
_OF_IDS_ALONE = frozenset({"input_ids", "attention_mask"})


def is_ids_alone(spec: RunSpec) -> bool:
    """Whether a recipe's model inputs are token ids and nothing else: no padding, pictures or positions."""
    prompt = spec.prompt
    return prompt.columns is None and prompt.model_inputs.keys() <= _OF_IDS_ALONE


def shared_prefix(old: RunSpec, new: RunSpec) -> int:
    """How many of the first columns must come out the same in two runs of a model that looks only back.

    The ids are the same, and what edits did to these columns is too. Edits are the same where they are one
    object; of those that are in one run alone, none may reach these columns.
    """
    if not (is_ids_alone(old) and is_ids_alone(new)):
        return 0
    ours, theirs = new.prompt.column_ids.numpy(), old.prompt.column_ids.numpy()
    n = min(len(ours), len(theirs))
    differ = np.flatnonzero(ours[:n] != theirs[:n])
    n = int(differ[0]) if len(differ) else n
    both = unshared_edits(old, new)
    for edit in both:
        for spec in (old, new):
            if edit in spec.active_edits:
                n = min([n, *_touched(edit, spec)])
    for edit in new.active_edits:
        if edit not in both:
            n = _same_places(edit, old, new, n)
    return n


def unshared_edits(old: RunSpec, new: RunSpec) -> list[Edit]:
    """The active edits that one of two recipes has alone; all, where the others stand in another order."""
    mine = [edit for edit in new.active_edits if edit in old.active_edits]
    theirs = [edit for edit in old.active_edits if edit in new.active_edits]
    if mine != theirs:
        return [*old.active_edits, *new.active_edits]
    return [edit for edit in (*old.active_edits, *new.active_edits) if edit not in mine]


def untouched_cells(edits: Iterable[Edit], spec: RunSpec, n_layers: int) -> npt.NDArray[np.bool_]:
    """The cells that edits cannot reach in a model that looks only back, `[n_layers + 1, seq]`."""
    return ~reached_cells(list(edits), n_layers, spec.prompt.seq, is_causal=True)


def _touched(edit: Edit, spec: RunSpec) -> Sequence[int]:
    """The columns that an edit depends on or changes."""
    at = positions_of(edit.positions, spec.prompt.seq)
    is_mean_of_all = edit.op == "mean" and not edit.texts
    return [0] if at and is_mean_of_all else at


def is_run_alone(spec: RunSpec, position: int) -> bool:
    """Whether what edits do to a column depends, beside the columns before it, on that column alone."""
    edits = [edit for edit in spec.active_edits if not _is_row_by_row(edit)]
    return all(position not in positions_of(edit.positions, spec.prompt.seq) for edit in edits)


def _is_row_by_row(edit: Edit) -> bool:
    is_fixed = (edit.op == "mean" and bool(edit.texts)) or (edit.op == "swap" and edit.is_live)
    return is_fixed or edit.op in _ROW_BY_ROW


def _same_places(edit: Edit, old: RunSpec, new: RunSpec, n: int) -> int:
    """Up to where an edit that both runs have does the same, at most `n`."""
    mine, theirs = _touched(edit, new), _touched(edit, old)
    if not _is_row_by_row(edit):
        # the same columns are edited, and none of them is run again, the last of the prefix included
        is_within = sorted(mine) == sorted(theirs) and all(position < n - 1 for position in mine)
        is_within = is_within and edit.op in ("steer", "patch")
        return n if is_within else min([n, *mine, *theirs])
    return min([n, *(set(mine) ^ set(theirs))])
