"""What is known of one model, and the one rule for when it must be found out again.

A model changes in a notebook: adapters go in and out, heads are replaced, optimisers step. Everything that
is kept about a model is kept here, under a fingerprint, and is made again when the fingerprint has moved.
"""

import threading
import weakref
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from lenswidget.tracing.hooks import own_forward
from lenswidget.tracing.locks import lock_of
from lenswidget.tracing.open_traces import open_traces

Value = TypeVar("Value")

# Of a matrix that is not the unembed's, about this many elements stand for all.
N_SAMPLES = 16


class ModelFacts:
    """The facts of one model; make it with `facts_of`.

    What is kept must not refer to the model itself, which could then never be collected.
    """

    def __init__(self, hf_model: nn.Module) -> None:
        self._model = weakref.ref(hf_model)
        self._kept: dict[Hashable, tuple[int, Any]] = {}
        self._n_changes = 0
        self._make_up: list[Any] = []
        self._alive: list[weakref.ref[Any]] = []
        self._has_lost_part = False
        self._values: list[Tensor] = []
        self._take(hf_model, *_make_up(hf_model))

    def fingerprint(self, *, values: bool = False) -> int:
        """How often the model was found changed so far: equal numbers, unchanged model.

        Compared are its modules (which, in what order, under what names), the `forward` of single instances,
        and the identity, address, shape, dtype, device and version counter of every parameter and persistent
        buffer. That takes about a microsecond for each. An edit through `.data` moves none of them.

        Args:
            values: compare weights too: each row of the unembed, every norm and bias, and samples of the
                rest. This reads the unembed once, at the speed of memory.
        """
        hf_model = self._model()
        if hf_model is None or self._is_running(hf_model):
            return self._n_changes
        with lock_of(hf_model):
            make_up, parts = _make_up(hf_model)
            is_same = not self._has_lost_part and make_up == self._make_up
            if not is_same or (values and not _equal(_values(hf_model, parts), self._values)):
                self._n_changes += 1
                self._take(hf_model, make_up, parts)
            return self._n_changes

    def get(self, key: Hashable, make: Callable[[], Value], *, values: bool = False) -> Value:
        """A fact by its name, made now if there is none or if the model has changed since.

        Args:
            values: as for `fingerprint`.
        """
        now = self.fingerprint(values=values)
        kept = self._kept.get(key)
        if kept is None or kept[0] != now:
            # facts of the model as it was before are let go, all of them
            self._kept = {name: fact for name, fact in self._kept.items() if fact[0] == now}
            kept = self._kept[key] = (now, make())
        return kept[1]

    def _is_running(self, hf_model: nn.Module) -> bool:
        """Inside an open trace of the model nothing is compared: one forward is of one model."""
        return any(trace.root is hf_model and trace.is_open for trace in open_traces.get())

    def _take(self, hf_model: nn.Module, make_up: list[Any], parts: list[Any]) -> None:
        self._make_up, self._has_lost_part = make_up, False
        # ids are compared: one that is free again may be given to another object, so each loss is told
        self._alive = [weakref.ref(part, self._lose) for part in parts]
        self._values = _values(hf_model, parts)

    def _lose(self, gone: "weakref.ref[Any]") -> None:
        self._has_lost_part = True


_facts: "weakref.WeakKeyDictionary[nn.Module, ModelFacts]" = weakref.WeakKeyDictionary()
_registry = threading.Lock()


def facts_of(hf_model: nn.Module) -> ModelFacts:
    """The facts of a model, kept as long as the model lives, however many objects wrap it."""
    with _registry:
        found = _facts.get(hf_model)
        if found is None:
            found = _facts[hf_model] = ModelFacts(hf_model)
        return found


