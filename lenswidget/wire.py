"""Readouts and requests <-> messages and binary buffers. No torch here.

A packed readout is a JSON header and one little-endian buffer per array, each `[layers, positions, ...]`.
The same packing serves replies, the snapshot that a saved notebook keeps, and exported files.
"""

import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np

from lenswidget.errors import CellError, LensError

ARRAYS = (
    "ids",
    "log_probs",
    "entropy_nats",
    "kl_from_final",
    "kl_to_final",
    "tracked_log_probs",
    "tracked_ranks",
    "agrees",
)
KINDS: dict[type, str] = {str: "text", int: "an integer", list: "a list"}
DTYPES = {"i": "int32", "u": "int32", "f": "float32", "b": "uint8"}


@dataclass(frozen=True)
class Packed:
    """A readout of a rectangle of cells, ready to travel.

    Attributes:
        header: JSON: `run_id, site, lens, k, layers, positions, tracked_ids, arrays, labels`.
        buffers: one per entry of `header["arrays"]`, in order.
    """

    header: dict[str, Any]
    buffers: list[bytes]


def pack(arrays: Mapping[str, Any], labels: Mapping[int, Any], **header: Any) -> Packed:
    """Pack the arrays of a rectangle of cells.

    Args:
        arrays: name -> `[layers, positions, ...]` array, or None for one that was not asked for.
        labels: token id -> `Label`, for every id in the arrays.
        header: what else travels: `run_id, site, lens, k, layers, positions, tracked_ids`.
    """
    entries: list[dict[str, Any]] = []
    buffers: list[bytes] = []
    for name in ARRAYS:
        if arrays.get(name) is None:
            continue
        array = np.asarray(arrays[name])
        dtype = DTYPES[array.dtype.kind]
        entries.append({"name": name, "dtype": dtype, "shape": list(array.shape)})
        buffers.append(np.ascontiguousarray(array, dtype=np.dtype(dtype).newbyteorder("<")).tobytes())
    packed_labels = {str(token_id): label_to_list(label) for token_id, label in labels.items()}
    return Packed({**header, "arrays": entries, "labels": packed_labels}, buffers)


def unpack(header: Mapping[str, Any], buffers: Sequence[Any]) -> dict[str, np.ndarray]:
    """The arrays of a packed readout, by name; the inverse of `pack`.

    Raises:
        ValueError: a buffer's length does not match its entry.
    """
    arrays: dict[str, np.ndarray] = {}
    for entry, buffer in zip(header["arrays"], buffers, strict=True):
        flat = np.frombuffer(buffer, dtype=np.dtype(entry["dtype"]).newbyteorder("<"))
        arrays[entry["name"]] = flat.reshape(entry["shape"])
    return arrays


def label_to_list(label: Any) -> list[str]:
    """`Label` -> `[text, kind, raw]`."""
    return [label.text, label.kind, label.raw]


@dataclass(frozen=True)
class ReadRequest:
    """The frontend asks for a rectangle of cells; `js/src/protocol.ts` is its other end."""

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
            metrics=[str(metric) for metric in _list(message, "metrics")],
        )


@dataclass(frozen=True)
class DecodeRequest:
    """The frontend asks to decode one cell again."""

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


def check_temperature(value: Any) -> float:
    """A sampling temperature.

    Raises:
        LensError: not a finite number above 0.
    """
    if isinstance(value, Real) and value is not True:
        with contextlib.suppress(OverflowError):  # an integer that no float can hold
            if math.isfinite(value) and float(value) > 0:
                return float(value)
    raise LensError(
        f"The temperature is {value!r}. It must be a finite number above 0; 1 leaves logits as is."
    )


def json_number(value: float) -> float | str:
    """JSON has no NaN or infinity: those travel as the text that JavaScript's `Number` reads back."""
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


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
