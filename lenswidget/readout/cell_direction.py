"""What one cell's logit reads: a direction of the stream, once the norms are held at the cell's own scale."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from lenswidget.anatomy.frozen import FrozenNorm, freeze, is_affine
from lenswidget.errors import AnatomyError, UnknownLensError
from lenswidget.interventions.directions import pulled_back
from lenswidget.lenses.lens import Lens, LogitLens, carry
from lenswidget.models.product import full_float32
from lenswidget.readout.run import EMBED_SITE, Run
from lenswidget.readout.unembed import HALVES

# Rows that go through the tail together.
_ROWS = 256


class CellDirection:
    """The logit of a token, or of one less another, at one cell, as an affine function of the cell's state.

    Exact for the state itself: norms are divided by what they divide that state by. All in float64 on the
    CPU, after the model's own modules have run in float32.

    Args:
        run, layer, position: the cell, of the residual stream.
        ids: the token, and the foil if there is one.
    Attributes:
        states: `[d_model]` float64, the cell's.
        direction: `[d_model]` float64: what a change of the state counts, in logits.
        constants: by name, what does not depend on the state, in logits.
        before_cap: the cell's own number, as readouts compute it, before a soft-cap.
        logit: the same after it.
        cap: of the logits, or None.
    Raises:
        AnatomyError: the way from the stream to the logits is no chain of norms and affine maps.
        UnknownLensError: the lens is not affine.
    """

    def __init__(self, run: Run, layer: int, position: int, lens: Lens, ids: list[int]) -> None:
        self._run, self._layer, self._lens = run, layer, lens
        tail = run.tail
        if not tail.is_fast or tail.post_ops is None:
            raise AnatomyError(
                f"Asked to take a logit of {run.model.name} apart, but what comes between its last block and "
                f"its logits is known to its own forward alone ({tail.how}). Use edits to see what parts do."
            )
        self._post = tail.post_ops
        self.cap = self._post.cap
        self._rows, self._bias = _unembed_rows(run, ids)
        with run.held(), full_float32(run.unembed.device):
            own = run.states(EMBED_SITE, [layer], [position])
            self._own = own
            self.states = own[0].cpu().double()
            self._check_affine(own)
            self._freeze(own)
            self.before_cap, self.logit = (float(each[0]) for each in self._decoded(own))

    def measured(self, removed: Tensor) -> Tensor:
        """What the cell's logit loses where each of `[n, d_model]` is taken out of its state, `[n]` float64.

        The states that are left go through the lens and the tail, norms and soft-cap included.
        """
        found: list[Tensor] = []
        with self._run.held(), full_float32(self._run.unembed.device):
            for some in removed.split(_ROWS):
                left = (self.states - some).to(self._own)
                found.append(self.logit - self._decoded(left)[1])
        return torch.cat(found) if found else torch.zeros(0, dtype=torch.float64)

    def _decoded(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """The number of each row before a soft-cap and after it, `[n]` float64."""
        prepared = self._run.unembed.prepare(self._carried(states)).cpu().double()
        each = (prepared @ self._rows.T + self._bias) * self._post.scale
        capped = each if self.cap is None else self.cap * torch.tanh(each / self.cap)
        return _less_foil(each), _less_foil(capped)

    def _carried(self, states: Tensor) -> Tensor:
        return states if isinstance(self._lens, LogitLens) else carry(self._lens, self._layer, states)

    def _check_affine(self, own: Tensor) -> None:
        if isinstance(self._lens, LogitLens):
            return
        if not is_affine(self._carried, own.float()):
            raise UnknownLensError(
                f"Asked to take a logit apart through the lens {self._lens.name!r}, which is not affine at "
                f"layer {self._layer}. Use the logit lens, a tuned lens or a Jacobian lens."
            )

    def _freeze(self, own: Tensor) -> None:
        """The direction and the constants, from the unembed back to the stream."""
        carried = self._carried(torch.cat([own, torch.zeros_like(own)]))
        steps = self._steps(carried[:1])
        weight = _less_foil(self._rows.T)[None] * self._post.scale
        self.constants = {"unembed bias": float(_less_foil(self._bias[None])[0]) * self._post.scale}
        norm_bias = 0.0
        for linear, bias, width in reversed(steps):
            norm_bias += float(weight[0] @ bias)
            weight = _transposed(linear, weight, width)
        self.constants["final norm bias"] = norm_bias
        self.direction = weight[0]
        if not isinstance(self._lens, LogitLens):
            self.constants["lens bias"] = float(weight[0] @ carried[1].cpu().double())
            on_device = weight.float().to(carried.device)
            self.direction = pulled_back(self._lens, self._layer, on_device)[0].cpu().double()
        self.constants = {name: value for name, value in self.constants.items() if value != 0}

    def _steps(self, state: Tensor) -> list[tuple[Callable[[Tensor], Tensor], Tensor, int]]:
        """The tail's steps, held at a state `[1, d_model]`: linear maps, their biases and widths."""
        found: list[tuple[Callable[[Tensor], Tensor], Tensor, int]] = []
        tail = self._run.tail
        is_half = state.dtype in HALVES
        x = state.float() if is_half else state
        for step in tail.anatomy.tail_steps or ():
            x = x * step.scale
            if not step.path:
                found.append(
                    (_scaled(step.scale), torch.zeros(x.shape[-1], dtype=torch.float64), x.shape[-1])
                )
                continue
            module = _step_function(tail.hf_model.get_submodule(step.path), step.target, x.dtype)
            frozen = freeze(module, x)
            linear = _of_norm(frozen, step.scale) if frozen is not None else None
            bias = frozen.bias if frozen is not None else module(torch.zeros_like(x))[0].cpu().double()
            if linear is None:
                self._check_step(module, x, step.path)
                linear = _of_map(module, step.scale, x, bias)
            found.append((linear, bias, x.shape[-1]))
            x = module(x)
        return found

    def _check_step(self, module: Callable[[Tensor], Tensor], x: Tensor, path: str) -> None:
        if not is_affine(module, x):
            raise AnatomyError(
                f"Asked to take a logit of {self._run.model.name} apart, but {path} before the unembed is "
                "neither a norm nor an affine map. Use edits to see what parts do."
            )


