"""Requests of the page, checked field by field; the other end is `protocol.ts`. No torch here."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lenswidget.checks import check_temperature, check_text
from lenswidget.errors import CellError

# Tokens that a page may ask to generate at a time.
MOST_GENERATED = 1000
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
class WhyTarget:
    """Whose logit a card explains, and the layer whose parts it has split."""

    token: int
    foil: int | None
    of_layer: int | None

    @classmethod
    def parse(cls, message: Mapping[str, Any]) -> "WhyTarget":
        return cls(_integer(message, "token"), _optional(message, "foil"), _optional(message, "of_layer"))


@dataclass(frozen=True)
class DecodeRequest:
    """The page asks to decode one cell again, or for the code that does.

    Attributes:
        why: what the card explains, of which the code is wanted too; None where it explains nothing.
    """

    run_id: str
    layer: int
    position: int
    site: str
    lens: str
    k: int
    track: list[int]
    temperature: float = 1.0
    show: str = "top"
    why: WhyTarget | None = None

    @classmethod
    def parse(cls, message: Mapping[str, Any]) -> "DecodeRequest":
        why = message.get("why")
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
            why=None if why is None else WhyTarget.parse(_field("why", dict, why)),
        )


@dataclass(frozen=True)
class WhyRequest:
    """The page asks what a cell's logit for a token, less that for a foil, is made of.

    Attributes:
        by: "part"; or "head", "neuron" or "source", which split the parts of one layer.
        of_layer: that layer.
    """

    run_id: str
    layer: int
    position: int
    lens: str
    token: int
    foil: int | None
    by: str
    of_layer: int | None

    @classmethod
    def parse(cls, message: Mapping[str, Any]) -> "WhyRequest":
        return cls(
            run_id=_text(message, "run_id"),
            layer=_integer(message, "layer"),
            position=_integer(message, "position"),
            lens=_text(message, "lens"),
            token=_integer(message, "token"),
            foil=_optional(message, "foil"),
            by=_text(message, "by"),
            of_layer=_optional(message, "of_layer"),
        )


@dataclass(frozen=True)
class AttentionRequest:
    """The page asks where the attention of a cell looks."""

    run_id: str
    layer: int
    position: int

    @classmethod
    def parse(cls, message: Mapping[str, Any]) -> "AttentionRequest":
        return cls(_text(message, "run_id"), _integer(message, "layer"), _integer(message, "position"))


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
        op, site, layers, positions, tokens, lens, heads, neurons, source: of a new one.
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
    heads: tuple[int, ...] = ()
    neurons: tuple[int, ...] = ()
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
            heads=tuple(_integers(message, "heads")),
            neurons=tuple(_integers(message, "neurons")),
            source=None if source is None else CellsRequest.parse(_field("source", dict, source)),
        )


@dataclass(frozen=True)
class MapRequest:
    """The page asks for the causal map of the run that is shown."""

    answer: int
    foil: int | None
    site: str
    ablate: str | None

    @classmethod
    def parse(cls, message: Mapping[str, Any]) -> "MapRequest":
        return cls(
            answer=_integer(message, "answer"),
            foil=_optional(message, "foil"),
            site=_text(message, "site"),
            ablate=_text(message, "ablate") if message.get("ablate") is not None else None,
        )


def source_prompt(message: Mapping[str, Any]) -> str | None:
    """The prompt that the page asks to take patches from; None for none any more."""
    return None if message.get("prompt") is None else _text(message, "prompt")


@dataclass(frozen=True)
class RunRequest:
    """The page asks to run an edited prompt, the very inputs of a run again, or a branch of one.

    Attributes:
        prompt: the text; None for the inputs of the run `again`.
        fork: of the run `again`, the columns up to this position and then this token; None for all of it.
        edits: those of the new run, one by one; None for those that are there.
        show: a run of the tree that is to be shown again, in place of all this.
        beside: a run of the tree that the shown one is to stand beside; empty text shows that alone again.
        frame: the place of a film's run that is to be shown.
    """

    prompt: str | None
    again: str | None
    edits: list[EditRequest] | None = None
    fork: tuple[int, int] | None = None
    show: str | None = None
    beside: str | None = None
    frame: int | None = None

    @classmethod
    def parse(cls, message: Mapping[str, Any]) -> "RunRequest":
        if "show" in message:
            return cls(None, None, show=_text(message, "show"))
        if "frame" in message:
            return cls(None, None, frame=_integer(message, "frame"))
        if "beside" in message:
            return cls(None, None, beside=_text(message, "beside"))
        edits = None
        if message.get("edits") is not None:
            edits = [EditRequest.parse(_field("edits", dict, each)) for each in _list(message, "edits")]
        if "again" in message:
            fork = message.get("fork")
            if fork is not None:
                fork = _field("fork", dict, fork)
                fork = (_integer(fork, "position"), _integer(fork, "token"))
            return cls(None, _text(message, "again"), edits, fork)
        return cls(_text(message, "prompt"), None, edits)


@dataclass(frozen=True)
class GenerateRequest:
    """The page asks to continue the run that is shown."""

    n_tokens: int
    temperature: float
    top_p: float
    seed: int

    @classmethod
    def parse(cls, message: Mapping[str, Any]) -> "GenerateRequest":
        options = {"n_tokens": 40, "temperature": 0.0, "top_p": 1.0, "seed": 0, **message}
        n_tokens = _integer(options, "n_tokens")
        if not 1 <= n_tokens <= MOST_GENERATED:
            raise CellError(
                f"The page asked to generate {n_tokens} tokens. Ask for 1 to {MOST_GENERATED} at a time."
            )
        return cls(
            n_tokens, _number(options, "temperature"), _number(options, "top_p"), _integer(options, "seed")
        )


def _number(message: Mapping[str, Any], name: str) -> float:
    value = message.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise CellError(f"The request's field {name!r} is {value!r:.80}. Send a finite number there.")
    return float(value)


def _field(name: str, kind: type, found: Any) -> Any:
    if isinstance(found, bool) or not isinstance(found, kind):
        raise CellError(f"The request's field {name!r} is {found!r:.80}. Send {KINDS[kind]} there.")
    return found


def _text(message: Mapping[str, Any], name: str) -> str:
    return check_text(_field(name, str, message.get(name)), f"The request's field {name!r}", CellError)


def _integer(message: Mapping[str, Any], name: str) -> int:
    return _field(name, int, message.get(name))


def _optional(message: Mapping[str, Any], name: str) -> int | None:
    return None if message.get(name) is None else _integer(message, name)


def _list(message: Mapping[str, Any], name: str) -> list[Any]:
    return _field(name, list, message.get(name, []))


def _integers(message: Mapping[str, Any], name: str) -> list[int]:
    return [_field(name, int, item) for item in _list(message, name)]
