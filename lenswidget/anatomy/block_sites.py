"""One block, run by itself: which of its parts are attention, which MLP, and whether edits of them hold."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from lenswidget.anatomy.decomposition import Addend, Decomposition, HookPoint, Part, as_rows, candidates
from lenswidget.anatomy.isolated_block import IsolatedBlock, noise
from lenswidget.anatomy.recording import Call
from lenswidget.tolerances import BLOCK_ALONE, SAME_CONTEXT, STREAM_SUM_EDITED, largest, within

INNER_SITES = ("resid_mid", "attn_out", "mlp_out")


@dataclass(frozen=True)
class BlockSites:
    """What can be read and edited inside one block, and why the rest cannot.

    `kind` says how the block adds: "sequential", "parallel", "one part", or "unknown". `attn` is the part
    that brings in what is elsewhere, `mlp` the one that works on the stream position by position. `mid` is
    where the stream between the two can be read. `parts` are all parts, in order. `refused` maps the
    other sites to a reason. `notes` are remarks for people. `is_vouched`: attention was recognised and
    every edit came out.
    """

    kind: str
    attn: Part | None = None
    mlp: Part | None = None
    mid: HookPoint | None = None
    parts: tuple[Part, ...] = ()
    refused: Mapping[str, str] = field(default_factory=dict[str, str])
    notes: tuple[str, ...] = ()
    is_vouched: bool = False

    @property
    def others(self) -> tuple[Part, ...]:
        """Parts that are neither attention nor MLP (in order): cross-attention, per-layer embeddings."""
        named = [part for part in (self.attn, self.mlp) if part is not None]
        return tuple(
            part for part in self.parts if not any(set(each.addends) <= set(part.addends) for each in named)
        )

    @property
    def offered(self) -> tuple[str, ...]:
        """The names of the sites that verified, those at the block's ends included."""
        inner = [site for site in INNER_SITES if site not in self.refused]
        return ("resid_pre", *inner, "resid_post")


def refusal(reason: str) -> BlockSites:
    """A block of which only the two ends are known."""
    return BlockSites("unknown", refused=dict.fromkeys(INNER_SITES, reason))


def examine(isolated: IsolatedBlock, like: BlockSites | None = None) -> BlockSites:
    """Finds and tests the parts of a block.

    `like` is what an earlier block of the same make turned out to be. Where its parts sum to what this
    block does, they are taken over, and what was tested on them is not tested again; where it had none,
    none are looked for.
    """
    # the model's own work is not ours to vouch for: whatever a block cannot do alone, it is refused
    try:
        leaving, calls = isolated.run(isolated.entering)
    except Exception as error:
        return refusal(f"the block does not run by itself ({type(error).__name__})")
    sums = Decomposition(as_rows(leaving), isolated.dtype)
    again, before = as_rows(leaving), as_rows(isolated.leaving)
    if not within(again, before, BLOCK_ALONE, largest(before), isolated.dtype):
        return refusal("the block run by itself gives something else than inside the model")
    parts = _again(isolated, calls, sums, like) if like is not None else None
    if parts is not None and like is not None and like.is_vouched:
        return _taken_over(like, [_with_overwriting(part, calls) for part in parts])
    if parts is None:
        if like is not None and like.kind == "unknown":
            return like
        d_model = isolated.entering.shape[-1]
        given = candidates(calls, isolated.shape, d_model, outputs=True)
        taken = candidates(calls, isolated.shape, d_model, outputs=False)
        parts = sums.parts(as_rows(isolated.entering), given, taken)
    if parts is None:
        return refusal(_why_no_sum(calls, sums, isolated))
    return _tested(isolated, calls, tuple(_with_overwriting(part, calls) for part in parts))


def _taken_over(like: BlockSites, parts: Sequence[Part]) -> BlockSites:
    """The same sites with this block's own constants."""
    own = {addend.point: addend for part in parts for addend in part.addends}

    def mine(part: Part | None) -> Part | None:
        return part and replace(part, addends=tuple(own[addend.point] for addend in part.addends))

    return replace(like, attn=mine(like.attn), mlp=mine(like.mlp), parts=tuple(parts))


