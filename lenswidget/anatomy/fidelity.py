"""How closely decoded states reproduce a model's own logits."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lenswidget.tolerances import FIDELITY, FIDELITY_16_BITS


@dataclass(frozen=True)
class Fidelity:
    """Decoded logits against the model's own.

    Attributes:
        max_abs_error: largest |difference| of log-probs, in nats.
        tolerance: what rounding in the model's own dtype explains, in nats.
        n_positions: how many positions were compared.
    """

    max_abs_error: float
    tolerance: float
    n_positions: int

    @property
    def ok(self) -> bool:
        return self.max_abs_error <= self.tolerance

    def complaint(self, name: str) -> str:
        """What is wrong, where it is not `ok`.

        Args:
            name: of the model.
        """
        return f"The last row of {name} is not its own logits. {self.text}"

    @property
    def text(self) -> str:
        """One plain line for the badge."""
        error = f"{self.max_abs_error:.1e} nats at most over {self.n_positions} positions"
        if self.ok:
            return f"Decoding reproduces the model's own logits: off by {error}."
        return f"Decoding does NOT reproduce the model's own logits: off by {error}."


def compare(decoded: Tensor, own: Tensor) -> Fidelity:
    """Compares logits `[n, d_vocab]` with the model's own, `[n, d_vocab]`, as log-probs.

    The tolerance grows with the spacing of the model's own dtype at its largest finite logit: the same
    weights in another order of summation differ by that much.
    """
    ours, theirs = decoded.detach().float(), own.detach().float()
    # ids that are masked out have -inf
    largest = float(theirs.nan_to_num(0.0, 0.0, 0.0).abs().max())
    error = _gap(ours.log_softmax(-1), theirs.log_softmax(-1))
    tolerance = FIDELITY if own.dtype in (torch.float32, torch.float64) else FIDELITY_16_BITS
    return Fidelity(error, tolerance.bound(max(1.0, largest), own.dtype), len(ours))


def _gap(ours: Tensor, theirs: Tensor) -> float:
    if ours.shape != theirs.shape:
        return math.inf
    # equal infinities (masked ids) are equal, not NaN apart
    gap = torch.where(ours == theirs, 0.0, (ours - theirs).abs())
    return math.inf if bool(gap.isnan().any()) else float(gap.max())
