"""What a lens usually says at each layer, and what it says of nothing: values, however they were fitted."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lenswidget.errors import LensError
from lenswidget.lenses.lens import Lens
from lenswidget.models.words import word_mask
from lenswidget.readout.cells import Cells
from lenswidget.readout.run import Run
from lenswidget.readout.shown import SHOWS, Chooser

# What a floor is compared with, for each choice: the array of a readout.
EVIDENCE = {"top": "log_probs", "words": "shown_log_probs", "lift": "shown_lifts"}


@dataclass(frozen=True, eq=False, repr=False)
class Background:
    """What one lens says at each layer of one model over some texts; `lw.fit_background` makes it.

    Attributes:
        model, lens, site: the names of what was read.
        layers: -1 for the embedding; those that the lens carries.
        floors: for each of `top`, `words` and `lift`, `[layers]` float32: what a cell must exceed to say more
            than noise; NaN at the last layer, which has none. Of `top` and `words` a log-prob in nats, of
            `lift` a lift.
        log_probs: `[layers, d_vocab]` float32 on the CPU, the mean log-prob of each token; None where only
            the floors were fitted, and then `floors` has no `lift`.
        n_positions: how many states the means are of.
        texts: sha256 of their token ids.
        digest: sha256 of all of it.
    """

    model: str
    lens: str
    site: str
    layers: tuple[int, ...]
    floors: Mapping[str, Float[Tensor, " layers"]]
    log_probs: Float[Tensor, "layers d_vocab"] | None
    n_positions: int
    texts: str
    digest: str

    def floor(self, layer: int, show: str = "top") -> float:
        """What a cell of a layer must exceed, in nats.

        Raises:
            LensError: a layer or a choice that it has no floor for.
        """
        if layer not in self.layers or show not in self.floors:
            raise LensError(
                f"Asked for the floor of {show!r} at layer {layer}; this background has layers "
                f"{self.layers[0]} to {self.layers[-1]} and floors of {', '.join(self.floors)}."
            )
        return float(self.floors[show][self.layers.index(layer)])

    def is_above(self, readout: Any) -> Any:
        """Which cells of a readout say more than noise, `[n]` bool: those of a layer without a floor do.

        Of a readout that shows words or lift, whether the shown token's number is above its own floor.

        Raises:
            LensError: a readout of another lens or site, or of a layer that has no floor here.
        """
        if (readout.lens, readout.site) != (self.lens, self.site):
            raise LensError(
                f"Asked to hold a readout of {readout.site} through the {readout.lens} lens against "
                f"{self!r}: fit a background of the same."
            )
        show = "lift" if readout.shown_lifts is not None else "top" if readout.shown_ids is None else "words"
        said = getattr(readout, EVIDENCE[show])
        said = said[:, 0] if show == "top" else said
        return ~(said <= np.array([self.floor(layer, show) for layer in readout.layers.tolist()], np.float32))

    def __repr__(self) -> str:
        means = "mean log-probs and floors" if self.log_probs is not None else "floors"
        return (
            f"Background({means} of {self.model} through the {self.lens} lens at {self.site}: "
            f"{len(self.layers)} layers, {self.n_positions} positions, {self.digest[:12]})"
        )


def chooser_of(run: Run, cells: Cells, lens: Lens, site: str, show: Any, background: Any) -> Chooser | None:
    """What chooses the token that stands in a cell; None for the top one.

    Raises:
        LensError: nothing that can be shown, no tokenizer to tell words by, or a background that is missing
            or of something else.
    """
    if show not in SHOWS:
        raise LensError(f"Asked to show {show!r:.40}; choose one of {', '.join(SHOWS)}.")
    if background is not None and not isinstance(background, Background):
        raise LensError(
            f"Asked to read with background={background!r:.60}; pass what lw.fit_background(model, lens) "
            "gives."
        )
    if show == "top":
        return None
    if run.tokenizer is None:
        raise LensError(f"Asked to show {show}, but this model has no tokenizer to tell words by: show top.")
    device = run.unembed.device
    mask = word_mask(run.tokenizer, run.d_vocab)
    if not mask.any():
        raise LensError(f"Asked to show {show}, but no token of this vocabulary is a word: show top.")
    is_word = torch.from_numpy(mask).to(device)
    if show == "words":
        return Chooser(is_word)
    if background is None or background.log_probs is None:
        raise LensError(
            "Asked to show the lift without what is usual; pass background=lw.fit_background(model, lens)."
        )
    found = (background.model, background.lens, background.site, background.log_probs.shape[1])
    if found != (run.model.name, lens.name, site, run.d_vocab):
        raise LensError(
            f"Asked to show the lift of {run.model.name} through the {lens.name} lens at {site} over "
            f"{background!r}. Fit one of the same: lw.fit_background(model, lens, site=...)."
        )
    row_of = np.full(run.n_layers + 1, -1)
    row_of[np.asarray(background.layers) + 1] = np.arange(len(background.layers))
    missing = set(np.unique(cells.layers).tolist()) - set(background.layers)
    if missing:
        raise LensError(
            f"Asked to show the lift at layer {min(missing)}, which this background has no means of: "
            "choose one of its layers."
        )
    return Chooser(is_word, background.log_probs.to(device), torch.from_numpy(row_of).to(device))