def _with_overwriting(part: Part, calls: Sequence[Call]) -> Part:
    """The part, told which of its outputs the model writes over afterwards."""
    by_path = {call.path: call for call in calls}
    addends = (replace(a, is_overwritten=_is_overwritten(by_path, a.point)) for a in part.addends)
    return replace(part, addends=tuple(addends))


def _is_overwritten(calls: Mapping[str, Call], point: HookPoint) -> bool:
    call = calls[point.path]
    return not torch.equal(point.slot.get(call.output), call.given[point.slot])


def _tested(isolated: IsolatedBlock, calls: Sequence[Call], parts: tuple[Part, ...]) -> BlockSites:
    """Names the parts by what they do, and keeps those whose edits come out as they should."""
    mixers = _mixers(isolated, calls, parts)
    found = _named(parts, mixers)
    refused = dict(found.refused)
    for site, part in (("attn_out", found.attn), ("mlp_out", found.mlp)):
        if part is not None and not _edit_holds(isolated, calls, parts, part):
            refused[site] = f"replacing {part} does not change the stream by as much"
    if found.mid is not None and not _mid_is_shared(isolated, calls, parts, found.mid):
        refused["resid_mid"] = f"changing {found.mid} does not change what the block adds to"
    is_vouched = found.attn is not None and refused == found.refused
    return replace(found, refused=refused, is_vouched=is_vouched)


def _mixers(isolated: IsolatedBlock, calls: Sequence[Call], parts: Sequence[Part]) -> set[HookPoint]:
    """The points whose value at the last position depends on more than the stream there.

    Attention reads other positions, cross-attention another model, and some parts a second input. All
    outputs are held at what they were, so that each is tested by itself.
    """
    held = {addend.point: isolated.value(addend.point, calls) for part in parts for addend in part.addends}
    disturbed = isolated.entering.clone()
    disturbed[:, :-1] += noise(disturbed[:, :-1])
    _, again = isolated.run(disturbed, held, disturb_others=True)
    mixers: set[HookPoint] = set()
    for point, was in held.items():
        now = isolated.value(point, again)
        # NaN (of a disturbed mask) counts as a change
        if not within(now[:, -1], was[:, -1], SAME_CONTEXT, largest(was[:, -1])):
            mixers.add(point)
    return mixers


def _named(parts: tuple[Part, ...], mixers: set[HookPoint]) -> BlockSites:
    if len(parts) == 1:
        return _one_part(parts, mixers)
    mixing = [any(addend.point in mixers for addend in part.addends) for part in parts]
    if not any(mixing):
        reason = "no part of the block carries information between positions"
        refused: dict[str, str] = dict.fromkeys(INNER_SITES[:2], reason)
        return BlockSites("sequential", mlp=parts[-1], parts=parts, refused=refused)
    attn = mixing.index(True)
    local = [i for i, mixes in enumerate(mixing) if not mixes]
    # the first such part behind attention
    mlp = next((i for i in local if i > attn), local[-1] if local else len(parts) - 1)
    notes: list[str] = []
    if mlp == attn:
        reason = "every part of the block but the first works position by position"
        return BlockSites("sequential", parts=parts, refused=dict.fromkeys(INNER_SITES, reason))
    if not local:
        notes.append(f"mlp_out ({parts[mlp]}) carries information between positions, too")
    notes += [f"the block also adds {part}" for i, part in enumerate(parts) if i not in (attn, mlp)]
    mid = parts[max(attn, mlp) - 1].after
    return BlockSites("sequential", parts[attn], parts[mlp], mid, parts, notes=tuple(notes))


def _one_part(parts: tuple[Part, ...], mixers: set[HookPoint]) -> BlockSites:
    mixing = tuple(addend for addend in parts[0].addends if addend.point in mixers)
    local = tuple(addend for addend in parts[0].addends if addend.point not in mixers)
    if mixing and local:
        reason = "attention and MLP read the same stream (parallel block)"
        return BlockSites("parallel", Part(mixing), Part(local), None, parts, {"resid_mid": reason})
    if mixing:
        reason = f"the block adds one thing ({parts[0]}), which carries information between positions"
        return BlockSites(
            "one part", parts[0], None, None, parts, dict.fromkeys(("resid_mid", "mlp_out"), reason)
        )
    reason = f"the block adds one thing ({parts[0]}), which works position by position"
    return BlockSites(
        "one part", None, parts[0], None, parts, dict.fromkeys(("resid_mid", "attn_out"), reason)
    )


