"""Finds the heads and neurons of each block by watching it, and tests that their shares sum to the part."""

import weakref
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lenswidget.anatomy.attention_watch import Attended, AttentionWatch
from lenswidget.anatomy.block_sites import BlockSites
from lenswidget.anatomy.decomposition import Addend, HookPoint, candidates
from lenswidget.anatomy.frozen import freeze, is_affine
from lenswidget.anatomy.isolated_block import IsolatedBlock
from lenswidget.anatomy.recording import Call, probe_ids, watch
from lenswidget.anatomy.stream import Stream
from lenswidget.anatomy.tail_chain import ratio
from lenswidget.anatomy.units import UNITS, BlockUnits, Units, rows_through
from lenswidget.models.facts import facts_of
from lenswidget.models.hf_model import inference
from lenswidget.models.split import n_shards
from lenswidget.nested import Slot
from lenswidget.tolerances import ATTENTION_ROW, PROJECTION, largest, within
from lenswidget.tracing.locks import lock_of

# How many modules may stand between the projection and the stream: a dropout, a norm, a dropout.
_MOST_STEPS = 3


def kept_units(
    hf_model: "weakref.ref[nn.Module]",
    paths: tuple[tuple[str, int], ...],
    streams: Sequence[Stream],
    sites: Sequence[BlockSites],
) -> tuple[BlockUnits, ...]:
    """`find_units`, once for a model that does not change."""
    alive = hf_model()
    if alive is None:
        return tuple(BlockUnits(refused=dict.fromkeys(UNITS, "the model is gone")) for _ in paths)
    with lock_of(alive):
        return facts_of(alive).get(("units", paths), lambda: find_units(alive, paths, streams, sites))


def find_units(
    hf_model: nn.Module,
    paths: Sequence[tuple[str, int]],
    streams: Sequence[Stream],
    sites: Sequence[BlockSites],
) -> tuple[BlockUnits, ...]:
    """The heads and neurons of each layer, found by one more watched forward and tested on each block.

    Args:
        paths: of each layer, its block and which of the block's calls it is.
    """
    if (n := n_shards(hf_model)) > 1:
        reason = f"they are split over {n} processes"
        return tuple(BlockUnits(refused=dict.fromkeys(UNITS, reason)) for _ in paths)
    with inference(hf_model):
        seen = watch(hf_model, probe_ids(hf_model))
        calls = seen.by_path()
        is_looped = any(len(calls[path]) > 1 for path, _ in paths)
        if is_looped:
            reason = "blocks run in a loop"
            return tuple(BlockUnits(refused=dict.fromkeys(UNITS, reason)) for _ in paths)
        found: list[BlockUnits] = []
        for (path, call), stream, of_block in zip(paths, streams, sites, strict=True):
            block = hf_model.get_submodule(path)
            isolated = IsolatedBlock(block, calls[path][call], stream, seen.ids.shape)
            found.append(_of_block(isolated, of_block))
        return tuple(found)


def _of_block(isolated: IsolatedBlock, sites: BlockSites) -> BlockUnits:
    refused: dict[str, str] = {}
    units: dict[str, Units] = {}
    batch, seq = isolated.shape
    try:
        with AttentionWatch((batch, seq), 0, seq - 1) as watched:
            _, calls = isolated.run(isolated.entering)
    except Exception as error:
        reason = f"the block does not run by itself ({type(error).__name__})"
        return BlockUnits(refused=dict.fromkeys(UNITS, reason))
    for kind, site, part in (("heads", "attn_out", sites.attn), ("neurons", "mlp_out", sites.mlp)):
        if site in sites.refused or part is None:
            refused[kind] = f"there is no {site}"
            continue
        first, *others = part.addends
        if others:
            refused[kind] = f"{site} is a sum of several outputs"
        else:
            # the model's own modules are called: whatever they cannot do is refused
            try:
                finder = _Finder(isolated, calls, first, watched.found)
                units[kind] = finder.heads() if kind == "heads" else finder.neurons()
            except _NotFoundError as error:
                refused[kind] = str(error)
            except Exception as error:
                refused[kind] = f"the projection does not run by itself ({type(error).__name__})"
    return BlockUnits(units.get("heads"), units.get("neurons"), refused)


class _NotFoundError(Exception):
    """Says why there are no units."""


