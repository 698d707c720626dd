"""What a model works out in its forward and keeps: the next run is not to depend on the one before.

Some rotary embeddings keep the frequencies of the longest text that they have met, and only a short text puts
them back: after a long text, one at the border reads otherwise. Nothing here knows of rotary embeddings. Such
state is kept in buffers that are not saved with the model; where they are no longer what they are after a
short text, a short text is run first.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lenswidget.models.facts import facts_of
from lenswidget.models.hf_model import all_modules, device_of, forward, inference
from lenswidget.tracing.isolation import random_state, set_random_state
from lenswidget.tracing.locks import lock_of

# Buffers of up to so many elements are kept as they are; of larger ones, sums.
_MOST_KEPT = 4096


@dataclass
class _State:
    """The unsaved buffers as they are after a short text: where each is, and what it holds."""

    places: list[tuple[Tensor, int]]
    values: list[Tensor]


def settle(hf_model: nn.Module) -> None:
    """Bring what earlier runs have left in a model back to what a short text leaves; before each run.

    A model without unsaved buffers, or in which they are as they were, is not run. What a person has changed
    in such a buffer stays: a short text does not undo it.
    """
    if not _unsaved(hf_model):
        return
    facts = facts_of(hf_model)
    state = facts.get("run state", lambda: _after_short_text(hf_model))
    buffers = _unsaved(hf_model)
    if state is None or _is_untouched(state.places, buffers):
        return
    values = _values(buffers)
    if len(values) == len(state.values) and all(map(_is_same, values, state.values)):
        state.places = _places(buffers)  # written again with the same numbers
        return
    found = _after_short_text(hf_model)
    if found is not None:
        state.places, state.values = found.places, found.values


def _after_short_text(hf_model: nn.Module) -> _State | None:
    """Runs two tokens; None where the model does not run on token ids alone."""
    random = random_state()
    try:
        with lock_of(hf_model), inference(hf_model):
            forward(hf_model, torch.tensor([[1, 2]], device=device_of(hf_model)))
    except Exception:
        return None
    finally:
        set_random_state(random)
    buffers = _unsaved(hf_model)
    return _State(_places(buffers), _values(buffers))


def _unsaved(hf_model: nn.Module) -> list[Tensor]:
    """The buffers that are worked out and not saved."""
    return [
        buffer
        for module in all_modules(hf_model)
        for name in module.__dict__["_non_persistent_buffers_set"]
        if isinstance(buffer := module.__dict__["_buffers"].get(name), Tensor) and not buffer.is_meta
    ]


def _places(buffers: list[Tensor]) -> list[tuple[Tensor, int]]:
    """What moves when a buffer is replaced or written to; held, so that no other gets its identity."""
    return [(buffer, -1 if buffer.is_inference() else buffer._version) for buffer in buffers]


def _is_untouched(places: list[tuple[Tensor, int]], buffers: list[Tensor]) -> bool:
    """Whether these are the same buffers and unwritten; one that counts no writes never is."""
    return len(places) == len(buffers) and all(
        before is now and not now.is_inference() and version == now._version
        for (before, version), now in zip(places, buffers, strict=True)
    )


@torch.no_grad()
def _values(buffers: list[Tensor]) -> list[Tensor]:
    return [
        buffer.detach().clone() if buffer.numel() <= _MOST_KEPT else buffer.detach().sum(dtype=torch.float64)
        for buffer in buffers
    ]


def _is_same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and one.device == other.device and torch.equal(one, other)
