"""Fitting a tuned lens: least squares in one pass over the texts, then some steps down the KL divergence."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from lenswidget.anatomy.protocol import ReadableModel
from lenswidget.errors import FidelityError, PromptError
from lenswidget.lenses.fit_texts import Texts, check_settings, encode, frozen, have_bos, streams
from lenswidget.lenses.provenance import Provenance, model_name
from lenswidget.progress import Progress, counted

TEXTS_PER_STEP = 4
RIDGE = 1e-3
# of the size of the map: Adam steps alike whatever the gradient, and late maps are small
LEARNING_RATE = 4e-3


@dataclass
class Moments:
    """Weighted sums over cells of one layer, about a shift near the mean so that nothing cancels.

    `x` is the layer's state, `r` what it lacks to the last one.
    """

    shift_x: Tensor
    shift_r: Tensor
    xx: Tensor
    xr: Tensor
    x: Tensor
    r: Tensor

    @classmethod
    def about(cls, states: Tensor, lacking: Tensor) -> "Moments":
        """Empty sums about the means of these cells, `[cells, d_model]`."""
        d_model = states.shape[-1]
        square, row = states.new_zeros(d_model, d_model), states.new_zeros(d_model)
        return cls(states.mean(0), lacking.mean(0), square, square.clone(), row, row.clone())

    def add(self, states: Tensor, lacking: Tensor, weights: Tensor) -> None:
        """Take in cells `[cells, d_model]` with weights `[cells, 1]`."""
        x, r = states - self.shift_x, lacking - self.shift_r
        self.xx += (x * weights).T @ x
        self.xr += (x * weights).T @ r
        self.x += (x * weights).sum(0)
        self.r += (r * weights).sum(0)

    def solve(self, weight: float, ridge: float) -> tuple[Tensor, Tensor]:
        """`A` and `b` of the least `|A x + b - r|^2 + ridge |A|^2`, `weight` being the sum of the weights."""
        x, r = (self.x / weight).double().cpu(), (self.r / weight).double().cpu()
        covariance = self.xx.double().cpu() / weight - torch.outer(x, x)
        crossed = self.xr.double().cpu() / weight - torch.outer(x, r)
        covariance.diagonal().add_(ridge * float(covariance.diagonal().mean()) + 1e-30)
        matrix = torch.linalg.solve(covariance, crossed).T
        bias = self.shift_r.double().cpu() + r - matrix @ (self.shift_x.double().cpu() + x)
        return matrix.float(), bias.float()


def fit(
    model: ReadableModel,
    texts: Texts,
    max_tokens: int,
    n_steps: int,
    cells_per_step: int,
    seed: int,
    add_bos: bool | None,
    progress: Progress,
) -> tuple[Tensor, Tensor, Provenance]:
    """Weights `[n_layers, d_model, d_model]`, biases `[n_layers, d_model]` and where they come from.

    The arguments are those of `TunedLens.fit`.
    """
    check_settings(1, max_tokens=max_tokens, cells_per_step=cells_per_step)
    check_settings(0, n_steps=n_steps, seed=seed)
    ids = [text for text in encode(model, texts, max_tokens, add_bos) if len(text)]
    if sum(map(len, ids)) < 2:
        raise PromptError("The texts to fit a tuned lens on hold fewer than two tokens; pass longer texts.")
    settings = {
        "max_tokens": max_tokens,
        "n_steps": n_steps,
        "cells_per_step": cells_per_step,
        "seed": seed,
        "dtype": str(next(model.hf_model.parameters()).dtype).removeprefix("torch."),
        "add_bos": have_bos(model, ids),
    }
    provenance = Provenance.of(model, ids, **settings)
    done = counted(len(ids) + n_steps, progress, "Tuned lens")
    weight, bias = _least_squares(model, ids, done)
    if n_steps:
        descent = _Descent(model, ids, weight, bias, seed)
        for step in range(n_steps):
            next(done)
            descent.step(cells_per_step, 1 - step / n_steps)
        weight = torch.stack([a.detach().cpu() for a, _ in descent.maps])
        bias = torch.stack([b.detach().cpu() for _, b in descent.maps])
    next(done, None)  # lets a progress bar reach its end
    return weight, bias, provenance


def _least_squares(model: ReadableModel, ids: list[Tensor], done: Iterator[int]) -> tuple[Tensor, Tensor]:
    """Maps that bring each layer's state nearest to the last, each cell in units of its last state's norm."""
    moments: list[Moments] = []
    total = 0.0
    for text in ids:
        next(done)
        with model.lock, frozen(model.hf_model):
            *states, last = streams(model, text)
        # the final norm divides by it, and a few huge states (attention sinks) would drown all others
        weights = 1 / last.square().mean(-1, keepdim=True).clamp_min(1e-12)
        total += float(weights.sum())
        home = [last.to(state.device) for state in states]
        moments = moments or [Moments.about(x, y - x) for x, y in zip(states, home, strict=True)]
        for moment, x, y in zip(moments, states, home, strict=True):
            moment.add(x, y - x, weights.to(x.device))
    n_cells = sum(map(len, ids))
    ridge = RIDGE * (1 + 10 * moments[0].x.shape[0] / n_cells)
    solved = [moment.solve(total, ridge) for moment in moments]
    return torch.stack([matrix for matrix, _ in solved]), torch.stack([bias for _, bias in solved])


class _Descent:
    """Adam down KL(last layer || lens), a few cells of a few texts per step, all layers side by side."""

    def __init__(
        self, model: ReadableModel, ids: list[Tensor], weight: Tensor, bias: Tensor, seed: int
    ) -> None:
        self.model, self.ids = model, ids
        self.maps = [
            (a.to(model.device).requires_grad_(), b.to(model.device).requires_grad_())
            for a, b in zip(weight, bias, strict=True)
        ]
        self.rates = [LEARNING_RATE * float(a.square().mean().sqrt()) for a in weight]
        groups = [{"params": pair, "lr": rate} for pair, rate in zip(self.maps, self.rates, strict=True)]
        self.optimizer = torch.optim.Adam(groups, betas=(0.9, 0.99))
        self.generator = torch.Generator("cpu").manual_seed(seed)
        self.order: list[int] = []

    def step(self, n_cells: int, rate: float) -> None:
        """One step on about `n_cells` cells, at `rate` times the learning rates."""
        for group, full in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = full * rate
        with self.model.lock, frozen(self.model.hf_model), torch.enable_grad():
            *layers, last = self._cells(n_cells)
            with torch.no_grad():
                expected = self.model.tail(last).log_softmax(-1)
            for (weight, bias), states in zip(self.maps, layers, strict=True):
                states = states.to(weight.device)
                logits = self.model.tail(states + torch.addmm(bias, states, weight.T))
                if not logits.requires_grad:
                    raise FidelityError(
                        f"The tail of {model_name(self.model)} passes no gradient back, so a tuned lens "
                        "can only be fitted to it by least squares: pass n_steps=0."
                    )
                found = logits.log_softmax(-1)
                target = expected.to(found.device)
                (target.exp() * (target - found)).sum(-1).mean().backward()
                torch.nn.utils.clip_grad_norm_((weight, bias), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def _cells(self, n_cells: int) -> list[Tensor]:
        """The same positions of the next few texts on every layer, `[cells, d_model]` each."""
        if len(self.order) < TEXTS_PER_STEP:
            self.order += torch.randperm(len(self.ids), generator=self.generator, device="cpu").tolist()
        chosen, self.order = self.order[:TEXTS_PER_STEP], self.order[TEXTS_PER_STEP:]
        parts: list[list[Tensor]] = []
        for index in chosen:
            positions = torch.randperm(len(self.ids[index]), generator=self.generator, device="cpu")
            kept = positions[: -(-n_cells // len(chosen))]
            found = streams(self.model, self.ids[index])
            parts.append([stream[kept.to(stream.device)] for stream in found])
        return [torch.cat(layer) for layer in zip(*parts, strict=True)]
