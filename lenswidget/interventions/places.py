"""Where edits act: the layers and positions that they name, on one prompt."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lenswidget.errors import EditError
from lenswidget.interventions.recipe import EMBED_SITE, Edit, Layers, Positions


def layers_of(edit: Edit, n_layers: int) -> list[int]:
    """The layers that an edit names, lowest first.

    Raises:
        EditError: one that the model does not have.
    """
    lowest = -1 if edit.site == EMBED_SITE else 0
    found = _listed(edit.layers, range(n_layers))
    beyond = [layer for layer in found if not lowest <= layer < n_layers]
    if beyond:
        also = "; -1 is the embedding" if lowest < 0 else "; site='resid_pre' of layer 0 is the embedding"
        raise EditError(f"Asked to edit layer {beyond[0]} of {n_layers}. Use 0 to {n_layers - 1}{also}.")
    return sorted(found)


def positions_of(positions: Positions, seq: int, what: str = "edit") -> list[int]:
    """The columns of a prompt that are named, in the order given; those to be generated are none.

    Args:
        what: is done there, for the message.
    Raises:
        EditError: one that the prompt does not have.
    """
    if isinstance(positions, str):
        return list(range(seq)) if positions == "prompt" else []
    found = _listed(positions, range(seq))
    beyond = [position for position in found if not -seq <= position < seq]
    if beyond:
        raise EditError(
            f"Asked to {what} position {beyond[0]} of {seq} tokens. Use 0 to {seq - 1}, or -1 for the last."
        )
    at = [position % seq for position in found]
    if len(set(at)) < len(at):
        raise EditError(f"Asked to {what} positions {positions!r:.60}, which name one of {seq} tokens twice.")
    return at


def covers_generated(positions: Positions) -> bool:
    """Whether positions that a generation adds are edited as well."""
    if isinstance(positions, slice):
        return positions.stop is None and (positions.step is None or positions.step == 1)
    return positions is None or positions == "generated"


def _listed(places: Layers | Positions, all_of: range) -> list[int]:
    if places is None:
        return list(all_of)
    if isinstance(places, slice):
        return list(all_of[places])
    if isinstance(places, int):
        return [places]
    return [int(place) for place in places]  # pyright: ignore[reportArgumentType]


def token_positions(inputs: Mapping[str, Any]) -> list[Tensor]:
    """For each row of a batch, where its own tokens lie in the model's sequence, `[tokens]` int64.

    Args:
        inputs: of the model's forward; a mask leaves padding out.
    """
    is_decoder = "decoder_input_ids" in inputs
    names = ("decoder_input_ids",) if is_decoder else ("input_ids", "inputs_embeds")
    ids = next((inputs[name] for name in names if isinstance(inputs.get(name), Tensor)), None)
    if ids is None:
        raise EditError("Asked to edit a run without token ids. Give text, ids, or an encoding.")
    batch, seq = ids.shape[:2]
    mask = inputs.get("decoder_attention_mask" if is_decoder else "attention_mask")
    if isinstance(mask, Tensor) and mask.shape == (batch, seq):
        return [row.bool().nonzero().squeeze(1).cpu() for row in mask]
    return [torch.arange(seq) for _ in range(batch)]


def reached_cells(
    edits: Sequence[Edit], n_layers: int, seq: int, *, is_causal: bool
) -> npt.NDArray[np.bool_]:
    """The cells of the residual stream that edits can change, `[n_layers + 1, seq]`; row 0 is the embedding.

    All others must come out as without edits, bit for bit.

    Args:
        is_causal: whether a position depends on those before it alone; where not, a layer is reached whole.
    """
    reached = np.zeros((n_layers + 1, seq), dtype=bool)
    for edit in edits:
        layers = layers_of(edit, n_layers)
        at = positions_of(edit.positions, seq)
        if not edit.is_on or not layers or not at:
            continue
        for layer in layers:
            # what enters layer 0 is the embedding row; what enters a later layer has left the one below
            row = layer + (0 if edit.site == "resid_pre" and layer == 0 else 1)
            if edit.site == EMBED_SITE:
                reached[row, at] = (
                    True  # attention carries a change to other positions from the next layer on
                )
                row += 1
            reached[row:, min(at) if is_causal else 0 :] = True
    return reached
