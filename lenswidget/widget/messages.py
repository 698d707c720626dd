"""Runs, readouts and cards as the page receives them: JSON and buffers, each id with its label."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from lenswidget.readout.card import Card
from lenswidget.widget.labels import Labels
from lenswidget.widget.packing import ARRAYS, Packed, json_number, label_to_list, pack
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


def as_asked(run: Any) -> str | list[int]:
    """A run's prompt as text where it was text, else as token ids."""
    return run.prompt if isinstance(run.prompt, str) else run.token_ids.tolist()


def run_message(run: Any, labels: Labels, lenses: Sequence[str], answer: Any) -> dict[str, Any]:
    """What the page knows of a run: the model, the prompt's tokens, what can be asked.

    Args:
        answer: a readout of the last cell, whose top token is the model's own next one.
    """
    tokens = run.token_ids.tolist()
    fidelity = run.fidelity
    next_id = int(answer.ids[0, 0])
    return {
        "id": run.id,
        "prompt": run.prompt if isinstance(run.prompt, str) else "".join(labels[i].raw for i in tokens),
        "model": run.model["name"],
        "dtype": run.model["dtype"],
        "quantization": run.model["quantization"],
        "n_layers": run.n_layers,
        "d_vocab": labels.d_vocab,
        "tokens": tokens,
        "labels": labels_message(labels, [*tokens, next_id]),
        "next": {"id": next_id, "log_prob": json_number(float(answer.log_probs[0, 0]))},
        "joined": labels.joined(tokens),
        "special": [labels.is_special(i) for i in tokens],
        "sites": list(run.sites),
        "lenses": list(lenses),
        "max_length": run.model["max_length"],
        "fidelity": {
            "ok": fidelity.ok,
            "max_abs_error": json_number(fidelity.max_abs_error),
            "tolerance": fidelity.tolerance,
            "text": fidelity.text,
        },
    }


def readout_message(readout: Any, request: ReadRequest, rows: Sequence[int], labels: Labels) -> Packed:
    """A rectangle's readout, its flat cells laid out `[layers, positions, ...]`.

    Args:
        readout: of the cells of some of the request's layers, layer-major.
        rows: which of `request.layers` those are; the others travel as NaN, as -1 among ranks,
            and as -2 among ids, whose -1 is a cell that is not finite.
    """
    n_cells = len(rows) * len(request.positions)
    arrays = {
        name: _laid_out(array, request, rows, -2 if name == "ids" else -1)
        for name, array in vars(readout).items()
        if name in ARRAYS and isinstance(array, np.ndarray) and array.shape[:1] == (n_cells,)
    }
    return pack(
        arrays,
        labels.of([*np.unique(readout.ids).tolist(), *request.track]),
        run_id=request.run_id,
        site=request.site,
        lens=request.lens,
        k=request.k,
        layers=request.layers,
        positions=request.positions,
        tracked_ids=request.track,
    )


def _laid_out(array: np.ndarray, request: ReadRequest, rows: Sequence[int], no_integer: int) -> np.ndarray:
    cells = (len(request.layers), len(request.positions))
    missing = np.nan if array.dtype.kind == "f" else 0 if array.dtype.kind == "b" else no_integer
    laid_out = np.full((*cells, *array.shape[1:]), missing, array.dtype)
    laid_out[list(rows)] = array.reshape(len(rows), cells[1], *array.shape[1:])
    return laid_out


def card_message(card: Card, labels: Labels) -> dict[str, Any]:
    """A cell card with a label beside every id on it; `labels` are those of `ids`, in their order."""
    message = card.to_dict()
    for name in ("log_probs", "logits"):
        message[name] = [json_number(value) for value in message[name]]
    for name in ("promoted", "suppressed"):
        message[name] = [
            {"id": i, "label": label_to_list(labels[i]), "delta": json_number(delta)}
            for i, delta in message[name]
        ]
    message["tracked"] = [
        {"id": i, "label": label_to_list(labels[i]), "log_prob": json_number(lp), "rank": rank}
        for i, lp, rank in card.tracked
    ]
    message["entropy_nats"] = json_number(card.entropy_nats)
    return {**message, "k": len(card.ids), "labels": [label_to_list(labels[i]) for i in card.ids]}


def labels_message(labels: Labels, token_ids: Sequence[int]) -> dict[str, list[str]]:
    """`{id: [text, kind, raw]}`; JSON's keys are strings."""
    return {str(i): label_to_list(label) for i, label in labels.of(token_ids).items()}
