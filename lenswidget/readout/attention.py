"""Where the attention of one cell looks: the model's own weights, one row at a time."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from lenswidget.anatomy.attention_watch import Attended
from lenswidget.anatomy.units import Units
from lenswidget.errors import AnatomyError
from lenswidget.models.facts import held
from lenswidget.models.hf_model import text_config
from lenswidget.models.token_bytes import token_text
from lenswidget.readout.attribute import attended_to
from lenswidget.readout.cells import Cells
from lenswidget.readout.elsewhere import at_the_run
from lenswidget.readout.parts_forward import read_parts
from lenswidget.readout.run import Run
from lenswidget.versions import import_pandas

Array = npt.NDArray[Any]
# A column that heads give this share of their weight to, on average, is marked as a sink.
SINK_SHARE = 0.3


@dataclass(frozen=True, eq=False, repr=False)
class Attention:
    """The attention weights of one cell, by head and by the position that is read.

    Attributes:
        run_id, layer, position: whose attention; layer `i` is block `i`.
        weights: `[heads, seq]` float64, as the model multiplied them with the values; a row sums to 1 with
            `elsewhere`.
        value_weighted: `[heads, seq]` float64: each weight times the norm of what the head would add to the
            stream from that position alone, `alpha * |v W_O|`; None where something is multiplied in between.
        elsewhere: `[heads]` float64: what each head gives to sinks without a position, or to positions that
            are no column.
        token_ids: `[seq]` int64, of the columns.
        tokenizer: what turns ids into text, or None.
    """

    run_id: str
    layer: int
    position: int
    weights: Array
    value_weighted: Array | None
    elsewhere: Array
    token_ids: Array
    tokenizer: Any = field(default=None)

    @property
    def n_heads(self) -> int:
        return len(self.weights)

    @property
    def sinks(self) -> list[int]:
        """The columns that take much of every head's weight, whatever they say; the cell's own aside."""
        mean = self.weights.mean(0)
        return [int(i) for i in np.flatnonzero(mean >= SINK_SHARE) if i != self.position]

    def to_dataframe(self) -> Any:
        """A pandas frame with a row per head and position.

        Raises:
            LensError: pandas is not installed.
        """
        pd = import_pandas()
        n_heads, seq = self.weights.shape
        texts = np.array([token_text(self.tokenizer, i) for i in self.token_ids.tolist()], dtype=object)
        columns: dict[str, Any] = {
            "head": np.repeat(np.arange(n_heads), seq),
            "position": np.tile(np.arange(seq), n_heads),
            "token": np.tile(texts, n_heads),
            "weight": self.weights.ravel(),
        }
        if self.value_weighted is not None:
            columns["value_weighted"] = self.value_weighted.ravel()
        return pd.DataFrame(columns)

    def __repr__(self) -> str:
        lines = [f"Attention(layer {self.layer}, position {self.position}: {self.n_heads} heads)"]
        for head, row in enumerate(self.weights):
            best = np.argsort(-row, kind="stable")[:3]
            read = ", ".join(
                f"{token_text(self.tokenizer, int(self.token_ids[i]))!r} at {i} ({row[i]:.2f})" for i in best
            )
            lines.append(f"  head {head}: {read}")
        return "\n".join(lines)


@at_the_run
def attention(run: Run, layer: int, position: int) -> Attention:
    """The attention weights of one cell, `[heads, seq]`: one row, never `[heads, seq, seq]`.

    Runs that column once more, edits included, up to that layer, from what the run kept; where that is not
    verified, the whole prompt. The weights are those that the model's code multiplies with the values; where
    torch's fused operator makes them, this row is made again from the queries, keys and mask that it is
    given. Either way, weights times values must be what the output projection takes. Nothing of the model is
    set meanwhile.

    Args:
        run: a `Run` of a model in this process.
        layer: 0 to `n_layers - 1`, of the block.
        position: 0 to `seq - 1`, that reads.
    Raises:
        AnatomyError: the block has no attention whose weights can be seen.
        CellError: a layer or position outside the run.
        ModelError: the model has changed since the run, or is not in this process.
    """
    run.check(Cells([layer], [position]))
    model = run.local_model
    anatomy = model.anatomy
    if layer < 0:
        raise AnatomyError("Asked for the attention of the embedding, which has none. Use a layer from 0.")
    units = anatomy.units[layer].heads
    if units is None:
        raise _no_attention(run, layer, anatomy.units[layer].refused.get("heads", "not found"))
    parts = read_parts(run, layer, position, units=("heads",), attention=(layer,))[layer]
    found = attended_to(parts.attended, units, parts.taken["heads"])
    alike = [each for each in parts.attended if (each.n_heads, each.d_value) == (units.n, units.d)]
    if found is None and units.is_gated and len(alike) == 1:
        found = alike[0]
    if found is None:
        raise _no_attention(run, layer, "its weights times its values are not what the projection takes")
    columns = run.spec.prompt.columns
    at = torch.arange(run.seq) if columns is None else columns
    if found.weights.shape[-1] <= int(at.max()):
        raise _no_attention(run, layer, "it reads other positions than the prompt's")
    weights = found.weights.detach().cpu().double()
    with held(model.hf_model):
        weighted = None if units.is_gated else _value_weighted(run, layer, units, found)[:, at]
    return Attention(
        run_id=run.id,
        layer=layer,
        position=position,
        weights=weights[:, at].numpy(),
        value_weighted=None if weighted is None else weighted.numpy(),
        elsewhere=(1 - weights[:, at].sum(-1)).clamp_min(0).numpy(),
        token_ids=run.token_ids.numpy(),
        tokenizer=run.tokenizer,
    )


def _value_weighted(run: Run, layer: int, units: Units, found: Attended) -> torch.Tensor:
    """`[heads, keys]` float64: what each head adds from each position, as a norm."""
    block = run.tail.hf_model.get_submodule(run.tail.anatomy.rows[layer].path)
    values = found.head_values()
    handed = found.output().flatten().to(values)
    split = units.split(block, handed)
    norms: list[torch.Tensor] = []
    for head in range(units.n):
        alone = torch.zeros(values.shape[1], units.n * units.d, dtype=values.dtype, device=values.device)
        alone[:, units.slice(head)] = values[head]
        norms.append(split.carry(alone).norm(dim=-1))
    return found.weights.detach().cpu().double() * torch.stack(norms)


def _no_attention(run: Run, layer: int, reason: str) -> AnatomyError:
    config = text_config(run.tail.hf_model)
    way = getattr(config, "_attn_implementation", None)
    remedy = ""
    if way not in (None, "eager", "sdpa"):
        remedy = f' Load the model with attn_implementation="sdpa" in place of {way!r}.'
    return AnatomyError(
        f"Asked for the attention of layer {layer} of {run.model.name}, which cannot be seen: {reason}."
        f"{remedy}"
    )
