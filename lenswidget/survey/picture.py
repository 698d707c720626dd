"""A survey as its picture takes it: ranks of every prompt at every layer, and curves, packed."""

import json
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from lenswidget.survey.curves import Curve, contrasts_of
from lenswidget.survey.measured import METRICS, Measured
from lenswidget.survey.opener import Opener

# Ranks take two bytes: this one and those above it are one; the next says that nothing was measured.
MOST_RANK, NO_RANK = 65_534, 65_535
NO_LAYER = 32_767
# Of a prompt and of an answer, what the picture says.
MOST_CHARACTERS = 100


@runtime_checkable
class Surveyed(Protocol):
    """What the picture needs of a survey: see `Survey`."""

    @property
    def k(self) -> int: ...
    @property
    def lens(self) -> str: ...
    @property
    def site(self) -> str: ...
    @property
    def measured(self) -> Sequence[Measured]: ...
    @property
    def opener(self) -> Opener | None: ...


class Picture:
    """The prompts of a survey in columns, one picture for each model and condition.

    Args:
        found: the survey.
    Attributes:
        strips: model and condition of each.
        columns: the row of the survey that each column is; those without any numbers are left out.
    """

    def __init__(self, found: Surveyed) -> None:
        self._found = found
        with_numbers = [each for each in found.measured if not each.error]
        self.strips = list(dict.fromkeys((each.model, each.condition) for each in with_numbers))
        self.columns = list(dict.fromkeys(each.row for each in with_numbers))
        place = {row: column for column, row in enumerate(self.columns)}
        self._at = {(place[each.row], (each.model, each.condition)): each for each in with_numbers}

    def at(self, column: int, strip: int) -> Measured | None:
        """What was measured of a column's prompt; None where that failed, or there is no such column."""
        return self._at.get((column, self.strips[strip])) if 0 <= strip < len(self.strips) else None

    def first(self) -> tuple[int, int]:
        """Column and strip to open at first: the earliest arrival of the first strip that has one."""
        k = self._found.k

        def order(column: int) -> tuple[bool, int, int]:
            measured = self.at(column, 0)
            layer = None if measured is None else measured.holds_from(k)
            return measured is None, NO_LAYER if layer is None else layer, column

        return min(range(len(self.columns)), key=order), 0

    def packed(self) -> dict[str, Any]:
        """`header` and `buffers`, as the page takes them.

        For each strip three buffers, little-endian: ranks `[columns, rows]` uint16, the layer from which the
        answer holds `[columns]` int16 (`NO_LAYER` for none), and its log-probability at the end `[columns]`
        float32; then one for all, the group of each column, `[columns]` uint16. A prompt takes some 2 bytes
        for each layer and its text.
        """
        found, n = self._found, len(self.columns)
        named = [
            next(self._at[column, strip] for strip in self.strips if (column, strip) in self._at)
            for column in range(n)
        ]
        groups = list(dict.fromkeys(each.group for each in named))
        strips: list[dict[str, Any]] = []
        buffers: list[bytes] = []
        for number, (model, condition) in enumerate(self.strips):
            layers = next(each.layers for (_, strip), each in self._at.items() if strip == (model, condition))
            ranks = np.full((n, len(layers)), NO_RANK, "<u2")
            holds = np.full(n, NO_LAYER, "<i2")
            log_probs = np.full(n, np.nan, "<f4")
            for column in range(n):
                measured = self.at(column, number)
                if measured is None:
                    continue
                ranks[column] = np.minimum(measured.ranks, MOST_RANK)
                layer = measured.holds_from(found.k)
                holds[column] = NO_LAYER if layer is None else layer
                log_probs[column] = measured.log_probs[-1]
            strips.append({"model": model, "condition": condition, "layers": layers.tolist()})
            buffers += [ranks.tobytes(), holds.tobytes(), log_probs.tobytes()]
        place = {group: number for number, group in enumerate(groups)}
        buffers.append(np.array([place[each.group] for each in named], "<u2").tobytes())
        header = {
            "k": found.k,
            "lens": found.lens,
            "site": found.site,
            "n": n,
            "n_failed": len({each.row for each in found.measured}) - n,
            "groups": groups,
            "strips": strips,
            "contrasts": contrasts_of(found.measured),
            "metrics": self.metrics(),
            "d_vocab": max((_d_vocab(found, model) for model, _ in self.strips), default=2),
            "rows": self.columns,
            "prompts": [_short(each.prompt) for each in named],
            "answers": [_short(_answer(each.targets)) for each in named],
        }
        return {"header": header, "buffers": buffers}

    def metrics(self) -> list[str]:
        """What curves there are."""
        has_foil = all(each.foil_log_probs is not None for each in self._at.values())
        return [metric for metric in METRICS if has_foil or metric != "foil_difference"]


def packed_curves(curves: Sequence[Curve]) -> list[dict[str, Any]]:
    """Curves as JSON holds them; numbers to 6 digits."""
    return [
        {
            **curve.part._asdict(),
            "layers": curve.layers.tolist(),
            "n": curve.n,
            **{name: [_json_number(x) for x in getattr(curve, name)] for name in ("mean", "low", "high")},
        }
        for curve in curves
    ]


def _json_number(x: float) -> float | None:
    return float(f"{x:.6g}") if np.isfinite(x) else None


def _d_vocab(found: Surveyed, model: str) -> int:
    return found.opener.engines[model].info().d_vocab if found.opener is not None else MOST_RANK


def _answer(targets: Sequence[Any]) -> str:
    return " or ".join(form if isinstance(form, str) else f"id {form}" for form in targets)


def _short(value: Any) -> str:
    """Text that is not too long to be shown, from its end: there the prompt's question is."""
    text = value if isinstance(value, str) else _told(value)
    text = " ".join(text.encode("utf-8", "replace").decode("utf-8").split())
    return text if len(text) <= MOST_CHARACTERS else "…" + text[1 - MOST_CHARACTERS :]


def _told(value: Any) -> str:
    """A chat by what is said in it; token ids as they are."""
    if isinstance(value, Sequence) and value and isinstance(value[0], dict):
        return " / ".join(str(turn.get("content", "")) for turn in value)
    try:
        return json.dumps(value)
    except TypeError:
        return repr(value)
