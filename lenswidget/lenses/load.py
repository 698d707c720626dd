"""A fitted lens from where it was kept, whichever kind it is."""

from pathlib import Path

from lenswidget.anatomy.protocol import ReadableModel
from lenswidget.errors import LensFileError
from lenswidget.lenses.jacobian import JacobianLens
from lenswidget.lenses.lens import Lens
from lenswidget.lenses.lens_file import kind_of, located
from lenswidget.lenses.tuned import TunedLens


def load_lens(path: str | Path, model: ReadableModel | None = None) -> Lens:
    """A fitted lens from where it was kept, whichever kind it is.

    Args:
        path: what `save` wrote (`.safetensors`), a folder of the tuned-lens package (`config.json` and
            `params.pt`) or either of its files, a Jacobian lens's published artifact (`.pt`), or a folder
            with a `lens.pt` or `lens.safetensors`.
        model: the `LanguageModel` to read with; given, a lens of another model is refused now.
    Raises:
        LensFileError: nothing there, or not a lens.
        LensMismatchError: it was fitted to another model than `model`.
    """
    kinds = {"tuned": TunedLens, "jacobian": JacobianLens}
    path = located(path)
    kind = kind_of(path)
    if kind not in kinds:
        raise LensFileError(f"{path} holds a lens of kind {kind!r}; this version reads {', '.join(kinds)}.")
    return kinds[kind].load(path, model)