@dataclass
class _Finder:
    """Finds the last projection of one part, and how its input is made up."""

    isolated: IsolatedBlock
    calls: Sequence[Call]
    addend: Addend
    attended: Sequence[Attended]

    def neurons(self) -> Units:
        return self._units(self._width(), 1)

    def heads(self) -> Units:
        width = self._width()
        taken = self._taken()
        fitting = [each for each in self.attended if each.n_heads * each.d_value == width]
        for each in fitting:
            if _is_output(each, taken):
                return self._units(each.n_heads, each.d_value)
        for each in fitting:
            if self._is_in_place(each, taken):
                return self._units(each.n_heads, each.d_value, is_gated=True)
        if not self.attended:
            raise _NotFoundError("no product of attention weights and values was seen")
        raise _NotFoundError(
            f"no weights times values lie side by side in {self._projection()[0].path}.input"
        )

    def _projection(self) -> tuple[Call, float, str | None, float]:
        """The projection's call, the constant behind it, the norm behind that, and the constant behind it."""
        if "chain" not in self.__dict__:
            self.__dict__["chain"] = self._walk_back()
        return self.__dict__["chain"]

    def _walk_back(self) -> tuple[Call, float, str | None, float]:
        target = self.isolated.value(self.addend.point, self.calls)
        norm: str | None = None
        after = self.addend.scale
        for _ in range(_MOST_STEPS):
            for call, scale in self._giving(target):
                if self._is_projection(call):
                    return (call, scale, norm, after) if norm else (call, 1.0, None, after * scale)
            stepped = self._through_norm(target) if norm is None else None
            if stepped is None:
                break
            norm, scale, target = stepped
            after = after * scale
        raise _NotFoundError(f"no affine map of one input gives {self.addend.point}")

    def _giving(self, target: Tensor) -> list[tuple[Call, float]]:
        """The calls whose output is the target up to a constant, outermost first."""
        found: list[tuple[Call, float]] = []
        for call in self.calls:
            given = call.given.get(Slot(()))
            if given is None or given.shape[-1] != target.shape[-1] or given.numel() != target.numel():
                continue
            scale = ratio(target.reshape(-1, target.shape[-1]), given.reshape(-1, target.shape[-1]))
            if scale is not None:
                found.append((call, scale))
        return sorted(found, key=lambda item: item[0].path.count("."))

    def _is_projection(self, call: Call) -> bool:
        """Whether a module is an affine map of its one input, and not the identity."""
        taken = call.taken.get(Slot((0, 0)))
        if taken is None or len(call.taken) != 1:
            return False
        given = call.given[Slot(())]
        if given.shape == taken.shape and torch.equal(given, taken):
            return False
        rows = taken.reshape(-1, taken.shape[-1])[:4]
        try:
            through = rows_through(self.isolated.block.get_submodule(call.path))
            whole, can_split = through(rows).cpu().double(), is_affine(through, rows)
        except Exception:
            return False
        own = given.reshape(-1, given.shape[-1])[:4].cpu().double()
        return can_split and within(whole, own, PROJECTION, largest(own), taken.dtype)

    def _through_norm(self, target: Tensor) -> tuple[str, float, Tensor] | None:
        for call, scale in self._giving(target):
            taken = call.taken.get(Slot((0, 0)))
            if taken is None or taken.shape != call.given[Slot(())].shape or len(call.taken) != 1:
                continue
            rows = taken.reshape(-1, taken.shape[-1])
            try:
                norm = rows_through(self.isolated.block.get_submodule(call.path))
                if freeze(norm, rows) is not None:
                    return call.path, scale, taken
            except Exception:
                continue
        return None

    def _width(self) -> int:
        return self._projection()[0].taken[Slot((0, 0))].shape[-1]

    def _taken(self, calls: Sequence[Call] | None = None) -> Tensor:
        """What the projection takes at the last position of the first row, `[width]`."""
        point = self._point()
        return self.isolated.value(point, self.calls if calls is None else calls)[0, -1]

    def _point(self) -> HookPoint:
        call = self._projection()[0]
        width = call.taken[Slot((0, 0))].shape[-1]
        found = candidates([call], self.isolated.shape, width, outputs=False)
        return next(each.point for each in found if each.point.slot == Slot((0, 0)))

    def _is_in_place(self, each: Attended, taken: Tensor) -> bool:
        """Whether a change of one head alone reaches its own slice of the projection's input and no other."""
        batch, seq = self.isolated.shape
        for head in {0, each.n_heads - 1}:

            def change(index: int, result: Tensor, head: int = head) -> Tensor:
                if index != each.index:
                    return result
                changed = result.clone()
                changed[:, head] = changed[:, head] * 2 + 1
                return changed

            with AttentionWatch((batch, seq), 0, seq - 1, change):
                _, calls = self.isolated.run(self.isolated.entering)
            moved = self._taken(calls) != taken
            mine = torch.zeros_like(moved)
            mine[head * each.d_value : (head + 1) * each.d_value] = True
            if not bool(moved[mine].any()) or bool(moved[~mine].any()):
                return False
        return True

    def _units(self, n: int, d: int, *, is_gated: bool = False) -> Units:
        _, before, norm, after = self._projection()
        units = Units(self._point(), n, d, before, after, norm, is_gated)
        self._check_sum(units)
        return units

    def _check_sum(self, units: Units) -> None:
        """The shares of all units, and the constant, sum to what the part adds."""
        split = units.split(self.isolated.block, self._taken())
        added = split.added(range(units.n)) if units.d > 1 else split.carry(self._taken()[None])
        whole = self.addend.scale * self.isolated.value(self.addend.point, self.calls)[0, -1].cpu().double()
        size = largest(added) + largest(whole) + largest(split.constant)
        if not within(added.sum(0) + split.constant, whole, PROJECTION, size, self.isolated.dtype):
            raise _NotFoundError(f"their shares through {units.point.path} do not sum to the part")


def _is_output(each: Attended, taken: Tensor) -> bool:
    output = each.output().flatten()
    return within(output, taken.cpu().double(), ATTENTION_ROW, largest(output), taken.dtype)
