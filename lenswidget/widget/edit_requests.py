"""Edits between the page and the kernel: what the page asks for, and what it is told."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol, TypedDict, runtime_checkable

from lenswidget.errors import CellError
from lenswidget.interventions.places import layers_of, positions_of
from lenswidget.interventions.recipe import Edit
from lenswidget.lenses.lens import Lens
from lenswidget.models.token_ids import token_id
from lenswidget.readout.run import Run, RunSpec
from lenswidget.widget.labels import Labels
from lenswidget.widget.packing import json_number, label_to_list
from lenswidget.widget.requests import EditRequest


@runtime_checkable
class HasRuns(Protocol):
    """What an edit that the page asks for may refer to: a `Session` has it."""

    def lens(self, name: str) -> Lens: ...
    def spec_of(self, run_id: str) -> RunSpec: ...
    def run_of(self, run_id: str) -> Run: ...


class EditMessage(TypedDict):
    """An edit as the page takes it; `EditInfo` in `protocol.ts`.

    `layers` and `positions` are those of the run; `generated` says whether later ones are edited too. `taken`
    are the cells that a patch is taken from: the run's id, where a run was given, its layers and positions.
    """

    op: str
    site: str
    layers: list[int]
    positions: list[int]
    generated: bool
    strength: float | str
    is_on: bool
    has_control: bool
    tokens: list[dict[str, Any]]
    heads: list[int] | None
    neurons: list[int] | None
    source: str | None
    taken: dict[str, Any] | None


def edits_of(asked: Sequence[EditRequest], there: Sequence[Edit], session: HasRuns) -> tuple[Edit, ...]:
    """The edits that a page asks for.

    Args:
        there: those of the run that is asked about.
    Raises:
        CellError: one to be kept is not there.
        EditError: one that is not complete.
    """
    return tuple(_edit_of(each, there, session) for each in asked)


def _edit_of(asked: EditRequest, there: Sequence[Edit], session: HasRuns) -> Edit:
    if asked.keep is not None:
        if not 0 <= asked.keep < len(there):
            raise CellError(
                f"The page asked to keep edit {asked.keep} of {len(there)}. Ask for one of those."
            )
        edit = there[asked.keep]
        if (edit.strength, edit.is_on) == (asked.strength, asked.is_on):
            return edit
        return replace(edit, strength=asked.strength, is_on=asked.is_on)
    options: dict[str, Any] = {}
    if asked.tokens:
        options = {"tokens": asked.tokens, "lens": session.lens(asked.lens)}
    if asked.source is not None:
        source = session.run_of(asked.source.run_id)
        options = {
            "source": source if source.is_current else session.spec_of(asked.source.run_id),
            "from_layer": asked.source.layer,
            "from_positions": asked.source.positions,
        }
    for kind, ids in (("heads", asked.heads), ("neurons", asked.neurons)):
        if ids:
            options[kind] = ids
    return Edit(
        asked.op,
        site=asked.site,
        layers=asked.layers,
        positions=asked.positions,
        strength=asked.strength,
        is_on=asked.is_on,
        **options,
    )


def _taken(edit: Edit, run: Run) -> dict[str, Any] | None:
    """The cells that a patch is taken from."""
    spec = edit.source_spec
    if spec is None:
        return None
    at = edit.positions if edit.from_positions is None else edit.from_positions
    layers = layers_of(edit, run.n_layers) if edit.from_layer is None else [edit.from_layer]
    run_id = edit.source.id if isinstance(edit.source, Run) else None
    return {"run_id": run_id, "layers": layers, "positions": positions_of(at, spec.prompt.seq, "take")}


def edit_message(edit: Edit, run: Run, labels: Labels) -> EditMessage:
    """An edit of a run."""
    ids = [token_id(token, run.tokenizer, run.d_vocab, labels.entries) for token in edit.tokens]
    spec = edit.source_spec
    return {
        "op": edit.op,
        "site": edit.site,
        "layers": layers_of(edit, run.n_layers),
        "positions": sorted(positions_of(edit.positions, run.seq)),
        "generated": edit.positions is None or edit.positions == "generated",
        "strength": json_number(float(edit.strength)),
        "is_on": edit.is_on,
        "has_control": edit.has_control,
        "tokens": [{"id": i, "label": label_to_list(labels[i])} for i in ids],
        "heads": _listed(edit, "heads"),
        "neurons": _listed(edit, "neurons"),
        "taken": _taken(edit, run),
        "source": None if spec is None else "".join(labels[i].raw for i in spec.prompt.column_ids.tolist()),
    }


def _listed(edit: Edit, kind: str) -> list[int] | None:
    return list(edit.units[1]) if edit.units is not None and edit.units[0] == kind else None