def _edit_holds(isolated: IsolatedBlock, calls: Sequence[Call], parts: Sequence[Part], part: Part) -> bool:
    """Whether the block, with this part replaced, gives the sum of what entered and all parts."""
    was = sum_of(part, lambda point: isolated.value(point, calls))
    new = was + noise(was)
    edits = [edit_for(part, new, lambda point: isolated.value(point, calls))]
    leaving, again = isolated.run(isolated.entering, dict(edits))
    mine = {addend.point for addend in part.addends}
    others = [addend for each in parts for addend in each.addends if addend.point not in mine]
    return _is_sum(leaving, [isolated.entering, new, *_values(isolated, again, others)], isolated.dtype)


def _mid_is_shared(
    isolated: IsolatedBlock, calls: Sequence[Call], parts: Sequence[Part], mid: HookPoint
) -> bool:
    """Whether the tensor at `mid` is the very one that later parts are added to."""
    was = isolated.value(mid, calls)
    new = was + noise(was)
    leaving, again = isolated.run(isolated.entering, {mid: new}, in_place=True)
    first = next(i for i, part in enumerate(parts) if part.after == mid)
    others = [addend for each in parts[first + 1 :] for addend in each.addends]
    return _is_sum(leaving, [new, *_values(isolated, again, others)], isolated.dtype)


def _values(isolated: IsolatedBlock, calls: Sequence[Call], addends: Sequence[Addend]) -> list[Tensor]:
    return [addend.scale * isolated.value(addend.point, calls) for addend in addends]


def _is_sum(leaving: Tensor, terms: Sequence[Tensor], dtype: torch.dtype) -> bool:
    rows = torch.stack([as_rows(term) for term in terms])
    return within(as_rows(leaving), rows.sum(0), STREAM_SUM_EDITED, rows.abs().sum(0), dtype)


def sum_of(part: Part, read: Callable[[HookPoint], Tensor]) -> Tensor:
    """What a part adds: the sum of its addends, each times its constant."""
    terms = [read(a.point) if a.scale == 1.0 else a.scale * read(a.point) for a in part.addends]
    return terms[0] if len(terms) == 1 else torch.stack(terms).sum(0)


def edit_for(part: Part, new: Tensor, read: Callable[[HookPoint], Tensor]) -> tuple[HookPoint, Tensor]:
    """The one output to replace so that a part adds `new`: its last, which makes up for the others."""
    *others, last = part.addends
    for addend in others:
        new = new - addend.scale * read(addend.point)
    return last.point, new if last.scale == 1.0 else new / last.scale


def _why_no_sum(calls: Sequence[Call], sums: Decomposition, isolated: IsolatedBlock) -> str:
    for last in candidates(calls, isolated.shape, isolated.entering.shape[-1], outputs=True):
        if sums.close(last.rows, sums.end):
            return f"what leaves the block is {last.point}, not a sum with what entered"
    return "no outputs of the block's submodules, times constants, sum to what it adds to the stream"


def _again(
    isolated: IsolatedBlock, calls: Sequence[Call], sums: Decomposition, like: BlockSites
) -> tuple[Part, ...] | None:
    """The parts of an earlier block, with the constants that this one has, if they fit."""
    parts: list[Part] = []
    now = as_rows(isolated.entering)
    for part in like.parts:
        later = sums.end if part.after is None else as_rows(isolated.value(part.after, calls))
        outputs = [as_rows(isolated.value(addend.point, calls)) for addend in part.addends]
        scales = sums.scales(later, now, outputs)
        if scales is None:
            return None
        addends = zip(part.addends, scales, strict=True)
        parts.append(Part(tuple(Addend(a.point, s) for a, s in addends), part.after))
        now = later
    return tuple(parts) or None
