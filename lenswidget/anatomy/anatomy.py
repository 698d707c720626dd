"""What a model was found to be: its blocks, its stream, its way to the logits."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Literal, NamedTuple

from lenswidget.anatomy.block_sites import BlockSites
from lenswidget.anatomy.bypass import Bypass
from lenswidget.anatomy.fidelity import Fidelity
from lenswidget.anatomy.recording import Recording
from lenswidget.anatomy.stream import Stream
from lenswidget.anatomy.tail_chain import TailStep
from lenswidget.anatomy.units import UNITS, BlockUnits
from lenswidget.models.split_forward import SplitForward


class Row(NamedTuple):
    """One row of the lens grid: one call of one block.

    Attributes:
        block: index of the block among `Anatomy.blocks`.
        call: how many calls of this block came before it in the forward; 0 unless blocks run in a loop.
        path: module path of the block.
    """

    block: int
    call: int
    path: str


@dataclass(frozen=True, repr=False)
class Anatomy:
    """A model's decoder as found by watching it, and how well it verified.

    Attributes:
        blocks: module paths of the decoder blocks, in the order of the forward.
        unembed: module path of the map to the vocabulary; None where the model calls no such module.
        final_norm: module path of the norm between the last block and the unembed, if there is one.
        d_model: width of the stream per position (all streams together, where a model carries several).
        d_vocab: how many logits the model gives per position.
        n_calls: how often each block runs in one forward.
        rows: the calls of the blocks in the order of the forward; layer `i` is `rows[i]`. One per
            block, unless blocks run in a loop.
        streams: where each row's block takes and gives the stream.
        tail_steps: the modules between the last block and the unembed, where they form a plain chain
            that was verified; None where only the model's own forward reproduces what happens there.
        sites: per row, what can be read and edited inside its block, and why the rest cannot.
        fidelity: last block's output decoded through the model's own forward, against its own logits.
        is_causal: whether what is said at a position depends on that token and those before it alone.
        predicts: which token the logits of a position speak of: "next", or "same" in a masked language model.
        is_encoder_decoder: whether the blocks are those of a decoder beside an encoder.
    """

    model_class: str
    blocks: tuple[str, ...]
    unembed: str | None
    final_norm: str | None
    d_model: int
    d_vocab: int
    n_calls: tuple[int, ...]
    rows: tuple[Row, ...]
    streams: tuple[Stream, ...]
    tail_steps: tuple[TailStep, ...] | None
    fidelity: Fidelity
    sites: tuple[BlockSites, ...]
    is_causal: bool
    predicts: Literal["next", "same"]
    is_encoder_decoder: bool
    bypass: Bypass = field(compare=False)
    find_split: Callable[[], SplitForward] = field(compare=False)
    probe: Recording = field(compare=False)
    find_units: Callable[[], tuple[BlockUnits, ...]] | None = field(default=None, compare=False)

    @property
    def units(self) -> tuple[BlockUnits, ...]:
        """Per row, the heads and neurons of its block; found when first asked for, by one more forward."""
        return (BlockUnits(),) * self.n_layers if self.find_units is None else self.find_units()

    @property
    def split(self) -> SplitForward:
        """Whether a forward may go on from the keys of a prefix; tried when it is first asked for."""
        if not self.is_causal:
            return SplitForward("each position of this model sees later ones")
        return self.find_split()

    @property
    def n_layers(self) -> int:
        """How many rows there are: calls of blocks."""
        return len(self.rows)

    @property
    def columns_from(self) -> str:
        """The argument of the model's forward that holds the tokens of the columns."""
        return "decoder_input_ids" if self.is_encoder_decoder else "input_ids"

    @property
    def is_looped(self) -> bool:
        """Whether some block runs more than once in one forward."""
        return len(self.rows) > len(self.blocks)

    def __str__(self) -> str:
        return describe(self)

    __repr__ = __str__


def describe(anatomy: Anatomy) -> str:
    """An `Anatomy` in several lines: the blocks, the way to the logits, the sites of each kind of block."""
    return "\n".join([*_head(anatomy), *_sites(anatomy.sites, anatomy.units)])


def _head(anatomy: Anatomy) -> Iterator[str]:
    first, last = anatomy.blocks[0], anatomy.blocks[-1]
    n_blocks = f"{len(anatomy.blocks)} block{'s' * (len(anatomy.blocks) > 1)}"
    if anatomy.is_looped:
        n_blocks += f" in a loop, {anatomy.n_layers} layers"
    yield f"{anatomy.model_class}: {n_blocks}, d_model {anatomy.d_model}, d_vocab {anatomy.d_vocab}"
    yield f"  blocks      {first}" + (f" to {last}" if last != first else "")
    if anatomy.is_looped:
        yield f"  loop        {_loop(anatomy)}"
    yield f"  embed       the stream that enters {first}"
    yield f"  final_norm  {anatomy.final_norm or 'none found'}"
    yield f"  unembed     {anatomy.unembed or 'none found'}"
    yield f"  tail        {anatomy.fidelity.text}"
    if anatomy.is_encoder_decoder:
        yield "  columns     the decoder's tokens; its encoder is not shown"
    yield f"  reuse       {anatomy.split.text}"
    if not anatomy.is_causal:
        of = "the token that stands there" if anatomy.predicts == "same" else "the next token"
        yield f"  positions   each sees later tokens as well; its logits speak of {of}"


def _loop(anatomy: Anatomy) -> str:
    n_calls = sorted(set(anatomy.n_calls))
    times = str(n_calls[0]) if len(n_calls) == 1 else f"{n_calls[0]} to {n_calls[-1]}"
    rows = ", ".join(f"{row.path} pass {row.call}" for row in anatomy.rows[:3])
    return f"each block runs {times} times in one forward; layers 0, 1, ... are {rows}, ..."


def _sites(sites: Sequence[BlockSites], units: Sequence[BlockUnits]) -> Iterator[str]:
    for key, group in groupby(range(len(sites)), key=lambda layer: _lines(sites[layer], units[layer])):
        layers = list(group)
        span = f"layer {layers[0]}" if len(layers) == 1 else f"layers {layers[0]} to {layers[-1]}"
        yield f"  {span}: {key[0]}"
        yield from key[1:]


def _lines(sites: BlockSites, units: BlockUnits) -> tuple[str, ...]:
    found: list[tuple[str, Any]] = [
        ("attn_out", sites.attn),
        ("resid_mid", sites.mid),
        ("mlp_out", sites.mlp),
    ]
    lines = [f"    {name:<9} = {where}" for name, where in found if name not in sites.refused]
    lines += [f"    {kind:<9} = {units.get(kind)}" for kind in UNITS if units.get(kind) is not None]
    reasons: dict[str, list[str]] = {}
    for name, reason in (*sites.refused.items(), *units.refused.items()):
        reasons.setdefault(reason, []).append(name)
    lines += [f"    not offered: {', '.join(names)} ({reason})" for reason, names in reasons.items()]
    return (sites.kind, *lines, *(f"    note: {note}" for note in sites.notes))
