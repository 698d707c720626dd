"""A Jacobian lens as others `torch.save` it: the published artifact, and the checkpoint of a fit."""

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lenswidget.errors import LensFileError
from lenswidget.lenses.lens_file import DAMAGE, digest, saving
from lenswidget.lenses.provenance import Provenance

# What differs between two fits that can be merged. TransformerLens merges files of equal `metadata` only, so
# these stand outside of it.
OF_THE_TEXTS = ("texts", "n_texts", "n_tokens", "text_digests")
OF_THE_RUN = ("rows", "n_prompts", "dim_batch")  # these settings change no number of the result


class Parts(NamedTuple):
    """What a file says of a lens.

    Attributes:
        sums: sum over texts `[d_model, d_model]` by layer; None where a file has means alone.
    """

    matrices: Mapping[int, Tensor]
    n_prompts: int
    n_layers: int | None
    provenance: Provenance
    sums: dict[int, Tensor] | None = None


def save_payload(path: Path, payload: Mapping[str, Any], provenance: Provenance) -> None:
    """Write `payload` (with `J` or `jacobian_sum`) and where it comes from, whole or not at all.

    Raises:
        LensFileError: it cannot be written.
    """
    shared = asdict(provenance)
    own = {name: shared.pop(name) for name in OF_THE_TEXTS}
    settings = dict(shared["settings"])
    own["settings"] = {name: settings.pop(name) for name in OF_THE_RUN if name in settings}
    metadata = {"lenswidget": json.dumps({**shared, "settings": settings}, sort_keys=True)}
    if provenance.settings.get("target_layer") is not None:
        metadata["target_layer"] = provenance.settings["target_layer"]
    whole = {**payload, "metadata": metadata}
    own["digest"] = _digest(whole, own)
    with saving(path) as (scratch,):
        torch.save({**whole, "lenswidget": json.dumps(own)}, scratch)


def from_payload(path: Path, payload: Any) -> Parts:
    """The lens in a published artifact (`J`), or in a fit's checkpoint (`jacobian_sum` over `n_done` texts).

    Raises:
        LensFileError: it holds neither, or not what was written.
    """
    try:
        return _parts(payload)
    except DAMAGE as error:
        reason = repr(error)[:200]
        raise LensFileError(
            f"{path} holds no Jacobian lens ({reason}): expected a dict with "
            "J {layer: [d_model, d_model]}, n_prompts, source_layers and d_model."
        ) from error


def _parts(payload: Any) -> Parts:
    own = json.loads(payload["lenswidget"]) if "lenswidget" in payload else None
    if own is not None and own["digest"] != _digest(payload, own):
        raise ValueError("it is not what was written: the digests differ")
    if "J" in payload:
        n_prompts, sums = int(payload.get("n_prompts", 0)), None
        matrices = {int(layer): matrix.float() for layer, matrix in payload["J"].items()}
    else:
        n_prompts = int(payload["n_done"])
        sums = {int(layer): matrix.float() for layer, matrix in payload["jacobian_sum"].items()}
        matrices = {layer: matrix / n_prompts for layer, matrix in sums.items()}
    if n_prompts < 0:
        raise ValueError(f"it is the mean of {n_prompts} texts")
    check_matrices(matrices, payload.get("d_model"))
    provenance = _provenance(payload, own, n_prompts)
    target = provenance.settings.get("target_layer")
    if target is not None and target >= 0 and max(matrices) >= target:
        raise ValueError(f"it has a matrix for layer {max(matrices)}, though its target is layer {target}")
    n_layers = None if target is None or target < 0 else target + 1
    return Parts(matrices, n_prompts, n_layers, provenance, sums)


def check_matrices(matrices: Mapping[int, Tensor], d_model: Any = None) -> None:
    """Refuses matrices by layer that are not all `[d_model, d_model]`, or none.

    Raises:
        ValueError, StopIteration: says what they are.
    """
    width = int(next(iter(matrices.values())).shape[-1] if d_model is None else d_model)
    if any(matrix.shape != (width, width) for matrix in matrices.values()):
        raise ValueError(f"its matrices are not all {width} x {width}")
    if min(matrices) < -1:
        raise ValueError(f"it has a matrix for layer {min(matrices)}")


def _provenance(payload: Any, own: dict[str, Any] | None, n_prompts: int) -> Provenance:
    """Ours where it is in the file, else made of what the file says of itself."""
    metadata = dict(payload.get("metadata") or {})
    target = metadata.get("target_layer", payload.get("target_layer"))
    kept = metadata.pop("lenswidget", None)
    if kept is None:
        settings = {key: value for key, value in metadata.items() if key != "n_prompts"}
        found = Provenance(model=str(metadata.get("model_name") or ""), n_texts=n_prompts, settings=settings)
    else:
        shared, own = json.loads(kept), own or {}
        settings = {**shared.get("settings", {}), **own.get("settings", {})}
        found = Provenance.from_mapping({**shared, **own, "settings": settings})
        if found.n_texts != n_prompts:  # others merged it, and kept what the first of the files said
            found = replace(found, n_texts=n_prompts, n_tokens=0, texts="", text_digests=())
    if target is not None:
        found = replace(found, settings={**found.settings, "target_layer": int(target)})
    return found


def _digest(payload: Any, own: Mapping[str, Any]) -> str:
    """Over everything in a payload, its tensors and the rest, but for the digest itself."""
    name = "J" if "J" in payload else "jacobian_sum"
    rest = {key: value for key, value in payload.items() if key not in (name, "lenswidget")}
    told = {key: value for key, value in own.items() if key != "digest"}
    return digest({str(layer): matrix for layer, matrix in payload[name].items()}, rest, told)
