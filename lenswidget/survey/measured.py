"""What a survey has found of one prompt under one condition."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lenswidget.survey.rows import Form

Floats = npt.NDArray[np.float64]
METRICS = ("pass", "log_prob", "foil_difference", "rank")


class Part(NamedTuple):
    """Prompts that are counted together: by model, by condition and by group."""

    model: str
    condition: str
    group: str


@dataclass(frozen=True, eq=False)
class Measured:
    """One prompt under one condition.

    Attributes:
        row, group, prompt: which; the prompt as it was given, where it is text or ids.
        model, condition: the model's name, and "plain" or "edited".
        layers: `[rows]` int64; -1 is the embedding.
        log_probs: `[rows]` float64, nats, of the answer; `ranks` `[rows]` int64, 0 is the top.
        foil_log_probs: `[rows]` float64; None without a foil.
        error: why there are no numbers; empty where there are.
        targets: the forms of the answer.
    """

    row: int
    group: str
    prompt: Any
    model: str
    condition: str
    layers: npt.NDArray[np.int64]
    log_probs: Floats
    ranks: npt.NDArray[np.int64]
    foil_log_probs: Floats | None = None
    error: str = ""
    targets: tuple[Form, ...] = ()

    @property
    def is_right(self) -> bool:
        """Whether the last layer has the answer on top."""
        return not self.error and bool(self.ranks[-1] == 0)

    def first_layer(self, k: int) -> int | None:
        """The lowest layer that has the answer among its `k` top tokens; None where no layer has."""
        found = np.flatnonzero(self.ranks < k)
        return int(self.layers[found[0]]) if len(found) else None

    def holds_from(self, k: int) -> int | None:
        """The lowest layer from which on all have the answer among their `k` top tokens; None for none."""
        lacking = np.flatnonzero(self.ranks >= k)
        start = int(lacking[-1]) + 1 if len(lacking) else 0
        return int(self.layers[start]) if start < len(self.layers) else None

    @property
    def part(self) -> "Part":
        """What it is counted with."""
        return Part(self.model, self.condition, self.group)

    def values(self, metric: str, k: int) -> Floats:
        """`[rows]` float64: what a curve is the mean of."""
        if metric == "pass":
            return (self.ranks < k).astype(np.float64)
        if metric == "rank":
            return self.ranks.astype(np.float64)
        if metric == "log_prob":
            return self.log_probs
        assert self.foil_log_probs is not None
        return self.log_probs - self.foil_log_probs


def measured_of(kept: Mapping[str, Any]) -> Measured:
    """The inverse of `to_state`."""
    foils = kept["foil_log_probs"]
    return Measured(
        **{name: kept[name] for name in ("row", "group", "prompt", "model", "condition", "error")},
        layers=np.array(kept["layers"], dtype=np.int64),
        log_probs=np.array(kept["log_probs"], dtype=np.float64),
        ranks=np.array(kept["ranks"], dtype=np.int64),
        foil_log_probs=None if foils is None else np.array(foils, dtype=np.float64),
        targets=tuple(kept.get("targets", ())),
    )


def to_state(measured: Measured) -> dict[str, Any]:
    """One result as JSON can hold it, arrays aside; floats of Python come back bit for bit."""
    return {name: getattr(measured, name) for name in Measured.__dataclass_fields__}