def _make_up(hf_model: nn.Module) -> tuple[list[Any], list[Any]]:
    """What the model consists of, as plain values, and the objects themselves."""
    make_up: list[Any] = []
    parts: list[Any] = []
    seen: set[int] = set()
    waiting: list[nn.Module | None] = [hf_model]
    while waiting:
        module = waiting.pop()
        if module is None:
            continue
        number = id(module)
        make_up.append(number)
        if number in seen:
            continue
        seen.add(number)
        parts.append(module)
        own = module.__dict__
        children = own["_modules"]
        if children:
            make_up += children
            waiting += children.values()
        if "forward" in own:
            make_up.append(id(own_forward(module)))
        for tensor in own["_parameters"].values():
            if tensor is not None:
                _add(tensor, make_up, parts)
        for name, tensor in own["_buffers"].items():
            # what is not saved is worked out from the rest, and some models do so in their forward
            if tensor is not None and name not in own["_non_persistent_buffers_set"]:
                _add(tensor, make_up, parts)
    return make_up, parts


def _add(tensor: Tensor, make_up: list[Any], parts: list[Any]) -> None:
    make_up += (tensor.shape, tensor.dtype, tensor.device)
    # an offloaded weight is another object after each forward
    if not tensor.is_meta:
        version = 0 if tensor.is_inference() else tensor._version  # which those do not count
        make_up += (id(tensor), version, _address(tensor))
        parts.append(tensor)


def _address(tensor: Tensor) -> int:
    try:
        return tensor.data_ptr()
    except RuntimeError:  # a tensor subclass that has none of its own
        return 0


def _unembed_weight(hf_model: nn.Module) -> Tensor | None:
    """The weight with a row per token; the tallest matrix where the model does not name its unembed."""
    head = getattr(hf_model, "get_output_embeddings", lambda: None)()
    weight = getattr(head, "weight", None)
    if isinstance(weight, Tensor):
        return weight
    matrices = [parameter for parameter in hf_model.parameters() if parameter.ndim == 2]
    return max(matrices, key=len, default=None)


@torch.no_grad()
def _values(hf_model: nn.Module, parts: list[Any]) -> list[Tensor]:
    """What stands for the weights among the model's parts: compare with `_equal`."""
    unembed = _unembed_weight(hf_model)
    found = [] if unembed is None or not _is_readable(unembed) else _rows(unembed)
    samples: dict[Any, list[Tensor]] = {}
    for part in parts:
        if part is not unembed and _is_readable(part) and part.numel():
            samples.setdefault((part.device, part.dtype), []).append(_sampled(part))
    return found + [torch.cat(some) for some in samples.values()]


def _is_readable(part: Any) -> bool:
    """Whether a part is a tensor whose memory is its own, at hand and without gaps."""
    return type(part) in (nn.Parameter, Tensor) and not part.is_meta and part.is_contiguous()


def _rows(weight: Tensor) -> list[Tensor]:
    """Per row the sum of its bits and its beginning: whatever is done to a row moves one of them.

    Integers, whose sum does not depend on the number of threads. The beginning sees changes of sign, which
    may cancel in the sum.
    """
    flat = weight.detach().flatten(1)
    n_bytes = flat.shape[1] * flat.element_size()
    if n_bytes % 8 or (flat.storage_offset() * flat.element_size()) % 8:
        return [flat.sum(-1, dtype=torch.float64), flat[:, 0].clone()]
    words = flat.view(torch.int64)
    return [words.sum(-1), words[:, 0].clone()]


def _sampled(tensor: Tensor) -> Tensor:
    """A vector whole, some elements of anything else; without gradients."""
    if tensor.ndim == 1:
        return tensor
    n = tensor.numel()
    step = max(1, n // N_SAMPLES)
    return tensor.as_strided((n // step,), (step,))


def _equal(some: list[Tensor], others: list[Tensor]) -> bool:
    """Bit for bit, so that NaN is equal to itself."""
    return len(some) == len(others) and all(map(_is_same, some, others))


def _is_same(a: Tensor, b: Tensor) -> bool:
    same = (a.shape, a.dtype, a.device) == (b.shape, b.dtype, b.device)
    return same and torch.equal(a.view(torch.uint8), b.view(torch.uint8))
