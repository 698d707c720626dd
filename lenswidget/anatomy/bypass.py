"""The model's own forward with its blocks skipped: the universal way from states to logits."""

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lenswidget.anatomy.stream import Stream
from lenswidget.models.hf_model import device_of, evaluation, forward, logits_of
from lenswidget.nested import Slot
from lenswidget.tracing.locks import lock_of

Forward = Callable[..., Any]


class _Reached(Exception):
    """Raised to abort a forward once the wanted value is captured."""

    def __init__(self, value: Tensor):
        self.value = value


@contextmanager
def forwards_replaced(replacements: Sequence[tuple[nn.Module, Forward]]) -> Generator[None, None, None]:
    """Gives modules another forward, and back whatever they had (accelerate puts one on instances)."""
    before = [(module, module.__dict__.get("forward")) for module, _ in replacements]
    try:
        for module, replacement in replacements:
            module.__dict__["forward"] = replacement
        yield
    finally:
        for module, own in before:
            if own is None:
                module.__dict__.pop("forward", None)
            else:
                module.__dict__["forward"] = own


@dataclass(frozen=True)
class Bypass:
    """What it takes to run a model's forward around its blocks.

    `outputs` are what each block gave in the watched forward: the shape of what the model expects back.
    `neutral_id` is a token without a meaning of its own. `is_column`: states go in as a batch of prompts of
    one token, `[n, 1, d_model]`, else as one prompt, `[1, n, d_model]`.
    """

    blocks: tuple[nn.Module, ...]
    streams: tuple[Stream, ...]
    outputs: tuple[Any, ...]
    unembed: nn.Module | None
    unembed_source: Slot
    neutral_id: int
    is_column: bool = True

    def logits(self, hf_model: nn.Module, states: Tensor) -> Tensor:
        """`[n, d_model]` to the model's own logits `[n, d_vocab]`, in the model's dtype."""
        return logits_of(self._run(hf_model, states, [])).reshape(len(states), -1)

    def unembed_input(self, hf_model: nn.Module, states: Tensor) -> Tensor:
        """`[n, d_model]` to what the unembed would be called with, `[n, d_unembed]`; stops there."""
        assert self.unembed is not None
        try:
            self._run(hf_model, states, [(self.unembed, self._stop)])
        except _Reached as reached:
            return reached.value.reshape(len(states), -1)
        raise AssertionError("the unembed was not called")

    def _stop(self, *args: Any, **kwargs: Any) -> Any:
        raise _Reached(self.unembed_source.get((args, kwargs)))

    def after_unembed(self, hf_model: nn.Module, given: Tensor) -> Tensor:
        """The unembed's output `[n, d]` to logits `[n, d_vocab]`: whatever the model does after it."""
        assert self.unembed is not None
        states = torch.zeros(len(given), self.streams[-1].layout.d_model, device=given.device)
        give = partial(self._give, given)
        return logits_of(self._run(hf_model, states, [(self.unembed, give)])).reshape(len(given), -1)

    def _give(self, given: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        like = self.unembed_source.get((args, kwargs))
        return given.reshape(*like.shape[:-1], given.shape[-1])

    def _run(self, hf_model: nn.Module, states: Tensor, also: list[tuple[nn.Module, Forward]]) -> Any:
        shape = (len(states), 1) if self.is_column else (1, len(states))
        last = self.streams[-1].target.get(self.outputs[-1])
        given = states.to(device=last.device, dtype=last.dtype).view(*shape, -1)
        replacements: list[tuple[nn.Module, Forward]] = [
            (block, partial(_pass_on, stream, output))
            for block, stream, output in zip(self.blocks[:-1], self.streams, self.outputs, strict=False)
        ]
        final = self.streams[-1].with_leaving(self.outputs[-1], given)
        replacements.append((self.blocks[-1], lambda *args, **kwargs: final))
        # int64: token ids
        ids = torch.full(shape, self.neutral_id, device=device_of(hf_model), dtype=torch.long)
        with lock_of(hf_model), evaluation(hf_model), forwards_replaced([*replacements, *also]):
            # another source than the one watched: what only the blocks read of it makes no difference
            return forward(hf_model, ids, source_seed=1)


def _pass_on(stream: Stream, output: Any, *args: Any, **kwargs: Any) -> Any:
    """A block's forward that gives what it got, in the shape that the model expects."""
    return stream.target.put(output, stream.source.get((args, kwargs)))
