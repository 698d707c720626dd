"""The Jacobian lens: a stream is carried to the last block by the average effect that it has there."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lenswidget.errors import LensFileError, LensMismatchError
from lenswidget.lenses.jacobian_fit import Fit
from lenswidget.lenses.lens_file import as_path, load_pickled, read, write
from lenswidget.lenses.provenance import UNKNOWN, Provenance, check_model, check_states
from lenswidget.progress import Progress


@dataclass(frozen=True, eq=False, repr=False)
class JacobianLens:
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
        return replace(self, matrices={layer: matrix.to(device) for layer, matrix in self.matrices.items()})

    def check(self, model: Any) -> None:
        """Refuses a `LanguageModel` that this lens was not fitted to.

        Raises:
            LensMismatchError: width, number of layers or unembed differ.
        """
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
        model: Any,
        texts: Iterable[Any],
        *,
        layers: Sequence[int] | None = None,
        skip_first: int = 16,
        max_tokens: int = 128,
        rows: int | None = None,
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
            checkpoint: a file to resume from if it is there, and kept up to date; the resumed fit equals
                an uninterrupted one bit for bit.
            progress: True for a tqdm bar, a function `(done, total)` of backward passes, or False.
        Raises:
            LensError: a number below 1; `skip_first` may be 0.
            CellError: a layer that the model does not have, or its last.
            PromptError: no text is long enough.
            LensMismatchError: the checkpoint is of another model, other texts or other settings.
        """
        fit = Fit.prepare(model, texts, layers, skip_first, max_tokens, rows, checkpoint).run(progress)
        return cls(fit.means, fit.n_done, model.anatomy.n_layers, fit.provenance)

    @classmethod
    def load(cls, path: str | Path, model: Any = None) -> "JacobianLens":
        """From a file that `save` wrote, a published artifact, or the checkpoint of an interrupted fit.

        Args:
            path: a `.safetensors` file, or a `torch.save`d one (read with `weights_only=True`).
            model: the `LanguageModel` to read with; given, a lens of another model is refused now.
        Raises:
            LensFileError: missing, or not a Jacobian lens.
            LensMismatchError: fitted to another model.
        """
        path = as_path(path)
        if path.suffix == ".safetensors":
            tensors, provenance, own = read(path, "jacobian")
            matrices = {int(name): matrix.float() for name, matrix in tensors.items()}
            lens = cls(matrices, own["n_prompts"], own["n_layers"], provenance)
        else:
            lens = _from_payload(path, load_pickled(path))
        if model is not None:
            lens.check(model)
            lens = replace(lens, n_layers=model.anatomy.n_layers)
        return lens

    def save(self, path: str | Path, dtype: torch.dtype = torch.float32) -> None:
        """Keep the lens and where it comes from in one file.

        Args:
            path: `.safetensors`, or `.pt` for the published artifact format.
            dtype: of the stored matrices; published ones are float16, which rounds them.
        """
        matrices = {layer: matrix.detach().cpu().to(dtype) for layer, matrix in sorted(self.matrices.items())}
        path = as_path(path)
        if path.suffix != ".pt":
            named = {str(layer): matrix for layer, matrix in matrices.items()}
            own = {"n_prompts": self.n_prompts, "n_layers": self.n_layers}
            write(path, "jacobian", named, self.provenance, **own)
            return
        metadata: dict[str, Any] = {"lenswidget": json.dumps(asdict(self.provenance))}
        if self.n_layers is not None:
            metadata["target_layer"] = self.n_layers - 1
        payload = {
            "J": matrices,
            "n_prompts": self.n_prompts,
            "source_layers": list(matrices),
            "d_model": self.d_model,
            "metadata": metadata,
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(payload, path)


def _from_payload(path: Path, payload: Any) -> JacobianLens:
    """A published artifact (`J`), or a fit's checkpoint (`jacobian_sum` over `n_done` texts)."""
    try:
        if "J" in payload:
            n_prompts = int(payload.get("n_prompts", 0))
            matrices = {int(layer): matrix.float() for layer, matrix in payload["J"].items()}
        else:
            n_prompts = int(payload["n_done"])
            sums = payload["jacobian_sum"].items()
            matrices = {int(layer): matrix.float() / n_prompts for layer, matrix in sums}
        d_model = int(payload.get("d_model", next(iter(matrices.values())).shape[-1]))
        if any(matrix.shape != (d_model, d_model) for matrix in matrices.values()):
            raise ValueError(f"its matrices are not all {d_model} x {d_model}")
        metadata = dict(payload.get("metadata") or {})
        own = metadata.pop("lenswidget", None)
        target = metadata.get("target_layer", payload.get("target_layer"))
        n_layers = None if target is None else int(target) + 1
    except (AttributeError, KeyError, TypeError, ValueError, StopIteration, ZeroDivisionError) as error:
        raise LensFileError(
            f"{path} holds no Jacobian lens ({error!r}): expected a dict with "
            "J {layer: [d_model, d_model]}, n_prompts, source_layers and d_model."
        ) from error
    model = str(metadata.get("model_name", ""))
    provenance = Provenance(model=model, n_texts=n_prompts, settings=metadata)
    return JacobianLens(matrices, n_prompts, n_layers, Provenance.from_json(own) if own else provenance)
