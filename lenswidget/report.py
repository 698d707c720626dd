"""A model's anatomy, for people."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

from lenswidget.examine import BlockSites


def describe(anatomy: Any) -> str:
    """An `Anatomy` in several lines: the blocks, the way to the logits, the sites of each kind of block."""
    return "\n".join([*_head(anatomy), *_sites(anatomy.sites)])


def _head(anatomy: Any) -> Iterator[str]:
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
