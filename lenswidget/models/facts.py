"""What is known of one model, and the one rule for when it must be found out again.

A model changes in a notebook: adapters go in and out, heads are replaced, optimisers step. Everything that
is kept about a model is kept here, under a fingerprint, and is made again when the fingerprint has moved.
"""

import threading
import weakref
from collections.abc import Callable, Generator, Hashable
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from lenswidget.models.hf_model import all_modules, inference
from lenswidget.tracing.hooks import own_forward
from lenswidget.tracing.locks import lock_of
from lenswidget.tracing.open_traces import open_traces

Value = TypeVar("Value")

# Integers of a width: bits are compared, so that NaN is equal to itself.
BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
# Of a matrix that is not the unembed's, about this many elements stand for all; of the unembed, in each row.
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
        self._modules: list[weakref.ref[nn.Module]] = []
        self._alive: list[weakref.ref[Any]] = []
        self._has_lost_part = False
        self._n_pinned = 0
        self._values: list[Tensor] = []
        self._row_sums: list[Tensor] = []
        self._take(hf_model)

    def fingerprint(self, *, values: bool = False) -> int:
        """How often the model was found changed so far: equal numbers, unchanged model.

        Compared are its modules (which, in what order, under what names), the `forward` of single instances,
        and the identity, address, shape, dtype and version counter of every parameter and persistent buffer.
        That takes less than half a microsecond for each. An edit through `.data` moves none of them.

        Args:
            values: compare weights too: norms and biases whole, and samples of the matrices, which for the
                unembed are of each row and each column. `has_stale_unembed` sees what samples miss.
        """
        hf_model = self._model()
        if hf_model is None or self._n_pinned or self._is_running(hf_model):
            return self._n_changes
        with lock_of(hf_model):
            if not self._is_made_up_as_before() or (
                values and not _equal(_values(hf_model, self._parts()), self._values)
            ):
                self._n_changes += 1
                self._take(hf_model)
            return self._n_changes

    @contextmanager
    def pinned(self) -> Generator[None, None, None]:
        """Compare nothing meanwhile: what is done inside is done with one model. Hold the model's lock."""
        self._n_pinned += 1
        try:
            yield
        finally:
            self._n_pinned -= 1

    @property
    def is_pinned(self) -> bool:
        """Whether nothing is compared now."""
        return self._n_pinned > 0

    def has_stale_unembed(self) -> bool:
        """Whether any weight of the unembed differs from what it was when the facts were found.

        Reads the unembed once, at the speed of memory: for where its numbers have been found wrong. Where it
        differs, all facts are to be found again.
        """
        hf_model = self._model()
        if hf_model is None:
            return False
        with lock_of(hf_model):
            if _equal(_row_sums(hf_model), self._row_sums):
                return False
            self._n_changes += 1
            self._take(hf_model)
            return True

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

    def _take(self, hf_model: nn.Module) -> None:
        modules = all_modules(hf_model)
        self._make_up, tensors = _make_up(modules)
        self._modules = [weakref.ref(module) for module in modules]
        self._has_lost_part = False
        # ids are compared: one that is free again may be given to another object, so each loss is told
        self._alive = [weakref.ref(part, self._lose) for part in (*modules, *tensors)]
        self._values = _values(hf_model, tensors)
        self._row_sums = _row_sums(hf_model)

    def _is_made_up_as_before(self) -> bool:
        modules = [module for refer in self._modules if (module := refer()) is not None]
        if self._has_lost_part or len(modules) < len(self._modules):
            return False
        # the children of each are among what is compared: where they are the same, so are all modules
        return _make_up(modules)[0] == self._make_up

    def _parts(self) -> list[Any]:
        return [part for refer in self._alive if (part := refer()) is not None]

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


@contextmanager
def held(hf_model: nn.Module) -> Generator[None, None, None]:
    """The model for this thread alone, taken for unchanged, in evaluation mode and without gradients."""
    facts = facts_of(hf_model)
    with lock_of(hf_model):
        # what is held already is in evaluation mode: to look at every module again takes its time
        mode = torch.no_grad() if facts.is_pinned else inference(hf_model)
        with mode, facts.pinned():
            yield


def _make_up(modules: list[nn.Module]) -> tuple[list[Any], list[Tensor]]:
    """What modules consist of, as plain values, and the tensors themselves."""
    make_up: list[Any] = []
    tensors: list[Tensor] = []
    for module in modules:
        own = module.__dict__
        children = own["_modules"]
        if children:
            make_up += children
            make_up += map(id, children.values())
        if "forward" in own:
            make_up.append(id(own_forward(module)))
        if own["_parameters"]:
            tensors += [tensor for tensor in own["_parameters"].values() if tensor is not None]
        if own["_buffers"]:
            # what is not saved is worked out from the rest, and some models do so in their forward
            unsaved = own["_non_persistent_buffers_set"]
            tensors += [t for name, t in own["_buffers"].items() if t is not None and name not in unsaved]
    kept: list[Tensor] = []
    for tensor in tensors:
        # an offloaded weight is another object after each forward
        if tensor.is_meta:
            make_up += (tensor.shape, tensor.dtype)
            continue
        kept.append(tensor)
        try:
            make_up += (id(tensor), tensor._version, tensor.data_ptr(), tensor.dtype, tensor.shape)
        except RuntimeError:
            make_up += (id(tensor), _address(tensor), tensor.dtype, tensor.shape)
    return make_up, kept


def _address(tensor: Tensor) -> int:
    """Of a tensor that counts no versions, as those of inference mode, or has no memory of its own."""
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
    found = [] if unembed is None or not _is_readable(unembed) else _from_rows(unembed)
    samples: dict[Any, list[Tensor]] = {}
    for part in parts:
        if part is not unembed and _is_readable(part) and part.numel():
            samples.setdefault((part.device, part.dtype), []).append(_sampled(part))
    return found + [torch.cat(some) for some in samples.values()]


@torch.no_grad()
def _row_sums(hf_model: nn.Module) -> list[Tensor]:
    """Of the unembed, the sum of each row's bits: whatever is done to a single weight moves one."""
    unembed = _unembed_weight(hf_model)
    return [] if unembed is None or not _is_readable(unembed) else _rows(unembed)


def _from_rows(weight: Tensor) -> list[Tensor]:
    """Of each row some neighbouring elements, of other columns than the row before: all columns are met.

    An edit of a row or of a column changes some of them. Reading them takes a tenth of a pass over all.
    """
    flat = weight.detach().flatten(1)
    n_rows, width = flat.shape
    n = min(N_SAMPLES, width)
    n_places = width // n
    n_turns = n_rows // n_places
    at = flat.storage_offset()
    turns = flat.as_strided((n_turns, n_places, n), (n_places * width, width + n, 1), at)
    rest = n_rows - n_turns * n_places
    left = flat.as_strided((rest, n), (width + n, 1), at + n_turns * n_places * width)
    # the columns that are in no place, of every row that the first place was taken from
    over = flat[::n_places, n_places * n :]
    return [part.clone() for part in (turns, left, over) if part.numel()]


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
    bits = BITS.get(a.element_size(), torch.uint8)
    return same and torch.equal(a.view(bits), b.view(bits))
