"""The files that fitted lenses are kept in: our own, safetensors, and what others have `torch.save`d."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lenswidget.errors import LensFileError
from lenswidget.lenses.provenance import Provenance


def as_path(path: Any) -> Path:
    """Where a lens is, or is to be.

    Raises:
        LensFileError: it is no path.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise LensFileError(f"A lens was asked for at {path!r:.80}. Give the path of a file or folder.")
    return Path(path)


def write(
    path: str | Path, kind: str, tensors: Mapping[str, Tensor], provenance: Provenance, **own: Any
) -> None:
    """One safetensors file that says which kind of lens it is, where it comes from, and its `own` facts."""
    path = as_path(path)
    if path.suffix != ".safetensors":
        raise LensFileError(
            f"Asked to save a lens as {path.name}; give the file a name that ends in .safetensors."
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"lens": kind, "provenance": json.dumps(asdict(provenance)), "own": json.dumps(own)}
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, path, metadata)


def read(path: Path, kind: str) -> tuple[dict[str, Tensor], Provenance, dict[str, Any]]:
    """What `write` wrote.

    Raises:
        LensFileError: no such file, not a safetensors file, or not a lens of this kind.
    """
    found = kind_of(path)
    if found != kind:
        raise LensFileError(
            f"{path} holds a lens of kind {found!r}, not {kind!r}; lw.load_lens(path) reads either."
        )
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        return tensors, Provenance.from_json(metadata["provenance"]), json.loads(metadata["own"])
    except (SafetensorError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise LensFileError(f"{path} is no lens that can be read ({error}); save it again.") from error


def kind_of(path: Path) -> str:
    """Which kind of lens is kept at a path: "tuned", "jacobian", or whatever a safetensors file says.

    Raises:
        LensFileError: nothing is there, or nothing that holds a lens.
    """
    if not path.exists():
        raise LensFileError(f"Asked for a lens at {path}, found nothing there; check the path.")
    if path.is_dir():
        if (path / "config.json").exists() and (path / "params.pt").exists():
            return "tuned"
        raise LensFileError(
            f"{path} is a folder without config.json and params.pt, so it holds no tuned lens."
        )
    if path.suffix in (".pt", ".pth", ".bin"):
        return "jacobian"
    try:
        with safe_open(path, framework="pt") as file:
            return (file.metadata() or {})["lens"]
    except (SafetensorError, KeyError) as error:
        raise LensFileError(
            f"{path} is no lens: expected a .safetensors file that a lens was saved to, a Jacobian "
            "lens's .pt, or a folder with config.json and params.pt."
        ) from error


def load_pickled(path: Path) -> Any:
    """A `torch.save`d file read with `weights_only=True`, so that nothing in it is run; tensors on the CPU.

    Raises:
        LensFileError: no such file, or one that holds more than tensors and plain values.
    """
    if not path.is_file():
        raise LensFileError(f"Asked for a lens at {path}, found nothing there; check the path.")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a broken or hostile file raises
        raise LensFileError(
            f"{path} cannot be read as tensors and plain values alone, so it was not loaded "
            f"({str(error).splitlines()[0][:120]}); get the lens from whoever published it."
        ) from error
