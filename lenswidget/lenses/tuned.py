"""The tuned lens: an affine map per layer, fitted so that a mid-layer is read as the last layer is."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lenswidget.anatomy.protocol import ReadableModel
from lenswidget.anatomy.tail import Tail
from lenswidget.errors import LensMismatchError
from lenswidget.lenses.compact import unpack
from lenswidget.lenses.fit_texts import Texts, fitting
from lenswidget.lenses.lens_file import DAMAGE, as_path, as_stored, damaged, located, read, report_in, write
from lenswidget.lenses.lens_report import remembered_model
from lenswidget.lenses.provenance import (
    UNKNOWN,
    Provenance,
    check_model,
    check_states,
    unembed_columns,
    unembed_width,
)
from lenswidget.lenses.report import Measured, keeping
from lenswidget.lenses.tuned_file import check_maps, load_folder, save_folder
from lenswidget.lenses.tuned_fit import fit
from lenswidget.progress import Progress


@dataclass(frozen=True, eq=False, repr=False)
class TunedLens(Measured):
    """`h + A_l h + b_l`, then the tail. The last layer is read as it is.

    Attributes:
        weight: `A_l` for layers -1 (the embedding) to `n_layers - 2`, in that order, float32.
        bias: `b_l`, likewise.
        published_hash: what the tuned-lens package calls the unembed's hash; None if it was not kept.

    Source: Belrose et al. 2023, "Eliciting Latent Predictions from Transformers with the Tuned Lens".
    """

    weight: Float[Tensor, "n_layers d_model d_model"]
    bias: Float[Tensor, "n_layers d_model"]
    provenance: Provenance = UNKNOWN
    published_hash: str | None = None
    name: str = "tuned"

    def __repr__(self) -> str:
        return f"TunedLens({self.n_layers} layers, d_model={self.d_model}, {self.provenance.told})"

    @property
    def n_layers(self) -> int:
        """Of the model."""
        return len(self.weight)

    @property
    def d_model(self) -> int:
        """Width of the stream."""
        return self.weight.shape[-1]

    @property
    def layers(self) -> range:
        """Every layer from the embedding row, -1, to the last."""
        return range(-1, self.n_layers)

    def transport(self, layer: int, states: Float[Tensor, "cells d_model"]) -> Float[Tensor, "cells d_model"]:
        """`states + A_l states + b_l` in float32; the last layer's states unchanged but for the dtype.

        Raises:
            LensMismatchError: states of another width, or a layer that the model does not have.
        """
        check_states(self, states, layer)
        states = states.float()
        if layer == self.n_layers - 1:
            return states
        weight, bias = (t[layer + 1].to(states.device) for t in (self.weight, self.bias))
        return states + torch.addmm(bias, states, weight.T)

    def to(self, device: str | torch.device) -> "TunedLens":
        """The same lens with its matrices on a device, so that a read does not copy them there."""
        moved = (self.weight.to(device), self.bias.to(device))
        lens = TunedLens(*moved, self.provenance, self.published_hash, self.name)
        return keeping(lens, self.measured, remembered_model(self))

    def check(self, model: ReadableModel | Tail) -> None:
        """Refuses a `LanguageModel` that this lens was not fitted to.

        Raises:
            LensMismatchError: width, number of layers or unembed differ.
        """
        check_model(self, model)
        hashes = published_hashes(model) if self.published_hash and not self.provenance.unembed else []
        if hashes and self.published_hash not in hashes:
            raise LensMismatchError(
                f"This tuned lens was fitted to {self.provenance.model} with another unembed: its hash is "
                f"{str(self.published_hash)[:12]}..., this model's {hashes[0][:12]}.... "
                "Load the model that it was fitted to, or fit a lens to this one."
            )

    @classmethod
    def fit(
        cls,
        model: ReadableModel,
        texts: Texts,
        *,
        max_tokens: int = 128,
        n_steps: int = 60,
        cells_per_step: int = 64,
        seed: int = 0,
        add_bos: bool | None = None,
        progress: Progress = True,
    ) -> "TunedLens":
        """A lens for this model from a few hundred texts; the same texts and seed give the same lens.

        One pass of least squares from each layer to the last does most of it; then Adam goes down the
        paper's objective, the KL divergence from the last layer's distribution to the lens's.

        Args:
            model: the `LanguageModel`; put back as it was.
            texts: strings, or token ids; more tokens than `d_model` times ten make a good start.
            max_tokens: texts are cut to this length.
            n_steps: of Adam; 0 leaves the least squares. Most of the time goes here: each step costs about
                three head products of `cells_per_step` rows for every layer.
            cells_per_step: positions per step, drawn from a few texts.
            seed: of those draws.
            add_bos: whether strings get the tokenizer's BOS token in front; None for what the tokenizer does.
                Token ids are taken as they are.
            progress: True for a tqdm bar, a function `(done, total)` of texts and steps, or False.
        Raises:
            LensError: a number below 1; `n_steps` may be 0.
            PromptError: no texts, or no tokens in them.
            FidelityError: the model's tail passes no gradient back; the message names the remedy.
        """
        with fitting(model):
            found = fit(model, texts, max_tokens, n_steps, cells_per_step, seed, add_bos, progress)
            return keeping(cls(*found, next(iter(published_hashes(model)), None)), None, model)

    @classmethod
    def load(cls, path: str | Path, model: ReadableModel | None = None) -> "TunedLens":
        """From a file that `save` wrote, or a folder as the tuned-lens package publishes it.

        Args:
            path: a `.safetensors` file, or a folder with `config.json` and `params.pt` (read with
                `weights_only=True`: nothing in it is run), or either of these two files.
            model: the `LanguageModel` to read with; given, a lens of another model is refused now.
        Raises:
            LensFileError: missing, or not a tuned lens.
            LensMismatchError: fitted to another model.
        """
        path, measured = located(path), None
        if path.is_dir():
            config, weight, bias = load_folder(path)
            provenance = Provenance(model=str(config.get("base_model_name_or_path", "")), settings=config)
            kept = config.get("unembed_hash")
        else:
            tensors, provenance, own = read(path, "tuned")
            try:
                found = unpack(tensors)
                weight, bias = check_maps(found["weight"], found["bias"])
                kept = own["published_hash"]
                measured = report_in(own)
            except DAMAGE as error:
                raise damaged(path, error) from error
        lens = cls(weight, bias, provenance, None if kept is None else str(kept))
        if model is not None:
            lens.check(model)
        return keeping(lens, measured, model)

    def save(self, path: str | Path, dtype: torch.dtype = torch.float32) -> None:
        """Keep the lens and where it comes from in one `.safetensors` file, exactly in float32.

        Args:
            dtype: of the stored matrices. torch.int8 takes a quarter of float32's bytes: see
                `lenswidget.lenses.compact`.
        Raises:
            LensFileError: another ending, or it cannot be written; a file that was there is as it was.
        """
        path = as_path(path)
        tensors = {**as_stored(path, {"weight": self.weight}, dtype), "bias": self.bias}
        write(path, "tuned", tensors, self.provenance, self.measured, published_hash=self.published_hash)

    def publish(self, folder: str | Path) -> None:
        """Write `config.json` and `params.pt` as the tuned-lens package reads them, and their digests.

        Raises:
            LensFileError: they cannot be written; files that were there are as they were.
        """
        config = {
            "base_model_name_or_path": self.provenance.model,
            "d_model": self.d_model,
            "num_hidden_layers": self.n_layers,
            "bias": True,
            "base_model_revision": None,
            "unembed_hash": self.published_hash,
            "lens_type": "linear_tuned_lens",
        }
        save_folder(as_path(folder), config, self.weight.detach(), self.bias.detach())


def published_hashes(model: ReadableModel | Tail) -> list[str]:
    """What the tuned-lens package would call the unembed's hash, were the model in float32, bf16 or fp16.

    The package hashes numpy's print of the float32 matrix at one digit, which shows its four corners of
    3 x 3 only (or all of it, up to 1,000 elements); rounding to another dtype can change a digit.
    """
    if model.anatomy.unembed is None:
        return []
    width, edges = unembed_width(model), [0, 1, 2, -3, -2, -1]
    found = unembed_columns(model, edges)
    d_vocab = len(found)
    is_whole = d_vocab * width <= 1000
    columns, rows = (range(width), range(d_vocab)) if is_whole else (edges, edges)
    corners = (unembed_columns(model, columns) if is_whole else found)[list(rows)]
    # zeros cost no memory until touched, so a matrix of gigabytes is only its corners here
    matrix = np.zeros((d_vocab, width), dtype=np.float32)
    hashes: list[str] = []
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        matrix[np.ix_(rows, columns)] = corners.to(dtype).float().numpy()
        with np.printoptions(threshold=1000, edgeitems=3, linewidth=75, suppress=False, floatmode="maxprec"):
            hashes.append(hashlib.sha256(np.array_str(matrix, precision=1).encode()).hexdigest())
    return hashes
