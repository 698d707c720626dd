"""Every "equal up to rounding" of the package: how far two computations may differ, and why so far.

A tolerance is `max(spacings * spacing(dtype), share) * size + floor`, where `size` is the magnitude that the
caller names: of each element, or the largest of all.
"""

from dataclasses import dataclass
from typing import overload

import torch
from torch import Tensor


def spacing(dtype: torch.dtype) -> float:
    """The relative distance of neighbouring numbers of a dtype, at least float32's.

    Models compute norms and rotations in float32 however they are stored, so float64 is no finer here.
    """
    return max(torch.finfo(dtype).eps, torch.finfo(torch.float32).eps)


@dataclass(frozen=True)
class Tolerance:
    """How far two values may be apart.

    Attributes:
        reason: where the difference comes from.
        spacings: of the values' dtype, relative to their size.
        share: of their size, in any dtype; the larger of the two counts.
        floor: absolute, added to that.
    """

    reason: str
    spacings: float = 0.0
    share: float = 0.0
    floor: float = 0.0

    @overload
    def bound(self, size: float, dtype: torch.dtype = torch.float32) -> float: ...
    @overload
    def bound(self, size: Tensor, dtype: torch.dtype = torch.float32) -> Tensor: ...
    def bound(self, size: float | Tensor, dtype: torch.dtype = torch.float32) -> float | Tensor:
        """The largest difference allowed between values of this size and dtype."""
        return max(self.spacings * spacing(dtype), self.share) * size + self.floor


def within(
    a: Tensor, b: Tensor, tolerance: Tolerance, size: float | Tensor, dtype: torch.dtype = torch.float32
) -> bool:
    """Whether two tensors have one shape and differ nowhere by more than the tolerance; NaN differs.

    Args:
        size: magnitude of the values, for all or per element.
        dtype: that they were computed in, which may be coarser than theirs.
    """
    return a.shape == b.shape and bool(((a - b).abs() <= tolerance.bound(size, dtype)).all())


def largest(tensor: Tensor) -> float:
    """The largest magnitude; 0 where there is no element."""
    return float(tensor.abs().max()) if tensor.numel() else 0.0


# --- the model's logits decoded again

FIDELITY = Tolerance(
    "The same product summed in another order: rounding of sums over d_model at the largest logit.",
    spacings=64.0,
)
FIDELITY_16_BITS = Tolerance(
    "Two 16-bit roundings of nearly the same float32 logits, at the largest: one on either side.",
    spacings=2.0,
)

# --- parts of the tail

TAIL_MODULES = Tolerance(
    "The same modules called on rows of another shape: kernels may sum in another order.", spacings=8.0
)
TAIL_POST_OPS = Tolerance(
    "A scale and a tanh, a few operations, each of which rounds.",
    spacings=8.0,
)
UNIT_SCALE = Tolerance("A scale read off one division; no model scales by 1.000001.", floor=1e-6)
MODULE_CHAIN = Tolerance(
    "One multiplication by a constant and its rounding, on either side; the floor is for zeros.",
    spacings=4.0,
    floor=1e-12,
)
FORGETS_SCALE = Tolerance(
    "A norm gives the same for x and 8 x, but for its epsilon. Anything else differs by a factor.", share=0.1
)

# --- parts of a block

BLOCK_ALONE = Tolerance(
    "The block run again by itself; some kernels sum in another order each time.", spacings=64.0
)
STREAM_SUM = Tolerance(
    "A sum of a stream and its parts, rounded where the model adds; the floor is for zeros.",
    spacings=4.0,
    floor=1e-12,
)
STREAM_SUM_EDITED = Tolerance(
    "The same with one part replaced by noise of its size, which adds a rounding of its own.",
    spacings=8.0,
    floor=1e-12,
)
MEDIAN_LEFT_OVER = Tolerance(
    "What a sum leaves unexplained must also be small beside what was added to a large stream.", share=0.05
)
SMALLEST_SCALE = Tolerance(
    "A constant this small multiplies what has nothing to do with the sum.", floor=1e-4
)
SAME_CONTEXT = Tolerance(
    "Far above rounding in 8 bits, far below what other words before a token change.", share=0.03
)

FROZEN_NORM = Tolerance(
    "A norm written out in float64, beside the same in the model's dtype, at its largest output.",
    spacings=8.0,
)
PROJECTION = Tolerance(
    "An affine map of a sum beside the sum of its parts, at its largest output: kernels round each.",
    spacings=16.0,
)
ATTENTION_ROW = Tolerance(
    "One row of weights times values, beside what the model's own kernel gave, at the largest of these.",
    spacings=16.0,
)

# --- the model as a whole

PADDING = Tolerance(
    "A padded row runs through other kernels; pads that count as tokens move logits by far more.", share=1e-3
)
CONTINUATION = Tolerance(
    "As a share of what forgetting the cached tokens does; a clamp in a one-token step moves a thousandth.",
    share=0.05,
    floor=1e-5,
)
TEXTS_TOGETHER = Tolerance(
    "A text in a batch and by itself, through a deep model, as a share of the norm.", spacings=8.0, share=1e-4
)

UNTOUCHED = Tolerance(
    "Experts compute the tokens they are given together, so that which others there are moves rounding.",
    spacings=64.0,
)

# --- products made faster

PACKED_PRODUCT = Tolerance(
    "A product over d_model terms of up to 1 in another order; a wrong weight is off by its size.",
    share=1e-4,
    floor=1e-4,
)
WIDENED_NORM = Tolerance("A norm in 16 bits beside the same in float32.", spacings=8.0)

# --- forwards cut short

PATCHED_ROWS = Tolerance(
    "A forward from the middle, in a batch, on keys that are kept: kernels sum in another order in each "
    "layer. A share of the largest logit.",
    spacings=8.0,
    share=1e-5,
)

ONE_COLUMN = Tolerance(
    "One column through one block, from its own state, on keys that are kept: kernels sum in another order. "
    "A share of the state's norm.",
    spacings=8.0,
)

SPLIT_FORWARD = Tolerance(
    "A forward in two parts: kernels sum in another order in each layer. A share of a state's norm.",
    spacings=8.0,
    share=2e-4,
)
