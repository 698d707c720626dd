"""Why a cell says what it says, as the page receives it: the terms of a logit with their names."""

from collections.abc import Callable, Sequence
from typing import Any, TypedDict

from lenswidget.errors import LensError
from lenswidget.lenses.lens import Lens
from lenswidget.readout.attention import Attention
from lenswidget.readout.attribute import attribute
from lenswidget.readout.attribution import Attribution
from lenswidget.readout.run import Run
from lenswidget.widget.labels import Labels
from lenswidget.widget.packing import json_number, label_to_list
from lenswidget.widget.requests import DecodeRequest, WhyRequest


class WhyTerm(TypedDict):
    """One term; `WhyTerm` in `protocol.ts`. `unit` is a head, a neuron or a position read, else -1."""

    kind: str
    layer: int
    unit: int
    name: str
    predicted: float | str
    measured: float | str


class WhyMessage(TypedDict):
    """The reply to `why`; `Why` in `protocol.ts`. All numbers are logits.

    `before` is the same cell's number in the run without edits; None where there are none.
    """

    run_id: str
    layer: int
    position: int
    lens: str
    by: str
    token: dict[str, Any]
    foil: dict[str, Any] | None
    terms: list[WhyTerm]
    total: float | str
    remainder: float | str
    before_cap: float | str
    logit: float | str
    cap: float | None
    before: float | str | None
    notes: list[str]


class AttentionMessage(TypedDict):
    """The reply to `attention`; `Attention` in `protocol.ts`.

    `weights` is `[heads, seq]`; `read` `[seq]` is what was read from each position, as a share of all: by the
    size of what the heads add from there, or by their weights where something is multiplied in between.
    """

    layer: int
    position: int
    weights: list[list[float]]
    read: list[float]
    sinks: list[int]


def attention_message(found: Attention) -> AttentionMessage:
    """What a page draws of where a cell's attention looks: numbers to four digits."""
    sizes = found.weights if found.value_weighted is None else found.value_weighted
    read = sizes.sum(0)
    total = read.sum()
    return {
        "layer": found.layer,
        "position": found.position,
        "weights": found.weights.round(4).tolist(),
        "read": (read / total if total > 0 else read).round(4).tolist(),
        "sinks": found.sinks,
    }


def why(request: WhyRequest, run: Run, base: Run | None, lens: Lens, labels: Labels) -> WhyMessage:
    """What a cell's logit is made of.

    Args:
        base: the run without edits, where there are some.
    Raises:
        LensError: the cell cannot be taken apart, or is not there.
    """
    layers = None if request.of_layer is None else [request.of_layer]
    options: dict[str, Any] = {"token": request.token, "foil": request.foil, "lens": lens}
    found = attribute(run, request.layer, request.position, by=request.by, layers=layers, **options)
    before = None
    if base is not None and request.by == "part":
        before = json_number(
            attribute(base, request.layer, request.position, is_measured=False, **options).logit
        )
    return {
        "run_id": run.id,
        "layer": found.layer,
        "position": found.position,
        "lens": request.lens,
        "by": found.by,
        "token": _token(found.token_id, labels),
        "foil": None if found.foil_id is None else _token(found.foil_id, labels),
        "terms": _terms(found, request.of_layer),
        "total": json_number(found.total),
        "remainder": json_number(found.remainder),
        "before_cap": json_number(found.before_cap),
        "logit": json_number(found.logit),
        "cap": found.cap,
        "before": before,
        "notes": list(found.notes),
    }


# How many pieces of each layer a file stores; the page lists as many.
STORED_PIECES = {"head": 8, "source": 5, "neuron": 5}
# Of how many pinned tokens.
STORED_TARGETS = 3


def stored_whys(
    ask: Callable[..., WhyMessage], cell: DecodeRequest, tokens: Sequence[int]
) -> list[WhyMessage]:
    """The explanations of a cell for a page without a kernel; none where it cannot be taken apart.

    Of the first token with the strongest pieces of each layer; of the others the parts alone, and the
    difference of the first to each.

    Args:
        ask: `Session.why`.
        tokens: whose logits; at most `STORED_TARGETS` of them are stored.
    """

    def asked(token: int, foil: int | None = None, by: str = "part") -> WhyMessage:
        return ask(WhyRequest(cell.run_id, cell.layer, cell.position, cell.lens, token, foil, by, None))

    first, *others = tokens[:STORED_TARGETS]
    try:
        found = [asked(first)]
        for other in others:
            found += [asked(other), asked(first, other)]
        for by, n in STORED_PIECES.items():
            message = asked(first, by=by)
            found.append({**message, "terms": _strongest_of_each_layer(message["terms"], by, n)})
    except LensError:
        return []
    return found


def _strongest_of_each_layer(terms: Sequence[WhyTerm], kind: str, n: int) -> list[WhyTerm]:
    of_layer: dict[int, list[WhyTerm]] = {}
    for term in terms:
        if term["kind"] == kind:
            of_layer.setdefault(term["layer"], []).append(term)
    return [
        term
        for some in of_layer.values()
        for term in sorted(some, key=lambda each: -abs(float(each["predicted"])))[:n]
    ]


def _token(token_id: int, labels: Labels) -> dict[str, Any]:
    return {"id": token_id, "label": label_to_list(labels[token_id])}


def _terms(found: Attribution, of_layer: int | None) -> list[WhyTerm]:
    """All terms; or those of one layer, strongest first."""
    order = range(len(found)) if of_layer is None else found.strongest(len(found))
    return [
        {
            "kind": found.kinds[i],
            "layer": int(found.layers[i]),
            "unit": int(found.units[i]),
            "name": found.names[i],
            "predicted": json_number(float(found.predicted[i])),
            "measured": json_number(float(found.measured[i])),
        }
        for i in order
        if of_layer is None or found.layers[i] == of_layer
    ]
