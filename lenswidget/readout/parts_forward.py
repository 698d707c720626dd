"""One more forward of a run that keeps what each block adds at one position, and what it adds it from."""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from lenswidget.anatomy.attention_watch import Attended, AttentionWatch
from lenswidget.anatomy.block_sites import BlockSites
from lenswidget.anatomy.decomposition import HookPoint, Part
from lenswidget.anatomy.units import Units
from lenswidget.interventions.changes import make_changes
from lenswidget.interventions.edited_call import EditedCall
from lenswidget.models.facts import held
from lenswidget.models.hf_model import uncached
from lenswidget.readout.run import Run


@dataclass
class LayerParts:
    """One block at one position.

    Attributes:
        added: by the part's name, what it adds to the stream, `[d_model]` float64 on the CPU.
        taken: by "heads" or "neurons", what the last projection of that part takes, `[n * d]`.
        attended: the block's products of attention weights and values.
    """

    added: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    taken: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    attended: list[Attended] = field(default_factory=list[Attended])


class _Reached(Exception):
    """Raised to abort a forward once the last wanted block is done."""


def read_parts(
    run: Run,
    layer: int,
    position: int,
    *,
    units: Collection[str] = (),
    attention: Collection[int] = (),
) -> list[LayerParts]:
    """What the blocks 0 to `layer` add at a position; the forward goes no further.

    Args:
        units: "heads", "neurons": of which parts what their last projection takes is kept as well.
        attention: layers whose attention is watched.
    """
    model = run.local_model
    anatomy, prompt = model.anatomy, run.spec.prompt
    known = anatomy.units if units else ()
    at = position if prompt.columns is None else int(prompt.columns[position])
    with held(model.hf_model):
        changes = make_changes(run.spec.edits, model, prompt.model_inputs)
        call = EditedCall(model.hf_model, model.hf_model, anatomy, changes)
        reader = _Reader(at)
        try:
            for index in range(layer + 1):
                row = anatomy.rows[index]
                block = model.hf_model.get_submodule(row.path)
                found = reader.watch(block, row.call, anatomy.streams[index], index in attention)
                for name, part in named_parts(anatomy.sites[index]):
                    reader.keep_part(block, row.call, name, part, found)
                for kind in units:
                    of_kind = known[index].get(kind)
                    if of_kind is not None:
                        reader.keep_taken(block, row.call, kind, of_kind, found)
            last = anatomy.rows[layer] if layer >= 0 else None
            if last is not None:
                reader.stop_after(model.hf_model.get_submodule(last.path), last.call)
                call(**prompt.model_inputs, **uncached(model.hf_model))
        except _Reached:
            pass
        finally:
            reader.remove()
    return reader.layers


def named_parts(sites: BlockSites) -> Iterator[tuple[str, Part]]:
    """The parts of a block with their names: "attn", "mlp", and where they are for others."""
    for name, part in (("attn", sites.attn), ("mlp", sites.mlp)):
        if part is not None:
            yield name, part
    for part in sites.others:
        yield str(part), part


class _Reader:
    """Hooks that copy single rows out of a forward, each as soon as the model has made it."""

    def __init__(self, position: int) -> None:
        self.layers: list[LayerParts] = []
        self._at = position
        self._handles: list[Any] = []
        self._shape = torch.Size((1, 1))
        self._watching: AttentionWatch | None = None

    def remove(self) -> None:
        """Remove all hooks, and stop watching a block that did not come to its end."""
        while self._handles:
            self._handles.pop().remove()
        self._unwatch()

    def watch(self, block: nn.Module, call: int, stream: Any, is_watched: bool) -> LayerParts:
        found = LayerParts()
        self.layers.append(found)

        def enter(args: Any, kwargs: Any) -> None:
            self._shape = stream.entering(args, kwargs).shape[:2]
            if is_watched:
                self._watching = AttentionWatch((self._shape[0], self._shape[1]), 0, self._at)
                self._watching.__enter__()

        def leave(output: Any) -> None:
            if self._watching is not None:
                found.attended = self._watching.found
            self._unwatch()

        self._on_input(block, call, enter)
        if is_watched:
            self._on_output(block, call, leave)
        return found

    def _unwatch(self) -> None:
        watching, self._watching = self._watching, None
        if watching is not None:
            watching.__exit__(None, None, None)

    def keep_part(self, block: nn.Module, call: int, name: str, part: Part, found: LayerParts) -> None:
        for addend in part.addends:

            def keep(output: Any, point: HookPoint = addend.point, scale: float = addend.scale) -> None:
                term = scale * self._row(point, output).cpu().double()
                found.added[name] = found.added[name] + term if name in found.added else term

            self._on_output(block.get_submodule(addend.point.path), call, keep)

    def keep_taken(self, block: nn.Module, call: int, kind: str, units: Units, found: LayerParts) -> None:
        def keep(args: Any, kwargs: Any) -> None:
            found.taken[kind] = self._row(units.point, (args, kwargs)).clone()

        self._on_input(block.get_submodule(units.point.path), call, keep)

    def stop_after(self, block: nn.Module, call: int) -> None:
        def stop(output: Any) -> None:
            raise _Reached

        self._on_output(block, call, stop)

    def _row(self, point: HookPoint, value: Any) -> Tensor:
        return point.read(value, self._shape)[0, self._at].detach()

    def _on_input(self, module: nn.Module, call: int, act: Callable[[Any, Any], None]) -> None:
        is_called = _nth(call)

        def hook(_module: nn.Module, args: Any, kwargs: Any) -> None:
            if is_called():
                act(args, kwargs)

        self._handles.append(module.register_forward_pre_hook(hook, with_kwargs=True))

    def _on_output(self, module: nn.Module, call: int, act: Callable[[Any], None]) -> None:
        is_called = _nth(call)

        def hook(_module: nn.Module, _args: Any, output: Any) -> None:
            if is_called():
                act(output)

        self._handles.append(module.register_forward_hook(hook))


def _nth(wanted: int) -> Callable[[], bool]:
    """Says whether this is the call of that number: blocks may run in a loop."""
    n_calls = 0

    def is_called() -> bool:
        nonlocal n_calls
        n_calls += 1
        return n_calls - 1 == wanted

    return is_called
