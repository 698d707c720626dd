"""What a cell's logit is made of, as a value: terms in logits, their sum, and what they leave out."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from lenswidget.models.token_bytes import token_text
from lenswidget.versions import import_pandas

Array = npt.NDArray[Any]
# How many terms are printed.
N_SHOWN = 12


@dataclass(frozen=True, eq=False, repr=False)
class Attribution:
    """A cell's logit for a token, less that for a foil if there is one, as a sum over what made the cell.

    `predicted` are exact terms of that sum, all norms held at the scale that they have for this cell, before
    a soft-cap. `measured` is what the logit loses when that term alone is taken out of the cell's state: the
    rest goes through the lens and the model's own tail, its norm and soft-cap included.

    Attributes:
        run_id, layer, position, lens: the cell, and how it was carried to the tail.
        by: "part", "head", "neuron" or "source".
        token_id, foil_id: whose logits; None where there is no foil.
        kinds: of each term: "embed", "attn", "mlp", "head", "neuron", "source", "other" (a further part),
            "rest" (what a block does beside its parts, or all that it does where they are not known) or
            "bias".
        layers: `[terms]` int64; -1 of the embedding, and of biases behind the last block.
        units: `[terms]` int64: the head, neuron or source position; -1 of anything else.
        names: of each term, for people.
        predicted: `[terms]` float64, logits.
        measured: `[terms]` float64, logits; NaN for biases, which are not in the state, and where not asked
            for.
        logit: the cell's own, as readouts give it.
        before_cap: the same before a soft-cap: what the terms sum to.
        cap: the model's soft-cap of logits, or None.
        notes: what could not be split as asked, and why.
        tokenizer: what turns ids into text, or None.
    """

    run_id: str
    layer: int
    position: int
    lens: str
    by: str
    token_id: int
    foil_id: int | None
    kinds: tuple[str, ...]
    layers: Array
    units: Array
    names: tuple[str, ...]
    predicted: Array
    measured: Array
    logit: float
    before_cap: float
    cap: float | None
    notes: tuple[str, ...] = ()
    tokenizer: Any = field(default=None)

    @property
    def total(self) -> float:
        """The sum of the terms, logits."""
        return float(self.predicted.sum())

    @property
    def remainder(self) -> float:
        """What the terms leave of `before_cap`: rounding of the model's own additions, or a hole."""
        return self.before_cap - self.total

    def __len__(self) -> int:
        return len(self.kinds)

    def strongest(self, n: int = N_SHOWN) -> list[int]:
        """The indices of the terms of largest size, largest first."""
        return np.argsort(-np.abs(self.predicted), kind="stable")[:n].tolist()

    def to_dataframe(self) -> Any:
        """A pandas frame with a row per term, and one for the remainder.

        Raises:
            LensError: pandas is not installed.
        """
        pd = import_pandas()
        return pd.DataFrame(
            {
                "kind": [*self.kinds, "remainder"],
                "layer": [*self.layers.tolist(), -1],
                "unit": [*self.units.tolist(), -1],
                "name": [*self.names, "remainder"],
                "predicted": [*self.predicted.tolist(), self.remainder],
                "measured": [*self.measured.tolist(), float("nan")],
            }
        )

    @property
    def target(self) -> str:
        """Whose logit, for people: `' Paris'`, or `' Paris' - ' Rome'`."""
        ids: Sequence[int] = [i for i in (self.token_id, self.foil_id) if i is not None]
        return " - ".join(repr(token_text(self.tokenizer, i)) for i in ids)

    def __repr__(self) -> str:
        where = f"layer {self.layer}, position {self.position}, through the {self.lens} lens"
        lines = [f"Attribution(logit of {self.target} at {where}, by {self.by}: {len(self)} terms)"]
        width = max((len(self.names[i]) for i in self.strongest()), default=0)
        width = max(width, len("all others"))
        lines.append(f"  {'':<{width}}  predicted  measured when taken out")
        for i in self.strongest():
            measured = "" if np.isnan(self.measured[i]) else f"  {self.measured[i]:+8.3f}"
            lines.append(f"  {self.names[i]:<{width}}  {self.predicted[i]:+9.3f}{measured}")
        if len(self) > N_SHOWN:
            rest = self.total - float(self.predicted[self.strongest()].sum())
            lines.append(f"  {'all others':<{width}}  {rest:+9.3f}")
        lines.append(f"  {'sum':<{width}}  {self.total:+9.3f}")
        lines.append(f"  {'remainder':<{width}}  {self.remainder:+9.1e}")
        lines.append(f"  {'logit':<{width}}  {self.before_cap:+9.3f}")
        if self.cap is not None:
            lines.append(f"  the logits are then soft-capped at {self.cap:g}: {self.logit:+.3f}")
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])
