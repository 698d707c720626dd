"""Columns that belong together: a message of a chat, what its template puts around it, a picture."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypedDict

from lenswidget.checks import is_integer
from lenswidget.errors import PromptError

# A message of a chat; what a chat template puts around messages; a model's thinking; a picture.
KINDS = ("message", "template", "thinking", "image")


class BandMessage(TypedDict):
    """A band as JSON: in the page's run (`Band` in `protocol.ts`) and in `w.state`."""

    start: int
    stop: int
    kind: str
    label: str
    is_folded: bool
    names: list[str]


@dataclass(frozen=True)
class Band:
    """Some columns of a prompt that follow each other.

    Attributes:
        start, stop: the columns, half open: `start <= column < stop`.
        kind: one of `KINDS`.
        label: what a person reads at the first column: of a message its role.
        is_folded: whether the page shows it as one column until a person unfolds it.
        names: what each of its columns is called beside its token, or empty: of a picture, its patches.
    """

    start: int
    stop: int
    kind: str
    label: str
    is_folded: bool = False
    names: tuple[str, ...] = ()


def check_bands(bands: Iterable[Band], n_columns: int) -> tuple[Band, ...]:
    """The bands in the order of their columns, the wider first.

    Raises:
        PromptError: one lies outside the columns, is empty, is of no known kind, or names other columns.
    """
    listed = tuple(sorted(bands, key=lambda band: (band.start, -band.stop)))
    for band in listed:
        is_inside = 0 <= band.start < band.stop <= n_columns
        if not is_inside or band.kind not in KINDS or len(band.names) not in (0, band.stop - band.start):
            raise PromptError(
                f"The prompt was given {band}, which does not fit its {n_columns} columns. Give start < stop "
                f"within them, a kind among {', '.join(KINDS)}, and a name for each column or none."
            )
    pictured = {column for band in listed if band.kind == "image" for column in range(band.start, band.stop)}
    return tuple(part for band in listed for part in (_without(band, pictured) if pictured else (band,)))


def _without(band: Band, pictured: set[int]) -> list[Band]:
    """A template's band without a picture's columns, which are not the template's words."""
    if band.kind != "template":
        return [band]
    kept = [column for column in range(band.start, band.stop) if column not in pictured]
    cuts = [i for i in range(1, len(kept)) if kept[i] != kept[i - 1] + 1]
    parts = [kept[a:b] for a, b in zip([0, *cuts], [*cuts, len(kept)], strict=True)]
    return [replace(band, start=part[0], stop=part[-1] + 1) for part in parts if part]


def spans_of(bands: Sequence[Band]) -> dict[str, list[int]]:
    """The columns of each role's messages without what the template puts around them, and of each other kind.

    Returns:
        By role, `"template"`, `"thinking"`, `"image"`: columns in order. Several messages of one role are
        joined, and so are several pictures. Only `"template"` has what the template put there.
    """
    template = {
        column for band in bands if band.kind == "template" for column in range(band.start, band.stop)
    }
    spans: dict[str, set[int]] = {}
    for band in bands:
        columns = set(range(band.start, band.stop))
        name = band.label if band.kind == "message" else band.kind
        spans.setdefault(name, set()).update(columns if band.kind == "template" else columns - template)
    return {name: sorted(columns) for name, columns in spans.items()}


def band_to_json(band: Band) -> BandMessage:
    """A band as JSON; `bands_of_json` is the inverse."""
    return {
        "start": band.start,
        "stop": band.stop,
        "kind": band.kind,
        "label": band.label,
        "is_folded": band.is_folded,
        "names": list(band.names),
    }


def bands_of_json(values: Any) -> tuple[Band, ...]:
    """The bands that `band_to_json` wrote.

    Raises:
        PromptError: it is anything else.
    """
    if isinstance(values, Sequence) and not isinstance(values, str):
        found = [_band(value) for value in values]
        bands = [band for band in found if band is not None]
        if len(bands) == len(found):
            return tuple(bands)
    raise PromptError(
        f"The state's recipe has the bands {values!r:.80}. Pass w.state of another widget as it is."
    )


def _band(value: Any) -> Band | None:
    if isinstance(value, Band):
        return value
    match value:
        case {"start": start, "stop": stop, "kind": str(kind), "label": str(label), **rest} if (
            isinstance(value, Mapping) and is_integer(start) and is_integer(stop)
        ):
            names = rest.get("names", [])
            if isinstance(names, list) and all(isinstance(name, str) for name in names):
                return Band(start, stop, kind, label, bool(rest.get("is_folded", False)), tuple(names))
        case _:
            pass
    return None
