"""A grid of effects, as a value: what patching or removing each cell does to the answer."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from lenswidget.models.token_bytes import token_text
from lenswidget.versions import import_pandas

Array = npt.NDArray[Any]
# The grids that a map may hold, by the names of its arrays.
GRIDS = ("denoised", "noised", "ablated", "estimated")


@dataclass(frozen=True, eq=False, repr=False)
class CausalMap:
    """What a change of each cell does to an answer at the prompt's end; grids are `[layers, positions]`.

    A metric is `log p(answer)` in nats, or `logit(answer) - logit(foil)`. NaN stands for a cell of a layer
    that has no such site, or that was not measured.

    Attributes:
        site: what was changed.
        metric: "log_prob" or "logit_diff".
        answer_id, foil_id: tokens; None where there is no foil.
        ablate: "zero" or "mean" of a map of one prompt; None of a map of two.
        layers, positions: `[n]` int64, the grid's rows and columns.
        clean_ids, corrupt_ids: `[seq]` int64, the prompts; None where there is one prompt.
        clean, corrupt: the metric without any change; NaN where there is one prompt.
        denoised: the metric of the corrupt prompt with the clean prompt's cell in it; None where not asked
            for, as all below.
        noised: the metric of the clean prompt with the corrupt prompt's cell in it.
        ablated: the metric of the prompt with the cell removed.
        estimated: `denoised`, or `ablated`, to first order: the change of the cell times the gradient there.
        way: how the forwards were run, in words.
        error: the largest difference of a logit between that way and whole forwards, in the cells checked.
        n_checked: how many cells were compared with whole forwards; 0 where whole forwards are what was run.
        tokenizer: what turns ids into text, or None.
        heads: `[n]` int64 of a map by head, whose grids are `[layers, heads]`: `positions` are then those
            that were changed together; None of a map by position.
    """

    site: str
    metric: str
    answer_id: int
    foil_id: int | None
    ablate: str | None
    layers: Array
    positions: Array
    clean_ids: Array
    corrupt_ids: Array | None
    clean: float
    corrupt: float
    denoised: Array | None
    noised: Array | None
    ablated: Array | None
    estimated: Array | None
    way: str
    error: float
    n_checked: int
    tokenizer: Any = field(default=None)
    heads: Array | None = None

    @property
    def denoising(self) -> Array | None:
        """`(denoised - corrupt) / (clean - corrupt)`: 0 nothing, 1 all of the answer came back."""
        return self._recovery(self.denoised)

    @property
    def noising(self) -> Array | None:
        """`(noised - corrupt) / (clean - corrupt)`: 1 nothing, 0 all of the answer was lost."""
        return self._recovery(self.noised)

    @property
    def ablation(self) -> Array | None:
        """`ablated - clean`, in the metric's unit: below 0 the cell speaks for the answer."""
        return None if self.ablated is None else self.ablated - self.clean

    @property
    def estimate(self) -> Array | None:
        """What `denoising`, or `ablation`, is to first order."""
        if self.ablate is None:
            return self._recovery(self.estimated)
        return None if self.estimated is None else self.estimated - self.clean

    def _recovery(self, metric: Array | None) -> Array | None:
        return None if metric is None else (metric - self.corrupt) / (self.clean - self.corrupt)

    def to_dataframe(self) -> Any:
        """A pandas frame with a row per cell, or head: its tokens, the metric of each grid, and the effects.

        Raises:
            LensError: pandas is not installed.
        """
        pd = import_pandas()
        across = self.positions if self.heads is None else self.heads
        n_rows, n_columns = len(self.layers), len(across)
        columns: dict[str, Any] = {
            "layer": np.repeat(self.layers, n_columns),
            "position" if self.heads is None else "head": np.tile(across, n_rows),
        }
        for name, ids in (("clean", self.clean_ids), ("corrupt", self.corrupt_ids)):
            if ids is not None and self.heads is None:
                columns[f"{name}_id"] = np.tile(ids[self.positions], n_rows)
                texts = np.array([self._text(i) for i in ids[self.positions].tolist()], dtype=object)
                columns[f"{name}_token"] = np.tile(texts, n_rows)
        for name in (*GRIDS, "denoising", "noising", "ablation", "estimate"):
            if (grid := getattr(self, name)) is not None:
                columns[name] = grid.ravel()
        return pd.DataFrame(columns)

    @property
    def _width(self) -> str:
        n = len(self.positions)
        of = "" if self.heads is None else f"{len(self.heads)} heads, at "
        return f"{of}{n} position{'s' * (n != 1)}"

    def _place(self, column: int) -> str:
        return f"position {self.positions[column]}" if self.heads is None else f"head {self.heads[column]}"

    def _text(self, token_id: int) -> str:
        return token_text(self.tokenizer, token_id)

    def __repr__(self) -> str:
        against = "" if self.foil_id is None else f" against {self._text(self.foil_id)!r}"
        what = f"{self.ablate} ablation" if self.ablate else "patching"
        lines = [
            f"CausalMap({what} of {self.site}, {len(self.layers)} layers x {self._width}; "
            f"{self.metric} of {self._text(self.answer_id)!r}{against})",
            f"  clean {self.clean:.3f}"
            + ("" if self.corrupt_ids is None else f", corrupt {self.corrupt:.3f}"),
            f"  run by {self.way}"
            + (
                f"; within {self.error:.1e} of whole forwards in {self.n_checked} cells checked"
                if self.n_checked
                else ""
            ),
        ]
        for name in ("denoising", "noising", "ablation", "estimate"):
            grid = getattr(self, name)
            if grid is not None and np.isfinite(grid).any():
                # noising loses from 1 downwards, all others count from 0
                size = np.abs(grid - 1 if name == "noising" else grid)
                row, column = np.unravel_index(np.nanargmax(size), grid.shape)
                lines.append(
                    f"  {name}: most at layer {self.layers[row]}, {self._place(int(column))} "
                    f"({grid[row, column]:.3f})"
                )
        return "\n".join(lines)
