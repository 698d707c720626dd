"""A cache of what a model's modules return in one run."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lenswidget.errors import NotReachedError, TraceError
from lenswidget.nested import replace_leaves
from lenswidget.tracing.moments import ModuleRef
from lenswidget.tracing.values import as_block_output


class OutputCache(Mapping[str, Any]):
    """What each module returned, by its path; `Trace.cache` makes it, and the forward fills it.

    `cache[path]` is the output of the module's first call, and `cache.calls(path)` those of all its calls, in
    the order of the run. Values are detached copies, edits included. The cache outlives its trace.

    Args:
        paths: the paths of each module to be kept, the one that the cache lists first.
        device: where the copies are kept; where each value is, if None.
        max_bytes: the most that all copies together may take.
        blocks: the paths of decoder blocks, whose outputs are wrapped in `BlockOutput`.
    """

    def __init__(
        self,
        paths: Mapping[nn.Module, list[str]],
        device: torch.device | str | None,
        max_bytes: int,
        blocks: Collection[str],
    ) -> None:
        self._main_paths = {module: names[0] for module, names in paths.items()}
        self._main_path_of = {name: names[0] for names in paths.values() for name in names}
        self._device = device
        self._max_bytes = max_bytes
        self._blocks = blocks
        self._outputs: dict[str, list[Any]] = {}
        self.n_bytes = 0

    @property
    def modules(self) -> list[nn.Module]:
        """The modules whose outputs are kept; none once the trace has closed."""
        return list(self._main_paths)

    def record(self, module: nn.Module, output: Any) -> None:
        """Keep a copy of what a module returned, if it is one of those asked for.

        Raises:
            TraceError: the copies would take more than `max_bytes`.
        """
        path = self._main_paths.get(module)
        if path is not None:
            copied = replace_leaves(output, self._copy)
            self._outputs.setdefault(path, []).append(copied)

    def clear(self) -> None:
        """Drop all outputs: the forward is run again."""
        self._outputs.clear()
        self.n_bytes = 0

    def close(self) -> None:
        """Let the modules go; the outputs stay."""
        self._main_paths = {}

    def calls(self, path: str) -> list[Any]:
        """The outputs of all calls of a module, in order; each step of a generation adds its own.

        Raises:
            NotReachedError: the module is not in the cache, or has not returned.
        """
        main_path = self._main_path_of.get(path)
        if main_path is None:
            raise NotReachedError(
                f"Asked the cache for {path!r}, which it does not keep. Name it in modules=[...]."
            )
        if main_path not in self._outputs:
            raise NotReachedError(
                f"Asked the cache for {path!r}, which has not returned in this run. The cache is complete "
                "when the trace has closed."
            )
        outputs = self._outputs[main_path]
        return [as_block_output(output) for output in outputs] if main_path in self._blocks else list(outputs)

    def __getitem__(self, path: str) -> Any:
        return self.calls(path)[0]

    def __contains__(self, path: object) -> bool:
        return isinstance(path, str) and self._main_path_of.get(path) in self._outputs

    def get(self, path: str, default: Any = None) -> Any:
        """The output of the module's first call, or the default."""
        if path not in self:
            return default
        return self[path]

    def __iter__(self) -> Iterator[str]:
        return iter(self._outputs)

    def __len__(self) -> int:
        return len(self._outputs)

    def __repr__(self) -> str:
        return f"<OutputCache of {len(self)} modules, {self.n_bytes / 2**20:.1f} MiB>"

    def _copy(self, leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        n_bytes = leaf.numel() * leaf.element_size()
        if self.n_bytes + n_bytes > self._max_bytes:
            raise TraceError(
                f"Asked to cache more than max_bytes={self._max_bytes:,}, after {len(self)} modules. "
                "Name fewer in modules=[...], or allow more."
            )
        self.n_bytes += n_bytes
        return leaf.detach().to(self._device or leaf.device, copy=True)


def cache_of(
    root: nn.Module,
    asked: Iterable[str] | None,
    device: torch.device | str | None,
    max_bytes: int,
    is_block: Callable[[ModuleRef], bool],
) -> OutputCache:
    """An empty cache for the modules at these paths, or for every module inside the model.

    Raises:
        TraceError: there is no module at a path.
    """
    paths: dict[nn.Module, list[str]] = {}
    for path, module in root.named_modules(remove_duplicate=False):
        paths.setdefault(module, []).append(path)
    modules = {path: module for module, names in paths.items() for path in names}
    if asked is None:
        del paths[root]  # its output is the trace's result
    else:
        wanted = list(asked)
        for path in wanted:
            if path not in modules:
                raise TraceError(f"Asked to cache {path!r}, which {type(root).__name__} does not have.")
        # first the path that was asked for
        paths = {modules[path]: [path, *paths[modules[path]]] for path in wanted}
    blocks = {
        names[0]
        for module, names in paths.items()
        if any(is_block(ModuleRef(name, module, ())) for name in names)
    }
    return OutputCache(paths, device, max_bytes, blocks)
