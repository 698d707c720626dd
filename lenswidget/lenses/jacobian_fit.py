"""Fitting a Jacobian lens: exact rows by one-hot cotangents in batches, summed over texts, resumable."""

import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lenswidget.anatomy.protocol import ReadableModel
from lenswidget.checks import integers
from lenswidget.errors import AnatomyError, CellError, LensFileError, LensMismatchError, PromptError
from lenswidget.lenses.fit_texts import Texts, check_settings, encode, frozen, have_bos
from lenswidget.lenses.jacobian_file import from_payload, save_payload
from lenswidget.lenses.lens_file import as_path, load_pickled
from lenswidget.lenses.packed_gradients import packed_gradients
from lenswidget.lenses.provenance import Provenance, ids_digest, model_name, text_digests
from lenswidget.models.hf_model import uncached
from lenswidget.progress import Progress, counted
from lenswidget.tolerances import TEXTS_TOGETHER

PASS_BYTES = 512 << 20
MAX_ROWS = 32
CHECKPOINT_EVERY_S = 60.0


class Graph(NamedTuple):
    """One text's streams, joined by an autograd graph; positions from `first` on are valid."""

    sources: list[Tensor]  # [1, seq, d_model] for each chosen layer
    target: Tensor  # [1, seq, d_model], after the last block
    first: int


