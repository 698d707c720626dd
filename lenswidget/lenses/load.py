"""A fitted lens from where it was kept, whichever kind it is."""

from pathlib import Path

from lenswidget.anatomy.protocol import ReadableModel
from lenswidget.errors import LensFileError
from lenswidget.lenses.jacobian import JacobianLens
from lenswidget.lenses.lens import Lens
from lenswidget.lenses.lens_file import as_path, kind_of, located
from lenswidget.lenses.provenance import model_name
from lenswidget.lenses.repository import from_hub, in_folder, is_repository
from lenswidget.lenses.tuned import TunedLens


def load_lens(
    path: str | Path,
    model: ReadableModel | None = None,
    *,
    filename: str | None = None,
    revision: str | None = None,
) -> Lens:
    """A fitted lens from where it was kept, whichever kind it is.

    Args:
        path: what `save` wrote (`.safetensors`), a folder of the tuned-lens package (`config.json` and
            `params.pt`) or either of its files, a Jacobian lens's published artifact (`.pt`), or a folder
            with a `lens.pt` or `lens.safetensors`. A folder that holds the lenses of several models, or a hub
            repository (`"owner/name"`, where there is no such path): the one that bears the model's name.
        model: the `LanguageModel` to read with; given, a lens of another model is refused now.
        filename: the lens's own path in the folder or repository, where names do not tell.
        revision: of a hub repository: a branch, tag or commit.
    Raises:
        LensFileError: nothing there, not a lens, or more than one.
        LensMismatchError: it was fitted to another model than `model`.
    """
    kinds = {"tuned": TunedLens, "jacobian": JacobianLens}
    found = located(_found(path, model, filename, revision))
    kind = kind_of(found)
    if kind not in kinds:
        raise LensFileError(f"{found} holds a lens of kind {kind!r}; this version reads {', '.join(kinds)}.")
    return kinds[kind].load(found, model)


def _found(
    name: str | Path, model: ReadableModel | None, filename: str | None, revision: str | None
) -> str | Path:
    """The one lens that is meant, where a name stands for several."""
    path = as_path(name)
    of = "" if model is None else model_name(model)
    if not path.exists() and is_repository(name):
        return from_hub(str(name), of, filename, revision)
    if path.is_dir() and (filename is not None or (located(path) == path and not _is_package(path))):
        return in_folder(path, of, filename)
    return name


def _is_package(path: Path) -> bool:
    """Whether a folder is one lens of the tuned-lens package, or has nothing of several lenses."""
    has_config = (path / "config.json").exists()
    return has_config or not any(part.suffix in (".pt", ".safetensors") for part in path.rglob("*"))
