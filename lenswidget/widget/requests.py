"""Requests of the page, checked field by field; the other end is `protocol.ts`. No torch here."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lenswidget.checks import check_temperature, check_text
from lenswidget.errors import CellError

KINDS: dict[type, str] = {str: "text", int: "an integer", list: "a list", dict: "an object"}


@dataclass(frozen=True)
class ReadRequest:
    """The page asks for a rectangle of cells."""

    run_id: str
    layers: list[int]
    positions: list[int]
    site: str
    lens: str
    k: int
    track: list[int]
    metrics: list[str]
    against: str | None = None
    show: str = "top"

    @classmethod
    def parse(cls, message: Mapping[str, Any]) -> "ReadRequest":
        return cls(
            run_id=_text(message, "run_id"),
            layers=_integers(message, "layers"),
            positions=_integers(message, "positions"),
            site=_text(message, "site"),
            lens=_text(message, "lens"),
            k=_integer(message, "k"),
            track=_integers(message, "track"),
            metrics=[_field("metrics", str, metric) for metric in _list(message, "metrics")],
            against=_text(message, "against") if message.get("against") is not None else None,
            show=_text({"show": "top", **message}, "show"),
        )


@dataclass(frozen=True)
class DecodeRequest:
    """The page asks to decode one cell again, or for the code that does."""

    run_id: str
    layer: int
    position: int
    site: str
    lens: str
    k: int
    track: list[int]
    temperature: float = 1.0
    show: str = "top"

    @classmethod
    def parse(cls, message: Mapping[str, Any]) -> "DecodeRequest":
        return cls(
            run_id=_text(message, "run_id"),
            layer=_integer(message, "layer"),
            position=_integer(message, "position"),
            site=_text(message, "site"),
            lens=_text(message, "lens"),
            k=_integer(message, "k"),
            temperature=check_temperature(message.get("temperature", 1.0)),
            track=_integers(message, "track"),
            show=_text({"show": "top", **message}, "show"),
        )


@dataclass(frozen=True)
class FloorRequest:
    """The page asks what a cell of each layer must exceed to say more than noise."""

    site: str
    lens: str
    show: str

    @classmethod
    def parse(cls, message: Mapping[str, Any]) -> "FloorRequest":
        return cls(_text(message, "site"), _text(message, "lens"), _text(message, "show"))


@dataclass(frozen=True)
class SearchRequest:
    """The page asks for tokens like a text."""

    text: str
    k: int

    @classmethod
    def parse(cls, message: Mapping[str, Any]) -> "SearchRequest":
        return cls(text=_text(message, "text"), k=_integer({"k": 20, **message}, "k"))


@dataclass(frozen=True)
class CellsRequest:
    """Cells of a run that a patch is taken from."""

    run_id: str
    layer: int
    positions: list[int]

    @classmethod
    def parse(cls, message: Mapping[str, Any]) -> "CellsRequest":
        return cls(_text(message, "run_id"), _integer(message, "layer"), _integers(message, "positions"))


@dataclass(frozen=True)
class EditRequest:
    """The page asks for an edit: one that is there, changed or not, or a new one.

    Attributes:
        keep: the index of an edit of the run that is asked about; None for a new one.
        op, site, layers, positions, tokens, lens, source: of a new one.
    """

    keep: int | None
    strength: float
    is_on: bool
    op: str = ""
    site: str = ""
    layers: tuple[int, ...] = ()
    positions: tuple[int, ...] = ()
    tokens: tuple[int, ...] = ()
    lens: str = "logit"
    source: CellsRequest | None = None

    @classmethod
    def parse(cls, message: Mapping[str, Any]) -> "EditRequest":
        strength = message.get("strength", 1.0)
        if (
            isinstance(strength, bool)
            or not isinstance(strength, (int, float))
            or not math.isfinite(strength)
        ):
            raise CellError(
                f"The request's field 'strength' is {strength!r:.80}. Send a finite number there."
            )
        is_on = message.get("is_on", True)
        if not isinstance(is_on, bool):
            raise CellError(f"The request's field 'is_on' is {is_on!r:.80}. Send true or false there.")
        if "keep" in message:
            return cls(_integer(message, "keep"), float(strength), is_on)
        source = message.get("source")
        return cls(
            None,
            float(strength),
            is_on,
            op=_text(message, "op"),
            site=_text(message, "site"),
            layers=tuple(_integers(message, "layers")),
            positions=tuple(_integers(message, "positions")),
            tokens=tuple(_integers(message, "tokens")),
            lens=_text({"lens": "logit", **message}, "lens"),
            source=None if source is None else CellsRequest.parse(_field("source", dict, source)),
        )


@dataclass(frozen=True)
class RunRequest:
    """The page asks to run an edited prompt, or the very inputs of a run again: one of the two is None.

    Attributes:
        edits: those of the new run, one by one; None for those that are there.
    """

    prompt: str | None
    again: str | None
    edits: list[EditRequest] | None = None

    @classmethod
    def parse(cls, message: Mapping[str, Any]) -> "RunRequest":
        edits = None
        if message.get("edits") is not None:
            edits = [EditRequest.parse(_field("edits", dict, each)) for each in _list(message, "edits")]
        if "again" in message:
            return cls(None, _text(message, "again"), edits)
        return cls(_text(message, "prompt"), None, edits)


def _field(name: str, kind: type, found: Any) -> Any:
    if isinstance(found, bool) or not isinstance(found, kind):
        raise CellError(f"The request's field {name!r} is {found!r:.80}. Send {KINDS[kind]} there.")
    return found


def _text(message: Mapping[str, Any], name: str) -> str:
    return check_text(_field(name, str, message.get(name)), f"The request's field {name!r}", CellError)


def _integer(message: Mapping[str, Any], name: str) -> int:
    return _field(name, int, message.get(name))


def _list(message: Mapping[str, Any], name: str) -> list[Any]:
    return _field(name, list, message.get(name, []))


def _integers(message: Mapping[str, Any], name: str) -> list[int]:
    return [_field(name, int, item) for item in _list(message, name)]
