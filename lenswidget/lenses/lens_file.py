"""The files that fitted lenses are kept in: our own, safetensors, and what others have `torch.save`d."""

import contextlib
import hashlib
import json
import zipfile
from collections.abc import Generator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lenswidget import files
from lenswidget.errors import LensFileError
from lenswidget.lenses.compact import pack
from lenswidget.lenses.lens_report import LensReport
from lenswidget.lenses.provenance import Provenance

# Everything that a damaged file makes json, a conversion or a constructor raise.
DAMAGE = (
    SafetensorError,
    ArithmeticError,
    AttributeError,
    LookupError,
    OSError,
    RuntimeError,
    StopIteration,
    TypeError,
    ValueError,
)
OWN_KEYS = {"lens", "provenance", "own"}
PUBLISHED = ("config.json", "params.pt")  # a folder of the tuned-lens package
IN_FOLDERS = ("lens.safetensors", "lens.pt")  # the latter as the reference implementation publishes it
ZIP_STARTS = b"PK\x03\x04"


def as_path(path: Any) -> Path:
    """Where a lens is, or is to be.

    Raises:
        LensFileError: it is no path.
    """
    return files.as_path(path, LensFileError, "A lens was asked for at", "Give the path of a file or folder.")


@contextlib.contextmanager
def saving(*paths: Path) -> Generator[tuple[Path, ...], None, None]:
    """Scratch paths that replace `paths`, all or none, when the body ends well; their folder is made.

    Raises:
        LensFileError: the body or the move fails, on a full disk, say; what was there is as it was.
    """
    try:
        paths[0].parent.mkdir(parents=True, exist_ok=True)
        with files.write_together(*paths) as scratch:
            yield scratch
    except (OSError, RuntimeError, SafetensorError) as error:  # torch and safetensors have their own
        reason = (str(error) or repr(error)).splitlines()[0][:200].rstrip(".")
        raise LensFileError(
            f"Could not write {paths[0]} ({reason}). What was there is as it was; make room, or save "
            "elsewhere."
        ) from error


def digest(tensors: Mapping[str, Tensor], *facts: Any) -> str:
    """sha256 over plain facts, and over names, dtypes, shapes and bytes of tensors, whatever their order."""
    found = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        found.update(repr((name, str(tensor.dtype), list(tensor.shape))).encode())
        found.update(memoryview(cast(Any, tensor.reshape(-1).view(torch.uint8).numpy())))
    return found.hexdigest()


