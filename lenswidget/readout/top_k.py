"""The k best of each row of logits, without sorting the row; ties by the lower id."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

# 64 float32 are four cache lines: the maxima of a 50,000 wide row are then 768 numbers.
BLOCK = 64

Logits = Float[Tensor, "cells d_vocab"]
TopIds = Int[Tensor, "cells k"]


def top_k(logits: Logits, k: int) -> TopIds:
    """Ids of the k largest logits of each row, largest first, ties by the lower id.

    The row is cut into blocks. The k blocks with the largest maxima (ties by the lower block) hold the k
    largest entries (ties by the lower id): an entry of any other block has k block maxima before it.

    Args:
        logits: `[cells, d_vocab]`, float32 without NaN; infinities are allowed.
        k: 1 to `d_vocab`.
    Returns:
        `[cells, k]`, int64.
    """
    n_cells, d_vocab = logits.shape
    whole = d_vocab // BLOCK * BLOCK
    n_blocks = -(-d_vocab // BLOCK)
    if k * 4 > n_blocks:
        return best_places(logits, k)
    maxima = logits[:, :whole].view(n_cells, -1, BLOCK).amax(dim=-1)
    if whole < d_vocab:
        maxima = torch.cat([maxima, logits[:, whole:].amax(dim=-1, keepdim=True)], dim=-1)
    blocks = best_places(maxima, k)
    within = torch.arange(BLOCK, device=logits.device)
    ids = (blocks[:, :, None] * BLOCK + within).flatten(1)
    candidates = logits.gather(1, ids.clamp(max=d_vocab - 1))
    # the last block may be short: an id beyond the vocabulary loses to every true one, -inf included
    candidates.masked_fill_(ids >= d_vocab, -torch.inf)
    return ids.gather(1, best_places(candidates, k, ids))


def best_places(values: Tensor, k: int, ids: Tensor | None = None) -> Tensor:
    """Places of the k largest of each row `[rows, n]`, ties by the lower id (the place, without ids)."""
    return _keys(values, ids).topk(k, dim=-1).indices


def _keys(values: Tensor, ids: Tensor | None) -> Tensor:
    """One int64 per value, ordered by value, then by the lower id."""
    # + 0.0: the two zeros are equal but their bits are not
    bits = (values.float() + 0.0).view(torch.int32)
    # all but the sign turned over where it is set: as integers the bits then rise with the value
    ordered = bits.bitwise_xor(bits.bitwise_right_shift(31).bitwise_and_(0x7FFFFFFF))
    place = torch.arange(values.shape[-1], device=values.device) if ids is None else ids
    return ordered.long().bitwise_left_shift_(32).sub_(place)
