"""Requests of the page, checked field by field; the other end is `protocol.ts`. No torch here."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lenswidget.checks import check_temperature
from lenswidget.errors import CellError

KINDS: dict[type, str] = {str: "text", int: "an integer", list: "a list"}


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
        )


@dataclass(frozen=True)
class SearchRequest:
    """The page asks for tokens like a text."""

    text: str
    k: int

    @classmethod
    def parse(cls, message: Mapping[str, Any]) -> "SearchRequest":
        return cls(text=_text(message, "text"), k=_integer({"k": 20, **message}, "k"))


@dataclass(frozen=True)
class RunRequest:
    """The page asks to run an edited prompt, or the very inputs of a run again: one of the two is None."""

    prompt: str | None
    again: str | None

    @classmethod
    def parse(cls, message: Mapping[str, Any]) -> "RunRequest":
        if "again" in message:
            return cls(None, _text(message, "again"))
        return cls(_text(message, "prompt"), None)


def _field(name: str, kind: type, found: Any) -> Any:
    if isinstance(found, bool) or not isinstance(found, kind):
        raise CellError(f"The request's field {name!r} is {found!r:.80}. Send {KINDS[kind]} there.")
    return found


def _text(message: Mapping[str, Any], name: str) -> str:
    return _field(name, str, message.get(name))


def _integer(message: Mapping[str, Any], name: str) -> int:
    return _field(name, int, message.get(name))


def _list(message: Mapping[str, Any], name: str) -> list[Any]:
    return _field(name, list, message.get(name, []))


def _integers(message: Mapping[str, Any], name: str) -> list[int]:
    return [_field(name, int, item) for item in _list(message, name)]
