"""Files: paths are checked in one place, and a file is written beside its target and then moved there."""

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import Any

from lenswidget.errors import LensError


def as_path(
    path: Any,
    error: type[LensError] = LensError,
    asked: str = "Asked to write to",
    remedy: str = "Give the path of a file.",
) -> Path:
    """A path from a string or a `PathLike` of one; a leading `~` is the home folder.

    Args:
        error: the class to refuse with.
        asked: how the message begins; the value follows.
        remedy: how the message ends.
    Raises:
        LensError: of the class `error`; the value is no path.
    """
    text = os.fspath(path) if isinstance(path, (str, os.PathLike)) else None
    if not isinstance(text, str) or not text or "\0" in text or not _is_encodable(text):
        raise error(f"{asked} {path!r:.80}. {remedy}")
    return Path(os.path.expanduser(text))  # Path's own fails on an unknown user


def _is_encodable(path: str) -> bool:
    try:
        os.fsencode(path)
    except UnicodeEncodeError:  # half a character
        return False
    return True


def cache_folder() -> Path:
    """Where what can be made again is kept: `$XDG_CACHE_HOME/lenswidget`, or `~/.cache/lenswidget`."""
    # The XDG specification says to ignore a relative path.
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (base if base.is_absolute() else Path.home() / ".cache") / "lenswidget"


def file_at(path: Any) -> Path:
    """Where a file can be written, absolute.

    Raises:
        LensError: it is no path, a folder, or in a folder that is not there.
    """
    target = as_path(path).absolute()
    if target.is_dir():
        raise LensError(f"Cannot write {target}: it is a folder. Give the path of a file.")
    if not target.parent.is_dir():
        raise LensError(
            f"Cannot write {target}: the folder {target.parent} does not exist. Make it, or save elsewhere."
        )
    return target


@contextlib.contextmanager
def write_beside(path: Path) -> Generator[Path, None, None]:
    """A scratch path of the same name, moved to `path` when the body ends well, removed when it fails.

    So whoever reads `path` finds the old file or the whole new one, and a full disk or an interrupt costs
    nothing. The body must write the scratch path. `path`'s folder must exist; a link is followed.
    """
    with write_together(path) as (scratch,):
        yield scratch


def write_first(path: Path, text: str) -> str:
    """Write a file unless one is there: of several processes the first wins. Returns what is there then.

    `path`'s folder must exist.
    """
    with tempfile.TemporaryDirectory(prefix=".lenswidget-", dir=path.parent) as folder:
        scratch = Path(folder) / path.name
        scratch.write_text(text, encoding="utf-8")
        with contextlib.suppress(FileExistsError):
            os.link(scratch, path)  # unlike a move, it fails where the other is there
    return path.read_text(encoding="utf-8")


@contextlib.contextmanager
def write_together(*paths: Path) -> Generator[tuple[Path, ...], None, None]:
    """Scratch paths for several files of one folder, all of which are moved into place, or none.

    A process that is killed between two moves leaves some moved; every other failure leaves all as it was.
    """
    targets = [Path(os.path.realpath(path)) for path in paths]
    for target in targets:
        if target.exists() and not os.access(target, os.W_OK):
            raise PermissionError(f"Cannot write {target}: it is read-only. Write elsewhere, or permit it.")
    folder = Path(tempfile.mkdtemp(prefix=".lenswidget-", dir=targets[0].parent))
    try:
        # the names stay: what writes a file may choose its format by the name's end
        scratch = tuple(folder / target.name for target in targets)
        yield scratch
        plain = folder / ".plain"
        plain.touch()
        for target, new in zip(targets, scratch, strict=True):
            _to_disk(new, os.O_RDWR)  # a file's content; Windows asks for a handle that may write
            # a new file is open to whom the umask says: safetensors 0.8 makes one for its owner alone
            shutil.copymode(target if target.exists() else plain, new)
        _move(targets, scratch, folder)
        with contextlib.suppress(OSError):  # not every file system can do this for a folder
            _to_disk(targets[0].parent, os.O_RDONLY)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _move(targets: list[Path], scratch: tuple[Path, ...], folder: Path) -> None:
    """Move each scratch file to its target; if one fails, put back those that were moved."""
    done: list[tuple[Path, Path | None]] = []
    try:
        for index, (target, new) in enumerate(zip(targets, scratch, strict=True)):
            old = None
            if target.exists() and len(targets) > 1:
                old = folder / f"old-{index}"
                shutil.copy2(target, old)
            new.replace(target)
            done.append((target, old))
    except BaseException:
        for target, old in done:
            if old is None:
                target.unlink(missing_ok=True)
            else:
                old.replace(target)
        raise


def sha256(path: Path) -> str:
    """Of a file's bytes, hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()


def _to_disk(path: Path, mode: int) -> None:
    """Ask the system to write a file, or the names in a folder, to the disk now."""
    descriptor = os.open(path, mode)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
