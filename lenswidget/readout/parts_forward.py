"""What each block adds at one position of a run, and what it adds it from.

Where the run has kept the keys of its columns, that column alone goes through the model again, after those
before it. Each block is given the run's own state, so that rounding does not pile up, and what leaves it must
be the run's next state; else, and for all other models, the whole prompt runs once more.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from lenswidget.anatomy.attention_watch import Attended, AttentionWatch
from lenswidget.anatomy.block_sites import BlockSites
from lenswidget.anatomy.decomposition import HookPoint, Part
from lenswidget.anatomy.stream import Stream
from lenswidget.anatomy.units import Units
from lenswidget.interventions.changes import Change, changes_within, make_changes
from lenswidget.interventions.edited_call import EditedCall
from lenswidget.interventions.shared_prefix import is_run_alone
from lenswidget.models.facts import held
from lenswidget.models.hf_model import uncached
from lenswidget.models.split_forward import cache_of, first_columns
from lenswidget.readout.run import EMBED_SITE, Run
from lenswidget.tolerances import ONE_COLUMN, within


@dataclass
class LayerParts:
    """One block at one position.

    Attributes:
        added: by the part's name, what it adds to the stream, `[d_model]` float64 on the CPU.
        taken: by "heads" or "neurons", what the last projection of that part takes, `[n * d]`.
        attended: the block's products of attention weights and values.
        below, left: the stream that left the block below, edits included, and that which left this one,
            `[d_model]` float64 on the CPU.
    """

    added: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    taken: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    attended: list[Attended] = field(default_factory=list[Attended])
    below: Tensor = field(default_factory=lambda: torch.empty(0))
    left: Tensor = field(default_factory=lambda: torch.empty(0))


class _Reached(Exception):
    """Raised to abort a forward once the last wanted block is done."""


@dataclass(frozen=True)
class _Asked:
    """Of which layers and parts something is kept; see `read_parts`."""

    layer: int
    position: int
    units: Collection[str]
    attention: Collection[int]


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
    asked = _Asked(layer, position, units, attention)
    if layer < 0:
        return []
    with held(run.local_model.hf_model):
        found = _read_column(run, asked) or _read(run, asked, run.spec.prompt.model_inputs)
        found[0].below = run.states(EMBED_SITE, [-1], [position])[0].cpu().double()
    return found


def _read_column(run: Run, asked: _Asked) -> list[LayerParts] | None:
    """The parts, from a forward of that column alone; None where that does not give the run's own states."""
    model, spec, at = run.local_model, run.spec, asked.position
    if run.kept is None or run.kept.n_columns < at or not is_run_alone(spec, at):
        return None
    split = model.anatomy.split
    if split.why_not or (split.longest is not None and run.seq > split.longest):
        return None
    own = run.states(EMBED_SITE, range(asked.layer + 1), [at] * (asked.layer + 1))
    inputs: dict[str, Any] = {**spec.prompt.model_inputs, "use_cache": True}
    inputs["input_ids"] = inputs["input_ids"][:, at : at + 1]
    if "attention_mask" in inputs:
        inputs["attention_mask"] = inputs["attention_mask"][:, : at + 1]
    if at:
        inputs["past_key_values"] = cache_of(first_columns(run.kept.keys, at), model.hf_model)
    found = _read(run, asked, inputs, own)
    left, expected = torch.stack([parts.left for parts in found]), own.cpu().double()
    sizes = expected.norm(dim=-1, keepdim=True)
    for i, parts in enumerate(found):
        if i:
            parts.below = expected[i - 1]
        parts.attended = [each.up_to(at + 1, run.seq) for each in parts.attended]
    return found if within(left, expected, ONE_COLUMN, sizes, own.dtype) else None


def _read(run: Run, asked: _Asked, inputs: Mapping[str, Any], own: Tensor | None = None) -> list[LayerParts]:
    """The parts, from a forward of some inputs.

    Args:
        own: the run's states `[layer + 1, d_model]`, which take the place of those that leave the blocks. The
            inputs are then that of one column.
    """
    model = run.local_model
    anatomy, prompt = model.anatomy, run.spec.prompt
    known = anatomy.units if asked.units else ()
    at = asked.position if prompt.columns is None else int(prompt.columns[asked.position])
    changes: Sequence[Change] = make_changes(run.spec.edits, model, prompt.model_inputs)
    if own is not None:
        changes, at = changes_within(changes, at, at + 1), 0
    else:
        inputs = {**inputs, **uncached(model.hf_model)}
    call = EditedCall(model.hf_model, model.hf_model, anatomy, changes)
    reader = _Reader(at)
    try:
        for index in range(asked.layer + 1):
            row = anatomy.rows[index]
            block = model.hf_model.get_submodule(row.path)
            is_watched = index in asked.attention
            found = reader.watch(
                block, row.call, anatomy.streams[index], is_watched, None if own is None else own[index]
            )
            for name, part in named_parts(anatomy.sites[index]):
                reader.keep_part(block, row.call, name, part, found)
            for kind in asked.units:
                of_kind = known[index].get(kind)
                if of_kind is not None:
                    reader.keep_taken(block, row.call, kind, of_kind, found)
        last = anatomy.rows[asked.layer]
        reader.stop_after(model.hf_model.get_submodule(last.path), last.call)
        call(**inputs)
    except _Reached:
        pass
    finally:
        reader.remove()
    for below, parts in pairwise(reader.layers):
        parts.below = below.left
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

    def watch(
        self, block: nn.Module, call: int, stream: Stream, is_watched: bool, own: Tensor | None
    ) -> LayerParts:
        """Keep what leaves a block, and put `own` in its place."""
        found = LayerParts()
        self.layers.append(found)

        def enter(args: Any, kwargs: Any) -> None:
            self._shape = stream.entering(args, kwargs).shape[:2]
            if is_watched:
                self._watching = AttentionWatch((self._shape[0], self._shape[1]), 0, self._at)
                self._watching.__enter__()

        def leave(output: Any) -> Any:
            if self._watching is not None:
                found.attended = self._watching.found
            self._unwatch()
            states = stream.leaving(output)
            found.left = states[0, self._at].detach().cpu().double()
            return None if own is None else stream.with_leaving(output, own.to(states)[None, None])

        self._on_input(block, call, enter)
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

    def _on_output(self, module: nn.Module, call: int, act: Callable[[Any], Any]) -> None:
        is_called = _nth(call)

        def hook(_module: nn.Module, _args: Any, output: Any) -> Any:
            return act(output) if is_called() else None

        self._handles.append(module.register_forward_hook(hook))


def _nth(wanted: int) -> Callable[[], bool]:
    """Says whether this is the call of that number: blocks may run in a loop."""
    n_calls = 0

    def is_called() -> bool:
        nonlocal n_calls
        n_calls += 1
        return n_calls - 1 == wanted

    return is_called
