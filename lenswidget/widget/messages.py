"""Runs, readouts and cards as the page receives them: JSON and buffers, each id with its label."""

from collections.abc import Mapping, Sequence
from typing import Any, NotRequired, TypedDict

import numpy as np

from lenswidget.anatomy.passes import layer_name, passes_of, row_name, row_phrase
from lenswidget.lenses.lens_report import LensReport
from lenswidget.models.bands import BandMessage, band_to_json
from lenswidget.models.words import word_mask
from lenswidget.readout.background import Background
from lenswidget.readout.card import Card
from lenswidget.readout.proof import Effect, Proof
from lenswidget.readout.readout import Readout
from lenswidget.readout.run import Run
from lenswidget.widget.edit_requests import EditMessage, edit_message
from lenswidget.widget.labels import Labels
from lenswidget.widget.packing import ARRAYS, Packed, json_number, label_to_list, pack
from lenswidget.widget.quality import QualityMessage, quality_message
from lenswidget.widget.requests import ReadRequest

# VS Code moves about 1 MB a second between kernel and page, so what comes first must be small
SNAPSHOT_BYTES = 50_000
BYTES_PER_TOKEN = 14  # id, log-prob, and a label for about every other token
BYTES_PER_TRACKED = 8  # log-prob and rank
BYTES_PER_CELL = 8


