"""Fitting a Jacobian lens: exact rows by one-hot cotangents in batches, summed over texts, resumable."""

import json
import os
import time
import warnings
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lenswidget.errors import CellError, LensMismatchError, PromptError
from lenswidget.fitted import Progress, Provenance, counted, encode, ids_digest, load_pickled
from lenswidget.jacobian import JacobianLens

PASS_BYTES = 512 << 20
MAX_ROWS = 32
CHECKPOINT_EVERY_S = 60.0


@dataclass
class Fit:
    """A fit under way: what is asked, and the running sums."""

    model: Any
    ids: list[Tensor]
    layers: list[int]
    skip_first: int
    rows: int
    provenance: Provenance
    checkpoint: Path | None
    sums: dict[int, Tensor]
    n_done: int = 0
    is_batched: bool = True

    @classmethod
    def prepare(
        cls,
        model: Any,
        texts: Sequence[Any],
        layers: Sequence[int] | None,
        skip_first: int,
        max_tokens: int,
        rows: int | None,
        checkpoint: str | Path | None,
    ) -> "Fit":
        """Everything that can be refused is refused here, before the first forward."""
        anatomy = model.anatomy
        chosen = _chosen(layers, anatomy.n_layers)
        ids = _long_enough(encode(model, texts, max_tokens), skip_first)
        dtype = next(model.hf_model.parameters()).dtype
        if rows is None:
            row_bytes = len(chosen) * max(map(len, ids)) * anatomy.d_model * dtype.itemsize
            rows = max(1, min(MAX_ROWS, anatomy.d_model, PASS_BYTES // row_bytes))
        settings = {
            "layers": chosen,
            "skip_first": skip_first,
            "max_tokens": max_tokens,
            "rows": rows,
            "dtype": str(dtype).removeprefix("torch."),
        }
        fit = cls(
            model=model,
            ids=ids,
            layers=chosen,
            skip_first=skip_first,
            rows=rows,
            provenance=Provenance.of(model, ids, **settings),
            checkpoint=None if checkpoint is None else Path(checkpoint),
            sums={layer: torch.zeros(anatomy.d_model, anatomy.d_model) for layer in chosen},
        )
        if fit.checkpoint is not None and fit.checkpoint.exists():
            fit._resume(load_pickled(fit.checkpoint))
        return fit

    def run(self, progress: Progress) -> JacobianLens:
        """Text by text; an interrupt loses the text that it falls into and no other."""
        kept_at, kept = time.monotonic(), self.n_done
        try:
            for index in counted(len(self.ids), progress, "Jacobian lens", start=self.n_done):
                for layer, matrix in self._one_text(self.ids[index]).items():
                    self.sums[layer] += matrix
                self.n_done = index + 1
                if self.checkpoint is not None and time.monotonic() - kept_at > CHECKPOINT_EVERY_S:
                    self._keep()
                    kept_at, kept = time.monotonic(), self.n_done
        finally:
            if self.checkpoint is not None and self.n_done > kept:
                self._keep()
        means = {layer: total / self.n_done for layer, total in self.sums.items()}
        return JacobianLens(means, self.n_done, self.model.anatomy.n_layers, self.provenance)

    def _one_text(self, ids: Tensor) -> dict[int, Tensor]:
        """`J_l` of one text for every layer, float32 on the CPU."""
        # the final position is neither source nor target, and no earlier one can see it
        with self.model.lock, _frozen(self.model.hf_model):
            sources, target = self._streams(ids[:-1])
            d_model = target.shape[-1]
            found = {layer: torch.empty(d_model, d_model) for layer in self.layers}
            for start in range(0, d_model, self.rows):
                stop = min(start + self.rows, d_model)
                for layer, gradient in zip(
                    self.layers, self._pass(target, sources, start, stop), strict=True
                ):
                    found[layer][start:stop] = gradient.cpu()
        return found

    def _streams(self, ids: Tensor) -> tuple[list[Tensor], Tensor]:
        """The streams after the chosen layers and after the last, joined by one autograd graph."""
        sources: list[Tensor] = []
        with torch.enable_grad(), self.model.trace(ids[None].to(self.model.device)):
            stack = self.model.layers
            for layer in self.layers:
                if not sources:
                    self._root(layer)
                sources.append(stack.embed if layer == -1 else stack[layer].resid_post)
            target = stack[len(stack) - 1].resid_post
        return sources, target

    def _root(self, layer: int) -> None:
        """Let the graph begin at the lowest of the chosen layers; what is below needs none."""
        stack = self.model.layers
        if layer == -1:
            stack.embed = stack.embed.detach().requires_grad_()
        else:
            stack[layer].resid_post = stack[layer].resid_post.detach().requires_grad_()

    def _pass(self, target: Tensor, sources: list[Tensor], start: int, stop: int) -> list[Tensor]:
        """Rows `start .. stop - 1` of each `J_l`, float32: one cotangent per row, 1 at every valid target.

        Causality makes the gradient at a source position the sum over the targets from there on.
        """
        cotangents = target.new_zeros(stop - start, *target.shape)
        for row in range(stop - start):
            cotangents[row, 0, self.skip_first :, start + row] = 1
        gradients = self._gradients(target, sources, cotangents)
        return [g[:, 0, self.skip_first :].float().mean(dim=1) for g in gradients]

    def _gradients(self, target: Tensor, sources: list[Tensor], cotangents: Tensor) -> Sequence[Tensor]:
        """`[rows, 1, seq, d_model]` per source; all rows at once where the model's operations allow it."""
        if self.is_batched:
            try:
                return torch.autograd.grad(
                    target, sources, cotangents, retain_graph=True, is_grads_batched=True
                )
            except RuntimeError as error:
                if isinstance(error, torch.OutOfMemoryError) or "vmap" not in str(error):
                    raise
                self.is_batched = False
        singles = [torch.autograd.grad(target, sources, one, retain_graph=True) for one in cotangents]
        return [torch.stack(parts) for parts in zip(*singles, strict=True)]

    # --- the checkpoint: the reference implementation's keys, and what must agree to go on ---------

    def _agreement(self, n_done: int) -> dict[str, Any]:
        return {
            "unembed": self.provenance.unembed,
            "texts": ids_digest(self.ids[:n_done]),
            **self.provenance.settings,
        }

    def _keep(self) -> None:
        assert self.checkpoint is not None
        payload = {
            "jacobian_sum": self.sums,
            "n_done": self.n_done,
            "next_idx": self.n_done,
            "source_layers": self.layers,
            "target_layer": self.model.anatomy.n_layers - 1,
            "skip_first": self.skip_first,
            "metadata": {"agreement": json.dumps(self._agreement(self.n_done))},
        }
        self.checkpoint.parent.mkdir(parents=True, exist_ok=True)
        partial = self.checkpoint.with_name(self.checkpoint.name + ".partial")
        torch.save(payload, partial)
        os.replace(partial, self.checkpoint)

    def _resume(self, payload: Mapping[str, Any]) -> None:
        try:
            theirs = json.loads(payload["metadata"]["agreement"])
            n_done, sums = int(payload["n_done"]), dict(payload["jacobian_sum"])
        except (KeyError, TypeError, ValueError) as error:
            raise LensMismatchError(
                f"{self.checkpoint} is no checkpoint of a fit that can be resumed; name another file."
            ) from error
        ours = self._agreement(n_done)
        differing = [key for key in ours if theirs.get(key) != ours[key]]
        if differing or n_done > len(self.ids):
            what = (
                ", ".join(f"{key} {theirs.get(key)!r} against {ours[key]!r}" for key in differing)
                or "more texts"
            )
            raise LensMismatchError(
                f"{self.checkpoint} belongs to another fit ({what}); resume with what it was begun with, or "
                "name another file."
            )
        self.sums, self.n_done = sums, n_done


def _chosen(layers: Sequence[int] | None, n_layers: int) -> list[int]:
    chosen = sorted(set(range(n_layers - 1) if layers is None else layers))
    wrong = [layer for layer in chosen if not -1 <= layer <= n_layers - 2]
    if wrong or not chosen:
        raise CellError(
            f"Asked to fit layers {wrong or chosen} of a model of {n_layers} layers; pass some of -1 (the "
            f"embedding) to {n_layers - 2}: the last layer needs no lens."
        )
    return chosen


def _long_enough(ids: list[Tensor], skip_first: int) -> list[Tensor]:
    kept = [text for text in ids if len(text) > skip_first + 1]
    if not kept:
        raise PromptError(
            f"None of the {len(ids)} texts has more than {skip_first + 1} tokens (the first {skip_first} "
            "positions and the final one are left out); pass longer texts, or a smaller skip_first."
        )
    if len(kept) < len(ids):
        warnings.warn(
            f"{len(ids) - len(kept)} of {len(ids)} texts have at most {skip_first + 1} tokens and are "
            "left out.",
            stacklevel=4,
        )
    return kept


@contextmanager
def _frozen(hf_model: torch.nn.Module) -> Generator[None, None, None]:
    """Evaluation mode, and no gradient for any parameter; both are put back."""
    training = [module for module in hf_model.modules() if module.training]
    learning = [parameter for parameter in hf_model.parameters() if parameter.requires_grad]
    hf_model.eval()
    for parameter in learning:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for module in training:
            module.training = True
        for parameter in learning:
            parameter.requires_grad_(True)
