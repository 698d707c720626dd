"""A norm held at the scale that it has for one state: it is then affine, and its input can be split."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lenswidget.tolerances import FROZEN_NORM, PROJECTION, largest, within


@dataclass(frozen=True, eq=False)
class FrozenNorm:
    """A norm at some rows: `gain * (x - mean(x)) + bias`, or `gain * x + bias`, float64.

    Attributes:
        gain: `[rows, d]`, the norm's weight over the size of each row.
        bias: `[d]`.
        is_centred: whether the mean is taken off.
    """

    gain: Tensor
    bias: Tensor
    is_centred: bool

    def linear(self, parts: Tensor) -> Tensor:
        """What parts `[..., rows, d]` of the rows become, the bias left out."""
        centred = parts - parts.mean(-1, keepdim=True) if self.is_centred else parts
        return self.gain * centred


def freeze(norm: Callable[[Tensor], Tensor], states: Tensor) -> FrozenNorm | None:
    """A norm held at some states `[rows, d]`; None where it is neither a root-mean-square nor a layer norm.

    Its weight and bias are read off what it makes of chosen rows, so that it may keep them as it likes; and
    with them it must give what it gives for the states themselves.
    """
    d = states.shape[-1]
    signs = torch.ones(d, dtype=states.dtype, device=states.device)
    signs[1::2] = -1
    signs[2 * (d // 2) :] = 0  # of an odd width: its mean is to be 0
    answers = norm(torch.stack([torch.zeros_like(signs), signs])).cpu().double()
    if answers.shape[-1] != d:
        return None
    x, y = states.cpu().double(), norm(states).cpu().double()
    bias, weight = answers[0], (answers[1] - answers[0]) * signs.cpu().double()
    found: list[tuple[float, FrozenNorm]] = []
    for is_centred in (False, True):
        unit = weight * (x - x.mean(-1, keepdim=True) if is_centred else x)
        square = (unit * unit).sum(-1, keepdim=True)
        if not bool((square > 0).all()):
            continue
        size = ((y - bias) * unit).sum(-1, keepdim=True) / square
        if within(size * unit + bias, y, FROZEN_NORM, largest(y), states.dtype):
            missing = float((size * unit + bias - y).abs().max())
            found.append((missing, FrozenNorm(size * weight, bias, is_centred)))
    return min(found, key=lambda item: item[0])[1] if found else None


def is_affine(function: Callable[[Tensor], Tensor], rows: Tensor) -> bool:
    """Whether a function of rows `[n, d]` gives for a sum the sum of what it gives, but for a constant.

    Each number is cut into two shares of unlike size and sign: what acts on numbers one by one, as an
    activation does, is seen too.
    """
    shares = torch.full_like(rows, 1.7)
    shares[:, 1::2] = -0.4
    first, second, zero, whole = (
        function(each).cpu().double() for each in (shares * rows, rows - shares * rows, rows * 0, rows)
    )
    size = largest(first) + largest(second)
    return within(first + second - zero, whole, PROJECTION, size, rows.dtype)
