"""Heads and neurons: what a part's last projection takes, cut into pieces whose shares sum to the part."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from lenswidget.anatomy.decomposition import HookPoint
from lenswidget.anatomy.frozen import FrozenNorm, freeze

UNITS = ("heads", "neurons")


@dataclass(frozen=True)
class Units:
    """Where the outputs of a part's units lie: side by side in what its last projection takes.

    The part adds `after * norm(before * projection(input))`, where there is a norm; else
    `after * before * projection(input)`.

    Attributes:
        point: the projection's input, `[batch, seq, n * d]`.
        n: how many units: heads, or neurons.
        d: how many numbers each gives: `d_head`, or 1.
        norm: path of the norm behind the projection, in the block; None where there is none.
        is_gated: whether something is multiplied in between the attention and its projection.
    """

    point: HookPoint
    n: int
    d: int
    before: float
    after: float
    norm: str | None = None
    is_gated: bool = False

    def slice(self, unit: int) -> slice:
        """Where a unit lies in the projection's input."""
        return slice(unit * self.d, (unit + 1) * self.d)

    def split(self, block: nn.Module, inputs: Tensor) -> "UnitSplit":
        """What the part adds at one row, as a function of what the projection takes, `[n * d]`."""
        return UnitSplit.of(self, block, inputs)

    def __str__(self) -> str:
        held = f", {self.norm} held at its scale" if self.norm else ""
        gated = ", gated" if self.is_gated else ""
        width = f" of {self.d}" if self.d > 1 else ""
        return f"{self.n}{width} in {self.point}{gated}{held}"


@dataclass(frozen=True, eq=False)
class UnitSplit:
    """A part at one row: affine in what its projection takes, a norm behind it held at its scale.

    Attributes:
        inputs: `[n * d]`, what the projection takes there.
        constant: `[d_model]` float64, what the part adds where its units give 0: biases.
    """

    units: Units
    inputs: Tensor
    constant: Tensor
    _projection: Callable[[Tensor], Tensor]
    _frozen: FrozenNorm | None
    _zero: Tensor

    @classmethod
    def of(cls, units: Units, block: nn.Module, inputs: Tensor) -> "UnitSplit":
        """See `Units.split`."""
        project = rows_through(block.get_submodule(units.point.path))
        zero, given = project(torch.stack([torch.zeros_like(inputs), inputs])).cpu().double()
        frozen = None
        if units.norm is not None:
            norm = rows_through(block.get_submodule(units.norm))
            frozen = freeze(norm, (units.before * given)[None].to(inputs.dtype))
            assert frozen is not None, "it was frozen when the units were found"
        constant = units.before * zero
        if frozen is not None:
            constant = frozen.linear(constant[None])[0] + frozen.bias
        return cls(units, inputs, units.after * constant, project, frozen, zero)

    def added(self, unit_ids: Sequence[int]) -> Tensor:
        """What some units add, `[units, d_model]` float64."""
        width = self.units.n * self.units.d
        masked = torch.zeros(len(unit_ids), width, dtype=self.inputs.dtype, device=self.inputs.device)
        for row, unit in enumerate(unit_ids):
            at = self.units.slice(unit)
            masked[row, at] = self.inputs[at]
        return self.carry(masked)

    def carry(self, inputs: Tensor) -> Tensor:
        """What the part adds for `[rows, n * d]` of the projection's input, `[rows, d_model]` float64."""
        given = self.units.before * (self._projection(inputs).cpu().double() - self._zero)
        if self._frozen is not None:
            given = self._frozen.linear(given)
        return self.units.after * given

    def weights(self, direction: Tensor) -> Tensor:
        """How much each number of the projection's input counts along a direction `[d_model]`, `[n * d]`."""
        with torch.enable_grad(), torch.inference_mode(False):
            at = torch.zeros_like(self.inputs).clone().requires_grad_()
            along = self.carry(at[None])[0] @ direction.cpu().double().clone()
            return torch.autograd.grad(along, at)[0].detach().cpu().double()


@dataclass(frozen=True)
class BlockUnits:
    """The units of one block that verified, and why the others did not."""

    heads: Units | None = None
    neurons: Units | None = None
    refused: Mapping[str, str] = field(default_factory=dict[str, str])

    def get(self, kind: str) -> Units | None:
        """Of "heads" or "neurons"."""
        return self.heads if kind == "heads" else self.neurons


def rows_through(module: nn.Module) -> Callable[[Tensor], Tensor]:
    """A module called on rows `[n, width]`, as one prompt of `n` tokens."""
    return lambda rows: module(rows[None])[0]
