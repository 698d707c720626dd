"""The last block's states decoded as readouts do, beside the model's own logits."""

import torch
from torch import Tensor

from lenswidget.anatomy.fidelity import Fidelity, compare
from lenswidget.anatomy.tail import Tail
from lenswidget.models.product import full_float32
from lenswidget.readout.unembed import Unembed


def last_row_fidelity(tail: Tail, last: Tensor, own: Tensor, decoded: Tensor | None) -> Fidelity:
    """The last block's states `[seq, d_model]` decoded as readouts do, against the model's own logits.

    Args:
        own: `[n, d_vocab]`, of the last positions.
        decoded: the same positions', where a readout has decoded them; else they are decoded now.
    """
    unembed = Unembed(tail)
    # the coarser of the two: a model stored in 16 bits may give float32 logits, and one of float32, under
    # autocast, 16 bits
    own = own.to(max(unembed.stored_dtype or own.dtype, own.dtype, key=lambda dtype: torch.finfo(dtype).eps))
    if decoded is None:
        with full_float32(unembed.device):
            decoded = unembed(unembed.prepare(last[-len(own) :]))
    return compare(decoded.to(own.device), own)
