"""Other names for the modules of a model, as given by `rename=`."""

import difflib
from collections.abc import Collection, Mapping

from torch import nn

from lenswidget.errors import TraceError


class Aliases:
    """Names by which modules are reached beside their own.

    A path such as `"transformer.h"` or `"attn"` counts from any module that has it, and the alias is an
    attribute of that module: `{"transformer.h": "blocks", "attn": "mixer"}` gives `model.blocks[0].mixer`.

    Args:
        root: the model.
        rename: the alias of each path.
        taken: attribute names that are no alias, being the wrapper's own.
    Raises:
        TraceError: a path that the model does not have, or an alias that is taken or is no attribute name.
    """

    def __init__(self, root: nn.Module, rename: Mapping[str, str], taken: Collection[str]) -> None:
        self._paths = {alias: path for path, alias in rename.items()}
        if len(self._paths) < len(rename):
            raise TraceError(
                f"Asked to rename several modules alike in {dict(rename)}. Give each its own name."
            )
        for path, alias in rename.items():
            _check(root, path, alias, taken)

    def names(self, module: nn.Module) -> list[str]:
        """The aliases that the module has as attributes."""
        return [alias for alias in self._paths if self.path(module, alias)]

    def path(self, module: nn.Module, alias: str) -> str | None:
        """The path, from this module, of the one that the alias names; None if there is none."""
        path = self._paths.get(alias)
        return path if path is not None and has_path(module, path) else None

    def resolve(self, root: nn.Module, path: str) -> str:
        """A path with every alias in it replaced; names that are neither stay as they are."""
        names: list[str] = []
        module: nn.Module | None = root
        for name in path.split(".") if path else ():
            own = self.path(module, name) if module is not None and not has_path(module, name) else None
            for step in (own or name).split("."):
                module = getattr(module, step, None)
                names.append(step)
        return ".".join(names)


def has_path(module: nn.Module, path: str) -> bool:
    """Whether the module has a submodule at the path."""
    for name in path.split("."):
        child = dict(module.named_children()).get(name)
        if child is None:
            return False
        module = child
    return True


def _check(root: nn.Module, path: str, alias: str, taken: Collection[str]) -> None:
    asked = f"Asked to rename {path!r} to {alias!r}"
    holders = [module for module in root.modules() if has_path(module, path)]
    if not holders:
        close = difflib.get_close_matches(path, [name for name, _ in root.named_modules()], 1)
        remedy = f"Did you mean {close[0]!r}?" if close else "Give a path as named_modules() has it."
        raise TraceError(f"{asked}, but {type(root).__name__} has no module of that path. {remedy}")
    if not alias.isidentifier():
        raise TraceError(f"{asked}, which is no attribute name. Give one without dots or spaces.")
    if alias in taken or any(hasattr(module, alias) for module in holders):
        raise TraceError(f"{asked}, but that name is taken. Choose another.")
