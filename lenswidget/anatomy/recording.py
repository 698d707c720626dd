"""One watched forward: what every module took and gave, in order."""

import itertools
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lenswidget.errors import AnatomyError
from lenswidget.models.hf_model import device_of, forward, logits_of, text_config
from lenswidget.nested import Slot, tensors

# Three rows of seven: sizes that no axis of a model has by accident, so that axes can be told apart.
PROBE_BATCH, PROBE_SEQ = 3, 7


@dataclass
class Call:
    """One call of one module.

    `taken` and `given` are its tensors with a value per row and position, as copies; `inputs`, which is
    `(args, kwargs)`, and `output` are the objects themselves. All are left out where they are not needed:
    inside the elements of a container, so that watching a large model stays small.
    """

    path: str
    started: int
    ended: int = -1
    taken: dict[Slot, Tensor] = field(default_factory=dict[Slot, Tensor])
    given: dict[Slot, Tensor] = field(default_factory=dict[Slot, Tensor])
    inputs: Any = None
    output: Any = None


@dataclass
class Recording:
    """The calls of one forward in the order of their start, its token ids and its logits."""

    ids: Tensor
    calls: list[Call]
    logits: Tensor

    def by_path(self) -> dict[str, list[Call]]:
        """The calls of each module."""
        found: dict[str, list[Call]] = {}
        for call in self.calls:
            found.setdefault(call.path, []).append(call)
        return found


def watch(hf_model: nn.Module, ids: Tensor) -> Recording:
    """Runs the model on `ids` `[batch, seq]` and writes down what its modules did."""
    elements = set(container_elements(hf_model))
    with recording(
        hf_model, ids.shape, lambda path: path in elements or not _is_inside(path, elements)
    ) as calls:
        logits = logits_of(forward(hf_model, ids))
    return Recording(ids, calls, logits.detach().clone())


@contextmanager
def recording(
    root: nn.Module, shape: torch.Size, keeps: Callable[[str], bool]
) -> Generator[list[Call], None, None]:
    """Records the calls of the modules under `root`, in order; those that `keeps` names with tensors."""
    recorder = _Recorder(shape)
    handles: list[Any] = []
    try:
        for path, module in root.named_modules():
            before = partial(recorder.before, path, keeps(path))
            handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
            handles.append(module.register_forward_hook(recorder.after, with_kwargs=True))
        yield recorder.calls
    finally:
        for handle in handles:
            handle.remove()


class _Recorder:
    """The hooks of a recording, and what they wrote down."""

    def __init__(self, shape: torch.Size):
        self.shape = shape
        self.calls: list[Call] = []
        self._open: list[tuple[Call, bool]] = []
        self._clock = itertools.count()

    def before(self, path: str, is_kept: bool, _module: nn.Module, args: Any, kwargs: Any) -> None:
        call = Call(path, next(self._clock))
        if is_kept:
            call.inputs = (args, kwargs)
            call.taken = per_position(call.inputs, self.shape)
        self.calls.append(call)
        self._open.append((call, is_kept))

    def after(self, _module: nn.Module, _args: Any, _kwargs: Any, output: Any) -> None:
        call, is_kept = self._open.pop()
        call.ended = next(self._clock)
        if is_kept:
            call.given, call.output = per_position(output, self.shape), output


def container_elements(hf_model: nn.Module) -> list[str]:
    """The paths of what sits in lists, dicts and sequences of modules."""
    return [
        f"{name}.{key}" if name else key
        for name, container in hf_model.named_modules()
        if isinstance(container, (nn.ModuleList, nn.ModuleDict, nn.Sequential))
        for key, _ in container.named_children()
    ]


def _is_inside(path: str, elements: set[str]) -> bool:
    parts = path.split(".")
    return any(".".join(parts[:n]) in elements for n in range(1, len(parts)))


def per_position(value: Any, shape: torch.Size) -> dict[Slot, Tensor]:
    """Copies of the tensors that have a value per row and position, flattened or not, and their places."""
    batch, seq = shape
    return {
        slot: tensor.detach().clone()
        for slot, tensor in tensors(value)
        if (batch in tensor.shape[:-1] and any(size % seq == 0 for size in tensor.shape[:-1]))
        or tensor.shape[:1] == (batch * seq,)
    }


def probe_ids(hf_model: nn.Module, shift: int = 0) -> Tensor:
    """A few token ids `[3, 7]` that no configuration gives a special meaning, on the model's device."""
    embedding = getattr(hf_model, "get_input_embeddings", lambda: None)()
    if not isinstance(embedding, nn.Module):
        raise AnatomyError(
            f"Asked to watch {type(hf_model).__name__}, found no input embedding to choose token ids for. "
            "Give a transformers model with get_input_embeddings()."
        )
    special = set(_integers(getattr(hf_model, "config", None)))
    n_ids = _n_embeddings(hf_model, embedding)
    usable = [i for i in range(min(n_ids, 4096)) if i not in special] or list(range(n_ids))
    n = PROBE_BATCH * PROBE_SEQ
    chosen = [usable[(7 * i + 3 + 11 * shift) % len(usable)] for i in range(n)]
    return torch.tensor(chosen, device=device_of(hf_model)).view(PROBE_BATCH, PROBE_SEQ)


def _n_embeddings(hf_model: nn.Module, embedding: nn.Module) -> int:
    n = getattr(embedding, "num_embeddings", None)
    if isinstance(n, int):
        return n
    return int(getattr(text_config(hf_model), "vocab_size", 256))


def _integers(value: Any) -> Iterator[int]:
    if hasattr(value, "to_dict"):
        value = value.to_dict()
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from _integers(item)
    elif isinstance(value, int):
        yield value
