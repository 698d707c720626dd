"""What a model was found to be: its blocks, its stream, its way to the logits."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from lenswidget.anatomy.block_sites import BlockSites
from lenswidget.anatomy.bypass import Bypass
from lenswidget.anatomy.fidelity import Fidelity
from lenswidget.anatomy.recording import Recording
from lenswidget.anatomy.stream import Stream
from lenswidget.anatomy.tail_chain import TailStep


@dataclass(frozen=True, repr=False)
class Anatomy:
    """A model's decoder as found by watching it, and how well it verified.

    Attributes:
        blocks: module paths of the decoder blocks, in the order of the forward.
        unembed: module path of the map to the vocabulary; None where the model calls no such module.
        final_norm: module path of the norm between the last block and the unembed, if there is one.
        d_model: width of the stream per position (all streams together, where a model carries several).
        d_vocab: how many logits the model gives per position.
        n_calls: how often each block runs in one forward; the last time counts.
        streams: where each block takes and gives the stream.
        tail_steps: the modules between the last block and the unembed, where they form a plain chain
            that was verified; None where only the model's own forward reproduces what happens there.
        sites: per block, what can be read and edited inside it, and why the rest cannot.
        fidelity: last block's output decoded through the model's own forward, against its own logits.
    """

    model_class: str
    blocks: tuple[str, ...]
    unembed: str | None
    final_norm: str | None
    d_model: int
    d_vocab: int
    n_calls: tuple[int, ...]
    streams: tuple[Stream, ...]
    tail_steps: tuple[TailStep, ...] | None
    fidelity: Fidelity
    sites: tuple[BlockSites, ...]
    bypass: Bypass = field(compare=False)
    probe: Recording = field(compare=False)

    @property
    def n_layers(self) -> int:
        return len(self.blocks)

    def __str__(self) -> str:
        return describe(self)

    __repr__ = __str__


def describe(anatomy: Anatomy) -> str:
    """An `Anatomy` in several lines: the blocks, the way to the logits, the sites of each kind of block."""
    return "\n".join([*_head(anatomy), *_sites(anatomy.sites)])


def _head(anatomy: Anatomy) -> Iterator[str]:
    first, last = anatomy.blocks[0], anatomy.blocks[-1]
    yield (
        f"{anatomy.model_class}: {anatomy.n_layers} blocks, d_model {anatomy.d_model}, "
        f"d_vocab {anatomy.d_vocab}"
    )
    yield f"  blocks      {first} to {last}" + (
        "" if max(anatomy.n_calls) == 1 else ", run several times each"
    )
    yield f"  embed       the stream that enters {first}"
    yield f"  final_norm  {anatomy.final_norm or 'none found'}"
    yield f"  unembed     {anatomy.unembed or 'none found'}"
    yield f"  tail        {anatomy.fidelity.text}"


def _sites(sites: Sequence[BlockSites]) -> Iterator[str]:
    for key, group in groupby(enumerate(sites), key=lambda item: _lines(item[1])):
        layers = [layer for layer, _ in group]
        span = f"layer {layers[0]}" if len(layers) == 1 else f"layers {layers[0]} to {layers[-1]}"
        yield f"  {span}: {key[0]}"
        yield from key[1:]


def _lines(sites: BlockSites) -> tuple[str, ...]:
    found: list[tuple[str, Any]] = [
        ("attn_out", sites.attn),
        ("resid_mid", sites.mid),
        ("mlp_out", sites.mlp),
    ]
    lines = [f"    {name:<9} = {where}" for name, where in found if name not in sites.refused]
    reasons: dict[str, list[str]] = {}
    for name, reason in sites.refused.items():
        reasons.setdefault(reason, []).append(name)
    lines += [f"    not offered: {', '.join(names)} ({reason})" for reason, names in reasons.items()]
    return (sites.kind, *lines, *(f"    note: {note}" for note in sites.notes))