@dataclass
class Fit:
    """A fit under way: what is asked, and the running sums."""

    model: ReadableModel
    ids: list[Tensor]
    layers: list[int]
    skip_first: int
    rows: int
    provenance: Provenance
    checkpoint: Path | None
    sums: dict[int, Tensor]
    n_done: int = 0
    is_batched: bool = True  # all rows of a pass at once
    splits: bool = False  # the start of a text is run apart

    @classmethod
    def prepare(
        cls,
        model: ReadableModel,
        texts: Texts,
        layers: Sequence[int] | None,
        skip_first: int,
        max_tokens: int,
        rows: int | None,
        checkpoint: str | Path | None,
        add_bos: bool | None = None,
    ) -> "Fit":
        """Everything that can be refused is refused here, before the first forward."""
        check_settings(1, max_tokens=max_tokens, rows=1 if rows is None else rows)
        check_settings(0, skip_first=skip_first)
        anatomy = model.anatomy
        chosen = _chosen(layers, anatomy.n_layers)
        ids = _long_enough(encode(model, texts, max_tokens, add_bos), skip_first)
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
            "add_bos": have_bos(model, ids),
            "target_layer": anatomy.n_layers - 1,
        }
        fit = cls(
            model=model,
            ids=ids,
            layers=chosen,
            skip_first=skip_first,
            rows=rows,
            provenance=Provenance.of(model, ids, **settings),
            checkpoint=None if checkpoint is None else as_path(checkpoint),
            sums={layer: torch.zeros(anatomy.d_model, anatomy.d_model, device="cpu") for layer in chosen},
        )
        if fit.checkpoint is not None and fit.checkpoint.exists():
            fit._resume(fit.checkpoint)
        return fit

    def run(self, progress: Progress) -> "Fit":
        """Text by text; an interrupt loses the text that it falls into and no other. Returns itself."""
        self._check_causal()
        self.splits = self._can_split()
        n_passes = -(-self.model.anatomy.d_model // self.rows)
        start, total = self.n_done * n_passes, len(self.ids) * n_passes
        passes = counted(total, progress, "Jacobian lens", start)
        kept_at, kept = time.monotonic(), self.n_done
        try:
            for index in range(self.n_done, len(self.ids)):
                for layer, matrix in self._one_text(self.ids[index], passes).items():
                    self.sums[layer] += matrix
                self.n_done = index + 1
                if self.checkpoint is not None and time.monotonic() - kept_at > CHECKPOINT_EVERY_S:
                    self._keep()
                    kept_at, kept = time.monotonic(), self.n_done
        finally:
            if self.checkpoint is not None and self.n_done > kept:
                self._keep()
        next(passes, None)  # lets a progress bar reach its end
        return self

    @property
    def means(self) -> dict[int, Tensor]:
        """`J_l` `[d_model, d_model]` by layer, the mean over the texts done so far."""
        return {layer: total / self.n_done for layer, total in self.sums.items()}

    def _one_text(self, ids: Tensor, passes: Iterator[int]) -> dict[int, Tensor]:
        """`J_l` of one text for every layer, float32 on the CPU."""
        with self.model.lock, frozen(self.model.hf_model), packed_gradients(self.model.hf_model):
            graph = self._graph(ids, self.splits)
            d_model = graph.target.shape[-1]
            found = {layer: torch.empty(d_model, d_model, device="cpu") for layer in self.layers}
            for start in range(0, d_model, self.rows):
                next(passes)
                stop = min(start + self.rows, d_model)
                for layer, part in zip(self.layers, self._pass(graph, start, stop), strict=True):
                    found[layer][start:stop] = part.cpu()
        return found

    def _graph(self, ids: Tensor, splits: bool) -> Graph:
        """Run one text, the lowest of the chosen layers being where its autograd graph begins.

        Args:
            splits: run the positions that are left out at the start by themselves, and hand them on as a
                cache. No gradient is wanted there, and this way none is computed.
        """
        # the final position is neither source nor target, and no earlier one can see it
        prompt, first = ids[None, :-1].to(self.model.device), self.skip_first
        given: dict[str, Any] = uncached(self.model.hf_model)
        if splits:
            with torch.no_grad():
                begun = self.model.hf_model(prompt[:, :first], use_cache=True)
            mask = torch.ones_like(prompt)
            given = {"use_cache": True, "past_key_values": begun.past_key_values, "attention_mask": mask}
            prompt, first = prompt[:, first:], 0
        sources: list[Tensor] = []
        with torch.enable_grad(), self.model.trace(prompt, **given):
            stack = self.model.layers
            for layer in self.layers:
                stream = stack.embed if layer == -1 else stack[layer].resid_post
                sources.append(stream if sources else self._root(layer, stream))
            target = stack[len(stack) - 1].resid_post
        return Graph(sources, target, first)

    def _root(self, layer: int, stream: Tensor) -> Tensor:
        """The stream as the leaf of a new graph, and the run going on from it."""
        root = stream.detach().requires_grad_()
        if layer == -1:
            self.model.layers.embed = root
        else:
            self.model.layers[layer].resid_post = root
        return root

    def _check_causal(self) -> None:
        """Refuses a model whose earlier positions see later ones: there the sums mean something else."""
        ids = self.ids[0][None].to(self.model.device)
        with self.model.lock, frozen(self.model.hf_model), torch.no_grad():
            last = self.model.anatomy.n_layers - 1
            with self.model.trace(ids, **uncached(self.model.hf_model)):
                seen = self.model.layers[last].resid_post
            with self.model.trace(ids[:, :-1], **uncached(self.model.hf_model)):
                unseen = self.model.layers[last].resid_post
        if not _near(seen[:, :-1], unseen, unseen.dtype):
            raise AnatomyError(
                f"{model_name(self.model)} is not causal: a later token changes what earlier positions "
                "hold, and a Jacobian lens is defined for causal models only. Read it through the logit lens."
            )

    def _can_split(self) -> bool:
        """Whether the first text, its start run as a cache, gives the same states and first rows of `J_l`."""
        if self.skip_first == 0:
            return False
        with self.model.lock, frozen(self.model.hf_model):
            whole = self._graph(self.ids[0], False)
            try:
                split = self._graph(self.ids[0], True)
                rows = self._pass(split, 0, 1)
            except Exception:  # no cache, or one that cannot be gone on from, whatever that raises
                return False
            pairs = [(whole.target[:, whole.first :], split.target)]
            pairs += zip(self._pass(whole, 0, 1), rows, strict=True)
        return all(_near(one, other, split.target.dtype) for one, other in pairs)

    def _pass(self, graph: Graph, start: int, stop: int) -> list[Tensor]:
        """Rows `start .. stop - 1` of each `J_l`, float32: one cotangent per row, 1 at every valid target.

        Causality makes the gradient at a source position the sum over the targets from there on.
        """
        cotangents = graph.target.new_zeros(stop - start, *graph.target.shape)
        for row in range(stop - start):
            cotangents[row, 0, graph.first :, start + row] = 1
        gradients = self._gradients(graph, cotangents)
        return [gradient[:, 0, graph.first :].float().mean(dim=1) for gradient in gradients]

    def _gradients(self, graph: Graph, cotangents: Tensor) -> Sequence[Tensor]:
        """`[rows, 1, seq, d_model]` per source; all rows at once where the model's operations allow it."""
        target, sources = graph.target, graph.sources
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

    def _so_far(self, n_done: int) -> Provenance:
        ids = self.ids[:n_done]
        return replace(
            self.provenance,
            texts=ids_digest(ids),
            n_texts=n_done,
            n_tokens=sum(map(len, ids)),
            text_digests=text_digests(ids),
        )

    def _keep(self) -> None:
        """Write the checkpoint: the reference implementation's keys, and where the sums come from."""
        assert self.checkpoint is not None
        payload = {
            "jacobian_sum": self.sums,
            "n_done": self.n_done,
            "next_idx": self.n_done,
            "source_layers": self.layers,
            "target_layer": self.model.anatomy.n_layers - 1,
            "skip_first": self.skip_first,
        }
        save_payload(self.checkpoint, payload, self._so_far(self.n_done))

    def _resume(self, checkpoint: Path) -> None:
        """Go on from a checkpoint of this fit.

        Raises:
            LensFileError: it cannot be read.
            LensMismatchError: it is of another fit, or of none.
        """
        payload = load_pickled(checkpoint)
        try:
            found = from_payload(checkpoint, payload)
        except LensFileError as error:
            raise LensMismatchError(f"{error} Name another file for the checkpoint.") from error
        if found.sums is None or not found.provenance.texts:
            raise LensMismatchError(
                f"{checkpoint} is no checkpoint of a fit that can be resumed; name another file."
            )
        n_done = found.n_prompts
        was, now = (
            {"unembed": one.unembed, "texts": one.texts, **one.settings}
            for one in (found.provenance, self._so_far(n_done))
        )
        # the texts' digest says the same of checkpoints that were written before this was
        known = [key for key in now if key in was or key != "add_bos"]
        differing = [key for key in known if was.get(key) != now[key]]
        if differing or n_done > len(self.ids):
            what = (
                ", ".join(f"{key} {was.get(key)!r:.40} against {now[key]!r:.40}" for key in differing)
                or "more texts"
            )
            raise LensMismatchError(
                f"{checkpoint} belongs to another fit ({what}); resume with what it was begun with, or "
                "name another file."
            )
        self.sums, self.n_done = found.sums, n_done


def _near(one: Tensor, other: Tensor, dtype: torch.dtype) -> bool:
    """Equal but for the rounding of a deep model in this dtype."""
    return one.shape == other.shape and bool((one - other).norm() <= TEXTS_TOGETHER.bound(one.norm(), dtype))


def _chosen(layers: Sequence[int] | None, n_layers: int) -> list[int]:
    chosen = sorted(
        set(range(n_layers - 1) if layers is None else integers("layers to fit", layers).tolist())
    )
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
