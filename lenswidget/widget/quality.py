"""A lens's report as the page draws it: a small curve for the switch, and its poor rows for the legend."""

from collections.abc import Callable, Sequence
from typing import TypedDict

from lenswidget.lenses.lens_report import LensReport

WIDTH, HEIGHT = 56, 16  # of the curve, as `views/toolbar.ts` has it
MOST_TOLD = 5


class QualityMessage(TypedDict):
    """How well a lens reads the model; `Quality` in `protocol.ts`.

    `paths` are of an SVG of 56 x 16: the share of positions whose top token is the last layer's, from 0 at
    the bottom to 1, by layer from the left; the first is of the layers that are not to be trusted. `text`
    says it in numbers. `poor` names these layers, in a sentence; empty where there are none.
    """

    paths: list[str]
    text: str
    poor: str


def quality_message(report: LensReport, n_layers: int, name: Callable[[int], str]) -> QualityMessage:
    """The curve, the numbers and the poor rows of a report.

    Args:
        n_layers: of the model; the curve's width is theirs, whatever the lens carries.
        name: of a layer: "embed", "7".
    """
    shares = report.top1_agreement
    across = [WIDTH * (layer + 1) / max(1, n_layers) for layer in report.layers]
    points = [f"{x:.1f} {HEIGHT * (1 - share):.1f}" for x, share in zip(across, shares, strict=True)]
    is_poor = [layer in report.untrusted for layer in report.layers]
    told = [f"{name(report.layers[at])}: {shares[at]:.0%}" for at in _spread(len(shares) - 1)]
    rows = _spans([report.layers.index(layer) for layer in report.untrusted])
    named = ", ".join(
        name(report.layers[first]) + (f" to {name(report.layers[last])}" if last > first else "")
        for first, last in rows
    )
    return {
        "paths": [_path(points, is_poor, True), _path(points, is_poor, False)],
        "text": f"Its top token is the model’s own, by layer: {', '.join(told)} (of {report.n_positions} "
        f"positions in {report.n_texts} text{'s' * (report.n_texts > 1)})",
        "poor": named and f"{named}: this lens tells less of the answer than token frequencies do",
    }


def _path(points: Sequence[str], is_poor: Sequence[bool], poor: bool) -> str:
    """The lines from each point of one sort to the next point."""
    path = ""
    for at, start in enumerate(points[:-1]):
        if is_poor[at] == poor:
            goes_on = at > 0 and is_poor[at - 1] == poor
            path += ("" if goes_on else f"M{start}") + f"L{points[at + 1]}"
    return path


def _spread(n: int) -> list[int]:
    """At most `MOST_TOLD` of n places, from the first to the last."""
    n_told = min(n, MOST_TOLD)
    return [round(i * (n - 1) / max(1, n_told - 1)) for i in range(n_told)]


def _spans(places: Sequence[int]) -> list[tuple[int, int]]:
    """Ascending places as spans of neighbours, first and last."""
    spans: list[tuple[int, int]] = []
    for place in places:
        if spans and spans[-1][1] == place - 1:
            spans[-1] = (spans[-1][0], place)
        else:
            spans.append((place, place))
    return spans
