"""What a person chooses, as the widget's traits hold it: checked before a trait changes."""

import operator
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from lenswidget.errors import CellError, LensError
from lenswidget.wire import check_temperature

METRICS = ("prob", "log_prob", "entropy", "kl", "rank", "agrees")
TRAJECTORY_METRICS = ("prob", "log_prob", "rank")
MOST_ON_A_CARD = 1000


def as_state(value: Any) -> dict[str, Any]:
    """The choices that a widget begins with; None is none.

    Raises:
        LensError: it is no mapping.
    """
    if value is None or isinstance(value, Mapping):
        return dict(value or {})
    raise LensError(f"The widget was given state={value!r:.80}. Pass the state of another widget, w.state.")


def as_selection(value: Any) -> dict[str, int]:
    """A cell, `{"layer": i, "position": j}`, with plain integers.

    Raises:
        CellError: it is anything else.
    """
    with _must_be('The selection must be {"layer": i, "position": j}, or None', value):
        return _cell(value)


def as_cards(values: Sequence[Any]) -> list[dict[str, Any]]:
    """Cells kept open, with the site and lens each is read by, and its `k` and `temperature` if given.

    Raises:
        CellError: one of them is anything else.
        LensError: a temperature that is not a finite number above 0.
    """
    form = '{"layer": i, "position": j, "site": text, "lens": text}, with or without "k" and "temperature"'
    with _must_be(f"Each card must be {form}", values):
        return [_card(card) for card in values]


def as_pins(values: Sequence[Any]) -> list[dict[str, Any]]:
    """Pinned tokens: each the ids whose probabilities are summed, a label, and the number of a colour.

    Raises:
        CellError: one of them is anything else.
    """
    with _must_be('Each pin must be {"ids": [token ids], "label": text, "color": number}', values):
        pins = [
            {
                "ids": list(dict.fromkeys(_integers(pin["ids"]))),  # twice would count twice in the sum
                "label": _text(pin["label"]),
                "color": operator.index(pin["color"]),
            }
            for pin in values
        ]
        if not all(pin["ids"] for pin in pins):
            raise ValueError
        return pins


def as_trajectory(value: Any) -> dict[str, Any]:
    """What the chart shows: a metric, and the positions; none of them follows the one that is looked at.

    Raises:
        CellError: it is anything else.
    """
    metrics = " or ".join(f'"{metric}"' for metric in TRAJECTORY_METRICS)
    with _must_be(f'The trajectory must be {{"metric": {metrics}, "positions": [j, ...]}}', value):
        if value["metric"] not in TRAJECTORY_METRICS:
            raise ValueError
        return {"metric": value["metric"], "positions": _integers(value["positions"])}


@contextmanager
def _must_be(need: str, value: Any) -> Generator[None, None, None]:
    try:
        yield
    except (KeyError, TypeError, ValueError):
        raise CellError(f"{need}; it was set to {value!r:.80}.") from None


def _cell(value: Any) -> dict[str, int]:
    return {name: operator.index(value[name]) for name in ("layer", "position")}


def _card(value: Any) -> dict[str, Any]:
    card: dict[str, Any] = {**_cell(value), "site": _text(value["site"]), "lens": _text(value["lens"])}
    if "k" in value:
        card["k"] = operator.index(value["k"])
        if not 1 <= card["k"] <= MOST_ON_A_CARD:
            raise CellError(f"A card holds 1 to {MOST_ON_A_CARD} tokens; it was asked for {card['k']}.")
    if "temperature" in value:
        card["temperature"] = check_temperature(value["temperature"])
    return card


def _integers(values: Any) -> list[int]:
    return [operator.index(value) for value in values]


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value
