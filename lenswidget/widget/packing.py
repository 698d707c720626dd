"""Readouts <-> JSON headers and binary buffers. No torch here.

A packed readout is a JSON header and one little-endian buffer per array, each `[layers, positions, ...]`.
The same packing serves replies, the snapshot that a saved notebook keeps, and exported files.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

ARRAYS = (
    "ids",
    "log_probs",
    "entropy_nats",
    "kl_from_final",
    "kl_to_final",
    "kl_from_reference",
    "kl_to_reference",
    "js_reference",
    "reference_ids",
    "reference_log_probs",
    "reference_tracked_log_probs",
    "reference_tracked_ranks",
    "tracked_log_probs",
    "tracked_ranks",
    "agrees",
    "shown_ids",
    "shown_log_probs",
    "shown_ranks",
    "shown_lifts",
)
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

    @property
    def trait(self) -> dict[str, Any]:
        """As a trait holds it: `Snapshot` in `protocol.ts`."""
        return {"header": self.header, "buffers": self.buffers}


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


def json_number(value: float) -> float | str:
    """JSON has no NaN or infinity: those travel as the text that JavaScript's `Number` reads back."""
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