def as_stored(path: Path, matrices: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Matrices as a file at `path` is to hold them: in a floating dtype, or packed as int8.

    Raises:
        LensFileError: another dtype, or matrices that cannot be packed.
    """
    try:
        if dtype == torch.int8:
            return pack(matrices)
        if dtype.is_floating_point:
            return {name: matrix.detach().cpu().to(dtype) for name, matrix in matrices.items()}
        reason = "a lens is kept in float32, float16, bfloat16 or int8"
    except ValueError as error:
        reason = str(error)
    raise LensFileError(f"Asked to save a lens to {path} in {dtype}: {reason}. Save it in float32.")


def write(
    path: str | Path,
    kind: str,
    tensors: Mapping[str, Tensor],
    provenance: Provenance,
    measured: LensReport | None = None,
    **own: Any,
) -> None:
    """One safetensors file that says which kind of lens it is, where it comes from, and its `own` facts.

    Args:
        measured: how well it reads the model; kept if there is one.
    Raises:
        LensFileError: the name does not end in .safetensors, or it cannot be written.
    """
    path = as_path(path)
    if path.suffix != ".safetensors":
        raise LensFileError(
            f"Asked to save a lens as {path.name}; give the file a name that ends in .safetensors."
        )
    kept = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    if measured is not None:
        own["report"] = asdict(measured)
    metadata = {"lens": kind, "provenance": json.dumps(asdict(provenance)), "own": json.dumps(own)}
    with saving(path) as (scratch,):
        save_file(kept, scratch, {**metadata, "digest": digest(kept, metadata)})


def read(path: Path, kind: str) -> tuple[dict[str, Tensor], Provenance, dict[str, Any]]:
    """What `write` wrote.

    Raises:
        LensFileError: no such file, not a safetensors file, not a lens of this kind, or not what was written.
    """
    found = kind_of(path)
    if found != kind:
        raise LensFileError(
            f"{path} holds a lens of kind {found!r}, not {kind!r}; lw.load_lens(path) reads either."
        )
    try:
        with safe_open(path, framework="pt") as file:
            metadata: dict[str, str] = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        _check_digest(tensors, metadata)
        own = json.loads(metadata["own"])
        if not isinstance(own, dict):
            raise TypeError(f"its own facts are a {type(own).__name__}")
        return tensors, Provenance.from_json(metadata["provenance"]), cast(dict[str, Any], own)
    except DAMAGE as error:
        raise damaged(path, error) from error


def report_in(own: Mapping[str, Any]) -> LensReport | None:
    """What was measured of a lens, among its own facts; None where nothing was.

    Raises:
        ValueError: it is not what `write` wrote.
    """
    return None if own.get("report") is None else LensReport.from_mapping(own["report"])


def content_digest(path: Path) -> str:
    """The digest that a file says is its content's, which `read` has checked; empty for one without."""
    with safe_open(path, framework="pt") as file:
        return (file.metadata() or {}).get("digest", "")


def _check_digest(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Refuses what differs from what was written. Files of the first version have no digest.

    Raises:
        ValueError: it differs.
    """
    facts = {key: value for key, value in metadata.items() if key != "digest"}
    if "digest" not in metadata and set(facts) == OWN_KEYS:
        return
    if metadata.get("digest") != digest(tensors, facts):
        raise ValueError("it is not what was written: the digests differ")


def damaged(path: Path, error: BaseException) -> LensFileError:
    """The refusal of a file whose content cannot be what a lens was saved as."""
    reason = (str(error) or repr(error)).splitlines()[0][:120].rstrip(".")
    return LensFileError(f"{path} is no lens that can be read ({reason}); save it again.")


def located(path: Any) -> Path:
    """Where the lens that a path stands for is: a file, or a folder of the tuned-lens package.

    A folder may hold one under a usual name; a file of such a package's folder stands for its folder.

    Raises:
        LensFileError: it is no path.
    """
    path = as_path(path)
    is_part = path.name in PUBLISHED and all((path.parent / name).is_file() for name in PUBLISHED)
    if is_part:
        return path.parent
    if path.is_dir() and not all((path / name).exists() for name in PUBLISHED):
        return next((path / name for name in IN_FOLDERS if (path / name).is_file()), path)
    return path


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
            f"{path} is a folder without config.json and params.pt, so it holds no tuned lens, and without "
            f"{' or '.join(IN_FOLDERS)}."
        )
    if path.suffix in (".pt", ".pth", ".bin"):
        return "jacobian"
    try:
        with safe_open(path, framework="pt") as file:
            return (file.metadata() or {})["lens"]
    except DAMAGE as error:
        raise LensFileError(
            f"{path} is no lens: expected a .safetensors file that a lens was saved to, a Jacobian "
            "lens's .pt, or a folder with config.json and params.pt."
        ) from error


def load_pickled(path: Path) -> Any:
    """A `torch.save`d file read with `weights_only=True`, so that nothing in it is run; tensors on the CPU.

    Raises:
        LensFileError: no such file, a damaged one, or one that holds more than tensors and plain values.
    """
    if not path.is_file():
        raise LensFileError(f"Asked for a lens at {path}, found nothing there; check the path.")
    try:
        _check_archive(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a broken or hostile file raises
        reason = (str(error) or repr(error)).splitlines()[0][:120]
        raise LensFileError(
            f"{path} cannot be read as tensors and plain values alone, so it was not loaded "
            f"({reason}); get the lens from whoever published it."
        ) from error


def _check_archive(path: Path) -> None:
    """Refuses a zip archive whose content is not that of its checksums: torch reads on without a word.

    Raises:
        zipfile.BadZipFile: it is damaged.
    """
    with path.open("rb") as file:
        if file.read(len(ZIP_STARTS)) != ZIP_STARTS:
            return
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            if entry.CRC:  # torch can be told to write none
                with archive.open(entry) as part:
                    while part.read(1 << 20):
                        pass
