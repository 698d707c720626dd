"""The Jacobian lens: a stream is carried to the last block by the average effect that it has there."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lenswidget.anatomy.protocol import ReadableModel, check_is_model
from lenswidget.anatomy.tail import Tail
from lenswidget.errors import LensFileError, LensMismatchError, UnknownLensError
from lenswidget.lenses.compact import unpack
from lenswidget.lenses.fit_texts import Texts, fitting
from lenswidget.lenses.jacobian_file import Parts, check_matrices, from_payload, save_payload
from lenswidget.lenses.jacobian_fit import Fit
from lenswidget.lenses.jacobian_merge import merge
from lenswidget.lenses.lens_file import (
    DAMAGE,
    as_path,
    as_stored,
    damaged,
    load_pickled,
    located,
    read,
    report_in,
    write,
)
from lenswidget.lenses.lens_report import remembered_model
from lenswidget.lenses.provenance import UNKNOWN, Provenance, check_model, check_states
from lenswidget.lenses.report import Measured, keeping
from lenswidget.progress import Progress


@dataclass(frozen=True, eq=False, repr=False)
class JacobianLens(Measured):
    """`J_l h_l`, then the tail: `softmax(W_U norm(J_l h_l))`. The last layer is read as it is.

    Attributes:
        matrices: `J_l` `[d_model, d_model]` by layer, float32. Published lenses have layers 0 to
            `n_layers - 2`; one fitted here may have -1, the embedding, too.
        n_prompts: how many texts they are the mean of.
        n_layers: of the model; None where a published artifact does not say, and then only the layers in
            `matrices` can be read.

    Source: Gurnee et al. 2026, "Verbalizable Representations Form a Global Workspace in Language Models".
    """

    matrices: Mapping[int, Float[Tensor, "d_model d_model"]]
    n_prompts: int
    n_layers: int | None = None
    provenance: Provenance = UNKNOWN
    name: str = "jacobian"

    def __repr__(self) -> str:
        layers = sorted(self.matrices)
        span = (
            f"{len(layers)} layers from {layers[0]} to {layers[-1]}" if layers[1:] else f"layer {layers[0]}"
        )
        return f"JacobianLens({span}, d_model={self.d_model}, {self.provenance.told})"

    @property
    def d_model(self) -> int:
        """Width of the stream."""
        return next(iter(self.matrices.values())).shape[-1]

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers that it can carry: those it has a matrix for, and the last, which needs none."""
        last = () if self.n_layers is None else (self.n_layers - 1,)
        return (*sorted(self.matrices), *last)

    def transport(self, layer: int, states: Float[Tensor, "cells d_model"]) -> Float[Tensor, "cells d_model"]:
        """`J_l states` in float32; the last layer's states unchanged but for the dtype.

        Raises:
            LensMismatchError: states of another width, or a layer without a matrix.
        """
        check_states(self, states, layer)
        if layer not in self.matrices:
            return states.float()
        return states.float() @ self.matrices[layer].to(states.device).T

    def to(self, device: str | torch.device) -> "JacobianLens":
        """The same lens with its matrices on a device, so that a read does not copy them there."""
        moved = replace(self, matrices={layer: matrix.to(device) for layer, matrix in self.matrices.items()})
        return keeping(moved, self.measured, remembered_model(self))

    def check(self, model: ReadableModel | Tail) -> None:
        """Refuses a `LanguageModel` that this lens was not fitted to.

        Raises:
            LensMismatchError: width, number of layers, target layer or unembed differ.
        """
        check_is_model(model, "A lens", or_tail=True)
        n_layers, target = model.anatomy.n_layers, self.provenance.settings.get("target_layer")
        if isinstance(target, int) and self.d_model == model.anatomy.d_model:
            target += n_layers * (target < 0)
            if target != n_layers - 1:
                raise LensMismatchError(
                    f"This {self.name} lens carries states to layer {target}, but the last of the model's "
                    f"{n_layers} layers is {n_layers - 1}, and the tail reads that one only. Load the lens "
                    "of this model, or fit one to its last layer."
                )
        check_model(self, model)
        beyond = [layer for layer in self.matrices if layer >= model.anatomy.n_layers - 1]
        if beyond:
            raise LensMismatchError(
                f"This jacobian lens has matrices for layers {beyond}, but the last of the model's "
                f"{model.anatomy.n_layers} layers needs none; it belongs to a deeper model."
            )

    @classmethod
    def fit(
        cls,
        model: ReadableModel,
        texts: Texts,
        *,
        layers: Sequence[int] | None = None,
        skip_first: int = 16,
        max_tokens: int = 128,
        rows: int | None = None,
        add_bos: bool | None = None,
        checkpoint: str | Path | None = None,
        progress: Progress = True,
    ) -> "JacobianLens":
        """The paper's estimator on the given texts; deterministic.

        `J_l` is the mean, over texts and over source positions t, of the sum over target positions
        `t' >= t` of `d h_last[t'] / d h_l[t]`; both leave out the first positions, which are attention
        sinks, and the final one. About 100 texts of 128 tokens make a usable lens.

        Args:
            model: a causal `LanguageModel`, float32 for the most exact fit; put back as it was.
            texts: strings, or token ids; those too short to hold a position are left out with a warning.
            layers: -1 to `n_layers - 2`; all but -1 unless given.
            skip_first: positions left out at the start of each text.
            max_tokens: texts are cut to this length.
            rows: rows of each `J_l` per backward pass; memory grows with it. Chosen by size unless given.
            add_bos: whether strings get the tokenizer's BOS token in front; None for what the tokenizer does.
                Token ids are taken as they are.
            checkpoint: a file to resume from if it is there, and kept up to date; the resumed fit equals
                an uninterrupted one bit for bit.
            progress: True for a tqdm bar, a function `(done, total)` of backward passes, or False.
        Raises:
            LensError: a number below 1; `skip_first` may be 0.
            CellError: a layer that the model does not have, or its last.
            PromptError: no text is long enough, or `add_bos` asks for a token that is not there.
            LensMismatchError: the checkpoint is of another model, other texts or other settings.
        """
        with fitting(model):
            fit = Fit.prepare(model, texts, layers, skip_first, max_tokens, rows, checkpoint, add_bos)
            fit.run(progress)
            lens = cls(fit.means, fit.n_done, model.anatomy.n_layers, fit.provenance)
            return keeping(lens, None, model)

    @classmethod
    def merge(cls, lenses: Iterable["JacobianLens"]) -> "JacobianLens":
        """One lens from several that were fitted on parts of the texts: their mean by numbers of texts.

        Up to rounding it is the lens of one fit on all the texts, so a fit can be spread over machines.

        Raises:
            LensError: no lenses, or one that does not say how many texts it is the mean of.
            LensMismatchError: their models, layers or settings differ, or a text is in two of them.
            UnknownLensError: something else than a Jacobian lens.
        """
        given: Any = lenses
        listed: list[Any] = list(given) if isinstance(given, Iterable) else [given]
        for lens in listed:
            if not isinstance(lens, JacobianLens) or given is lens:
                raise UnknownLensError(f"Asked to merge {lens!r:.80}; pass a list of Jacobian lenses.")
        found = merge([Parts(one.matrices, one.n_prompts, one.n_layers, one.provenance) for one in listed])
        return cls(found.matrices, found.n_prompts, found.n_layers, found.provenance, listed[0].name)

    @classmethod
    def load(cls, path: str | Path, model: ReadableModel | None = None) -> "JacobianLens":
        """From a file that `save` wrote, a published artifact, or the checkpoint of an interrupted fit.

        Args:
            path: a `.safetensors` file, a `torch.save`d one (read with `weights_only=True`), or a folder that
                holds either as `lens.safetensors` or `lens.pt`.
            model: the `LanguageModel` to read with; given, a lens of another model is refused now.
        Raises:
            LensFileError: missing, or not a Jacobian lens.
            LensMismatchError: fitted to another model.
        """
        path, measured = located(path), None
        if path.suffix == ".safetensors":
            tensors, provenance, own = read(path, "jacobian")
            try:
                matrices = {int(name): matrix for name, matrix in unpack(tensors).items()}
                check_matrices(matrices)
                measured = report_in(own)
                n_prompts, n_layers = int(own["n_prompts"]), own["n_layers"]
                lens = cls(matrices, n_prompts, None if n_layers is None else int(n_layers), provenance)
            except DAMAGE as error:
                raise damaged(path, error) from error
        else:
            found = from_payload(path, load_pickled(path))
            lens = cls(found.matrices, found.n_prompts, found.n_layers, found.provenance)
        if model is not None:
            lens.check(model)
            lens = replace(lens, n_layers=model.anatomy.n_layers)
        return keeping(lens, measured, model)

    def save(self, path: str | Path, dtype: torch.dtype = torch.float32) -> None:
        """Keep the lens and where it comes from in one file.

        Args:
            path: `.safetensors`, or `.pt` for the published artifact format.
            dtype: of the stored matrices; published ones are float16, which rounds them. torch.int8 takes a
                quarter of float32's bytes, in a `.safetensors` file only: see `lenswidget.lenses.compact`.
        Raises:
            LensFileError: it cannot be written; a file that was there is as it was.
        """
        path = as_path(path)
        if path.suffix != ".pt":
            own = {"n_prompts": self.n_prompts, "n_layers": self.n_layers}
            named = {str(layer): matrix for layer, matrix in sorted(self.matrices.items())}
            write(path, "jacobian", as_stored(path, named, dtype), self.provenance, self.measured, **own)
            return
        if not dtype.is_floating_point:
            raise LensFileError(
                f"Asked to save a Jacobian lens as {path.name} in {dtype}, but the published format holds "
                "floats. Give a name that ends in .safetensors."
            )
        matrices = {layer: matrix.detach().cpu().to(dtype) for layer, matrix in sorted(self.matrices.items())}
        provenance = self.provenance
        if self.n_layers is not None:
            settings = {**provenance.settings, "target_layer": self.n_layers - 1}
            provenance = replace(provenance, settings=settings)
        payload = {
            "J": matrices,
            "n_prompts": self.n_prompts,
            "source_layers": list(matrices),
            "d_model": self.d_model,
        }
        save_payload(path, payload, provenance)