def n_columns_at_first(n_rows: int, k: int, n_tracked: int = 0) -> int:
    """How many positions of a grid the page is sent at first.

    Args:
        n_rows: layers of the grid.
        k: top tokens of a cell.
        n_tracked: ids that are ranked in every cell.
    """
    n_cells = SNAPSHOT_BYTES // (BYTES_PER_CELL + BYTES_PER_TOKEN * k + BYTES_PER_TRACKED * n_tracked)
    return max(1, n_cells // n_rows)


class FidelityMessage(TypedDict):
    """How closely the last row reproduces the model's own logits."""

    ok: bool
    max_abs_error: float | str
    tolerance: float
    text: str


class EditedMessage(TypedDict):
    """What the page knows of a run's edits; `Edited` in `protocol.ts`.

    `base_id` and `control_id` are the runs without them and with their controls. `effect` is what became of
    the token that the base answers with, in nats of log-prob.
    """

    base_id: str | None
    control_id: str | None
    proof: dict[str, Any]
    effect: dict[str, Any]


class RunMessage(TypedDict):
    """What the page knows of a run; `RunInfo` in `protocol.ts`.

    `prompt` is what the box shows; `is_text` tells text from the written form of ids. `extras` names the
    inputs beyond ids and mask that came with the prompt, which edited text would drop. `notes` are for the
    info line. `passes` and `rows` are those of blocks that run in a loop, else empty. `next` is the model's
    own answer, and stands at its `position`. `reuse` names the run whose first columns this one took over.
    `compared` is of a run that stands beside another: `Compared`.
    """

    id: str
    prompt: str
    is_text: bool
    extras: list[str]
    notes: list[str]
    model: str
    dtype: str
    quantization: str | None
    n_layers: int
    d_vocab: int
    tokens: list[int]
    labels: dict[str, list[str]]
    next: dict[str, int | float | str]
    joined: list[str | None]
    special: list[bool]
    bands: list[BandMessage]
    passes: list[dict[str, Any]]
    rows: list[dict[str, str]]
    predicts: str
    is_causal: bool
    sites: list[str]
    has_words: bool
    lenses: list[str]
    lens_quality: dict[str, QualityMessage]
    max_length: int | None
    fidelity: FidelityMessage
    edits: list[EditMessage]
    edited: EditedMessage | None
    reuse: dict[str, Any]
    compared: NotRequired[dict[str, Any]]


class CardMessage(TypedDict):
    """A cell card with a label beside every id; `Card` in `protocol.ts`. `labels` are those of `ids`."""

    run_id: str
    layer: int
    position: int
    site: str
    lens: str
    k: int
    temperature: float
    ids: list[int]
    labels: list[list[str]]
    log_probs: list[float | str]
    logits: list[float | str]
    entropy_nats: float | str
    layer_below: int | None
    rank_below: list[int | None]
    promoted: list[dict[str, Any]]
    suppressed: list[dict[str, Any]]
    tracked: list[dict[str, Any]]


def run_message(
    run: Run,
    labels: Labels,
    lenses: Mapping[str, LensReport | None],
    answer: Readout,
    edited: EditedMessage | None = None,
) -> RunMessage:
    """What the page knows of a run: the model, the prompt's tokens, what can be asked.

    Args:
        lenses: the names of the lenses, and what was measured of each.
        answer: a readout of the last layer at `run.answer_position`: the model's own answer.
        edited: what is known of its edits, where some are on.
    """
    prompt, info, fidelity = run.spec.prompt, run.model, run.fidelity
    tokens = run.token_ids.tolist()
    next_id = int(answer.ids[0, 0])
    return {
        "id": run.id,
        "prompt": labels.text(tokens) if prompt.text is None else prompt.text,
        "is_text": prompt.text is not None,
        "extras": list(prompt.extras),
        "notes": list(prompt.notes),
        "model": info.name,
        "dtype": info.dtype,
        "quantization": info.quantization,
        "n_layers": info.n_layers,
        "d_vocab": info.d_vocab,
        "tokens": tokens,
        "labels": labels_message(labels, [*tokens, next_id]),
        "next": {
            "id": next_id,
            "log_prob": json_number(float(answer.log_probs[0, 0])),
            "position": run.answer_position,
        },
        "joined": labels.joined(tokens),
        "special": [labels.is_special(i) for i in tokens],
        "bands": [band_to_json(band) for band in prompt.bands],
        "passes": [
            {"start": each.start, "stop": each.stop, "label": each.label} for each in passes_of(info.rows)
        ],
        "rows": [{"name": row_name(row), "phrase": row_phrase(row), "path": row.path} for row in info.rows],
        "predicts": info.predicts,
        "is_causal": info.is_causal,
        "sites": list(info.sites),
        "has_words": info.tokenizer is not None and bool(word_mask(info.tokenizer, info.d_vocab).any()),
        "lenses": list(lenses),
        "lens_quality": {
            name: quality_message(report, info.n_layers, lambda layer: layer_name(layer, info.rows))
            for name, report in lenses.items()
            if report is not None
        },
        "max_length": info.max_length,
        "fidelity": {
            "ok": fidelity.ok,
            "max_abs_error": json_number(fidelity.max_abs_error),
            "tolerance": fidelity.tolerance,
            "text": fidelity.text,
        },
        "edits": [edit_message(edit, run, labels) for edit in run.spec.edits],
        "edited": edited,
        "reuse": {
            "run_id": run.reuse.run_id,
            "n_columns": run.reuse.n_columns,
            "text": run.reuse.text,
        },
    }


def edited_message(labels: Labels, ids: Sequence[str | None], proof: Proof, effect: Effect) -> EditedMessage:
    """What the page knows of a run's edits.

    Args:
        ids: of the runs without them and with their controls.
    """
    return {
        "base_id": ids[0],
        "control_id": ids[1],
        "proof": {
            "ok": proof.ok,
            "n_untouched": proof.n_untouched,
            "n_equal": proof.n_equal,
            "n_close": proof.n_close,
            "text": proof.text,
        },
        "effect": {
            "id": effect.token_id,
            "label": label_to_list(labels[effect.token_id]) if effect.token_id >= 0 else None,
            "before": json_number(effect.before),
            "after": json_number(effect.after),
            "control": None if effect.control is None else json_number(effect.control),
        },
    }


def readout_message(readout: Readout, request: ReadRequest, rows: Sequence[int], labels: Labels) -> Packed:
    """A rectangle's readout, its flat cells laid out `[layers, positions, ...]`.

    Args:
        readout: of the cells of some of the request's layers, layer-major.
        rows: which of `request.layers` those are; the others travel as NaN, as -1 among ranks,
            and as -2 among ids, whose -1 is a cell that is not finite.
    """
    n_cells = len(rows) * len(request.positions)
    arrays = {
        name: _laid_out(array, request, rows, -2 if name.endswith("ids") else -1)
        for name, array in vars(readout).items()
        if name in ARRAYS and isinstance(array, np.ndarray) and array.shape[:1] == (n_cells,)
    }
    return pack(
        arrays,
        labels.of([*ids_in(readout.ids, readout.reference_ids, readout.shown_ids), *request.track]),
        run_id=request.run_id,
        site=request.site,
        lens=request.lens,
        k=request.k,
        layers=request.layers,
        positions=request.positions,
        tracked_ids=request.track,
        against=request.against,
        show=request.show,
    )


def ids_in(*arrays: np.ndarray | None) -> list[int]:
    """The token ids in some arrays `[cells, k]`, each once; what stands for no token is among them."""
    found = [ids.ravel() for ids in arrays if ids is not None]
    return np.unique(np.concatenate(found)).tolist()


def _laid_out(array: np.ndarray, request: ReadRequest, rows: Sequence[int], no_integer: int) -> np.ndarray:
    cells = (len(request.layers), len(request.positions))
    missing = np.nan if array.dtype.kind == "f" else 0 if array.dtype.kind == "b" else no_integer
    laid_out = np.full((*cells, *array.shape[1:]), missing, array.dtype)
    laid_out[list(rows)] = array.reshape(len(rows), cells[1], *array.shape[1:])
    return laid_out


def floor_message(background: Background, show: str) -> dict[str, Any]:
    """What the page knows of a floor: a number for each layer, in nats; NaN where there is none."""
    floors = background.floors.get(show)
    values = [] if floors is None else [json_number(value) for value in floors.tolist()]
    return {"layers": list(background.layers) if values else [], "values": values}


def card_message(card: Card, labels: Labels) -> CardMessage:
    """A cell card with a label beside every id on it."""
    return {
        "run_id": card.run_id,
        "layer": card.layer,
        "position": card.position,
        "site": card.site,
        "lens": card.lens,
        "k": len(card.ids),
        "temperature": card.temperature,
        "ids": card.ids,
        "labels": [label_to_list(labels[i]) for i in card.ids],
        "log_probs": [json_number(value) for value in card.log_probs],
        "logits": [json_number(value) for value in card.logits],
        "entropy_nats": json_number(card.entropy_nats),
        "layer_below": card.layer_below,
        "rank_below": list(card.rank_below),
        "promoted": _moved(card.promoted, labels),
        "suppressed": _moved(card.suppressed, labels),
        "tracked": [
            {"id": i, "label": label_to_list(labels[i]), "log_prob": json_number(lp), "rank": rank}
            for i, lp, rank in card.tracked
        ],
    }


def _moved(changes: Sequence[tuple[int, float]], labels: Labels) -> list[dict[str, Any]]:
    return [{"id": i, "label": label_to_list(labels[i]), "delta": json_number(d)} for i, d in changes]


def labels_message(labels: Labels, token_ids: Sequence[int]) -> dict[str, list[str]]:
    """`{id: [text, kind, raw]}`; JSON's keys are strings."""
    return {str(i): label_to_list(label) for i, label in labels.of(token_ids).items()}