def _less_foil(numbers: Tensor) -> Tensor:
    """Of `[..., 1 or 2]` the token's, less the foil's where there is one."""
    return numbers[..., 0] if numbers.shape[-1] == 1 else numbers[..., 0] - numbers[..., 1]


def _transposed(linear: Callable[[Tensor], Tensor], weight: Tensor, width: int) -> Tensor:
    """`weight` times the matrix of a linear map of rows of a width, by its gradient."""
    with torch.enable_grad(), torch.inference_mode(False):
        at = torch.zeros(1, width, dtype=torch.float64, requires_grad=True)
        return torch.autograd.grad((linear(at) * weight.clone()).sum(), at)[0].detach()


def _scaled(scale: float) -> Callable[[Tensor], Tensor]:
    return lambda rows: rows * scale


def _of_norm(frozen: FrozenNorm, scale: float) -> Callable[[Tensor], Tensor]:
    return lambda rows: frozen.linear(rows * scale)


def _of_map(
    module: Callable[[Tensor], Tensor], scale: float, like: Tensor, bias: Tensor
) -> Callable[[Tensor], Tensor]:
    return lambda rows: module((rows * scale).to(like)).cpu().double() - bias


def _step_function(module: nn.Module, target: Any, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    """A module of the tail on rows of a dtype, its weights widened to it where they are at hand."""
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    is_own = any("_hf_hook" in part.__dict__ or "forward" in part.__dict__ for part in module.modules())
    if is_own or any(tensor.is_meta for tensor in tensors.values()):
        return lambda rows: target.get(module(rows))
    wide = {
        name: tensor.detach().to(dtype) if tensor.is_floating_point() else tensor
        for name, tensor in tensors.items()
    }
    return lambda rows: target.get(functional_call(module, wide, (rows,)))


def _unembed_rows(run: Run, ids: list[int]) -> tuple[Tensor, Tensor]:
    """The unembed's rows `[ids, d_unembed]` and biases `[ids]`, float64 on the CPU."""
    linear = run.tail.linear()
    if linear is not None:
        rows = linear.weight[ids].detach().cpu().double()
        bias: Any = linear.bias
        biases = torch.zeros(len(ids)) if bias is None else bias[ids].detach()
        return rows, biases.cpu().double()
    unembed = run.tail.hf_model.get_submodule(str(run.tail.anatomy.unembed))
    with run.held(), torch.enable_grad(), torch.inference_mode(False):
        like = run.tail.prepare(torch.zeros(1, run.tail.anatomy.d_model))
        at = torch.zeros_like(like).requires_grad_()
        logits: Tensor = unembed(at)
        rows = torch.stack([torch.autograd.grad(logits[0, i], at, retain_graph=True)[0][0] for i in ids])
    return rows.detach().cpu().double(), logits[0, ids].detach().cpu().double()
