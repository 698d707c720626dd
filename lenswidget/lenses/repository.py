"""Which of many lenses: a folder or a hub repository that holds those of several models."""

import re
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Any

from lenswidget.errors import LensFileError

# How a lens is kept; of a folder of the tuned-lens package the second of its two files stands for both.
SUFFIXES = (".safetensors", ".pt")
TUNED = "params.pt"
# "owner/name", as the hub allows it.
REPOSITORY = re.compile(r"[\w][\w.-]*/[\w][\w.-]*")
MOST_NAMED = 6


def is_repository(name: Any) -> bool:
    """Whether a name that is no path here can be a repository's."""
    return isinstance(name, str) and REPOSITORY.fullmatch(name) is not None


def in_folder(folder: Path, model_name: str, filename: str | None = None) -> Path:
    """The lens of a model in a folder that holds several.

    Args:
        model_name: what the model was loaded from: "openai-community/gpt2".
        filename: the lens's own path in the folder, where that is known.
    Raises:
        LensFileError: there is no such file, none of the model, or more than one.
    """
    if filename is not None:
        return folder / filename
    files = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()]
    return folder / choose(files, model_name, str(folder))


def from_hub(repo_id: str, model_name: str, filename: str | None = None, revision: str | None = None) -> Path:
    """The lens of a model from a hub repository: its path in the hub's cache, downloaded if it is not there.

    Without a network, or with `HF_HUB_OFFLINE=1`, it is looked for among what the cache has.

    Raises:
        LensFileError: huggingface_hub is missing, the repository or file cannot be had, none is of the model,
            or more than one.
    """
    try:
        import huggingface_hub as hub
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled
    except ImportError as error:
        raise LensFileError(
            f"Asked for a lens from the hub repository {repo_id}, which needs the package huggingface_hub. "
            "Run `pip install huggingface_hub`, or give the path of a file."
        ) from error
    try:
        files = (
            [filename] if filename is not None else hub.HfApi().list_repo_files(repo_id, revision=revision)
        )
        chosen = filename or choose(files, model_name, repo_id)
        paths = [hub.hf_hub_download(repo_id, name, revision=revision) for name in _parts(chosen, files)]
        return Path(paths[-1])
    except (HfHubHTTPError, OfflineModeIsEnabled, LocalEntryNotFoundError, OSError) as error:
        reason = (str(error) or repr(error)).strip().splitlines()[0][:160].rstrip(".")
        try:
            cached = hub.snapshot_download(repo_id, revision=revision, local_files_only=True)
        except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as missing:
            raise LensFileError(
                f"Asked for a lens from {repo_id}: there is no such path here, and the hub cannot give it "
                f"({reason}). Check the name and the network, or give the path of a file."
            ) from missing
        return in_folder(Path(cached), model_name, filename)


def choose(files: Iterable[str], model_name: str, where: str) -> str:
    """The lens of a model among the files of a repository.

    A file is of the model if its own name without ending, or a folder it is in, is the model's name, with or
    without its owner; letters' case and signs do not matter. A repository's only lens is taken whatever its
    name: whether it fits is checked when it is loaded.

    Raises:
        LensFileError: none is, or more than one.
    """
    lenses = [file for file in files if file.endswith(SUFFIXES)]
    found = [file for file in lenses if _is_of(file, model_name)]
    if len(found) == 1 or (not found and len(lenses) == 1):
        return (found or lenses)[0]
    some = found or lenses
    if not some:
        raise LensFileError(
            f"{where} holds no lens: expected files that end in {' or '.join(SUFFIXES)}. Check the name."
        )
    named = ", ".join([*some[:MOST_NAMED], *(["..."] if len(some) > MOST_NAMED else [])])
    what = (
        f"{len(found)} lenses of {model_name}" if found else f"no lens of {model_name or 'an unnamed model'}"
    )
    raise LensFileError(f"{where} holds {what}: {named}. Name one: filename={some[0]!r}.")


def _is_of(file: str, model_name: str) -> bool:
    path = PurePosixPath(file)
    names = {_plain(model_name), _plain(model_name.rpartition("/")[2])} - {""}
    parts = [*path.parts[:-1], path.stem]
    # an owner and a name may be two folders
    pairs = [f"{a}/{b}" for a, b in pairwise(parts)]
    return any(_plain(part) in names for part in (*parts, *pairs))


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "", name.lower())


def _parts(chosen: str, files: Sequence[str]) -> list[str]:
    """The files that a lens consists of, itself last: a tuned lens's `params.pt` has a config beside it."""
    path = PurePosixPath(chosen)
    config = (path.parent / "config.json").as_posix()
    is_tuned = path.name == TUNED and (config in files or len(files) == 1)
    return [config, chosen] if is_tuned else [chosen]
