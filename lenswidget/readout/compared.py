"""Two runs side by side, as a value: what each says in the cells that belong together."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from lenswidget.errors import LensError
from lenswidget.models.token_bytes import token_text
from lenswidget.readout.alignment import Alignment
from lenswidget.versions import import_pandas

Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class Side:
    """What one of the two runs says, flat over the cells; NaN, and ids and ranks of -1, where it has none.

    Attributes:
        name: of the model, or of what sets this side apart.
        run_id: of its run.
        layers: `[n]` int64; -1 is the embedding.
        positions: `[n]` int64; -1 where this side lacks the column.
        ids, log_probs: `[n, k]`, its most probable tokens, best first; nats.
        tracked_ids: `[m]` int64, in this side's vocabulary.
        tracked_log_probs, tracked_ranks: `[n, m]`; a rank counts the tokens that score strictly higher.
        tokenizer: what turns ids into text, or None.
    """

    name: str
    run_id: str
    layers: Array
    positions: Array
    ids: Array
    log_probs: Array
    tracked_ids: Array
    tracked_log_probs: Array
    tracked_ranks: Array
    tokenizer: Any = field(default=None, repr=False)

    def text(self, token_id: int) -> str:
        """The text of an id; empty for -1."""
        return token_text(self.tokenizer, token_id)

    def tokens(self) -> Array:
        """The text of each cell's top token, `[n]`."""
        distinct, place = np.unique(self.ids[:, 0], return_inverse=True)
        return np.array([self.text(i) for i in distinct.tolist()], dtype=object)[place.reshape(-1)]


@dataclass(frozen=True, eq=False, repr=False)
class Comparison:
    """Two runs on the cells that belong together, and how far apart they are.

    Arrays are flat over `n = rows x columns` cells, row by row, the lowest first; `grid` folds them.

    Attributes:
        a, b: the two sides.
        alignment: which columns and rows go together, and which columns one side lacks.
        site, lens: where both were read, and the name of the lens.
        is_missing: `[n]` bool, whether one side lacks the cell: all differences are NaN there.
        agrees: `[n]` float64, 1.0 where the top tokens are the same, 0.0 where not; by id, or, where the
            vocabularies differ, by text.
        kl_to_b: `[n]` float64, KL(a || b), nats; None where the vocabularies differ, as the next two.
        kl_to_a: `[n]` float64, KL(b || a), nats.
        js: `[n]` float64, the Jensen-Shannon divergence, nats; at most log 2.
        why_no_kl: one sentence, where there is none; else None.
    """

    a: Side
    b: Side
    alignment: Alignment
    site: str
    lens: str
    is_missing: Array
    agrees: Array
    kl_to_b: Array | None
    kl_to_a: Array | None
    js: Array | None
    why_no_kl: str | None = None

    @property
    def log_prob_change(self) -> Array:
        """`[n, m]` nats: the tracked tokens' log-prob in b less that in a."""
        return self.b.tracked_log_probs - self.a.tracked_log_probs

    @property
    def rank_change(self) -> Array:
        """`[n, m]` float64: the tracked tokens' rank in b less that in a; below 0 it rose."""
        change = (self.b.tracked_ranks - self.a.tracked_ranks).astype(np.float64)
        change[(self.a.tracked_ranks < 0) | (self.b.tracked_ranks < 0)] = np.nan
        return change

    def grid(self, name: str) -> Array:
        """One array as `[rows, columns, ...]`: `js`, `log_prob_change`, or `a.ids` and the like of a side.

        Raises:
            LensError: there is no such array, or the vocabularies differ.
        """
        of: Any = self
        for part in str(name).split("."):
            of = getattr(of, part, None)
        n_rows, n_columns = len(self.alignment.rows), len(self.alignment.columns)
        if not isinstance(of, np.ndarray) or len(of) != n_rows * n_columns:
            if self.why_no_kl and name in ("kl_to_a", "kl_to_b", "js"):
                raise LensError(self.why_no_kl)
            raise LensError(
                f"Asked for {name!r} of a comparison. Name kl_to_b, kl_to_a, js, agrees, is_missing, "
                "log_prob_change, rank_change, or an array of a side, as a.ids."
            )
        return of.reshape(n_rows, n_columns, *of.shape[1:])

    def to_dataframe(self) -> Any:
        """A pandas frame with a row per cell: both sides' places, top tokens and tracked tokens, and the
        differences.

        Raises:
            LensError: pandas is not installed.
        """
        pd = import_pandas()
        columns: dict[str, Array] = {}
        for label, side in (("a", self.a), ("b", self.b)):
            columns |= {
                f"layer_{label}": side.layers,
                f"position_{label}": side.positions,
                f"id_{label}": side.ids[:, 0],
                f"token_{label}": side.tokens(),
                f"log_prob_{label}": side.log_probs[:, 0],
            }
        columns |= {"is_missing": self.is_missing, "agrees": self.agrees}
        for name in ("kl_to_b", "kl_to_a", "js"):
            if (values := getattr(self, name)) is not None:
                columns[name] = values
        for j, token_id in enumerate(self.a.tracked_ids.tolist()):
            for label, side in (("a", self.a), ("b", self.b)):
                columns[f"log_prob_{token_id}_{label}"] = side.tracked_log_probs[:, j]
                columns[f"rank_{token_id}_{label}"] = side.tracked_ranks[:, j]
            columns[f"log_prob_change_{token_id}"] = self.log_prob_change[:, j]
            columns[f"rank_change_{token_id}"] = self.rank_change[:, j]
        return pd.DataFrame(columns)

    def __repr__(self) -> str:
        alignment = self.alignment
        n_both = int((alignment.columns >= 0).all(1).sum())
        lines = [
            f"Comparison(a: {self.a.name}, b: {self.b.name}; {len(alignment.rows)} rows x "
            f"{len(alignment.columns)} columns, {n_both} in both, by {alignment.by}; site {self.site}, lens "
            f"{self.lens})"
        ]
        for label, lacking in (("a", alignment.missing_a), ("b", alignment.missing_b)):
            if lacking:
                other = "b" if label == "a" else "a"
                lines.append(f"  {label} lacks positions {lacking} of {other}")
        both = ~self.is_missing
        if both.any():
            lines.append(
                f"  top tokens agree in {np.nanmean(self.agrees[both]):.0%} of {int(both.sum())} cells"
            )
            if self.js is not None and np.isfinite(self.js).any():
                i = int(np.nanargmax(self.js))
                lines.append(
                    f"  largest js {self.js[i]:.4f} nats at layer {self.a.layers[i]}, position "
                    f"{self.a.positions[i]} of a: {self.a.tokens()[i]!r} against {self.b.tokens()[i]!r}"
                )
        return "\n".join([*lines, *([f"  {self.why_no_kl}"] if self.why_no_kl else [])])
