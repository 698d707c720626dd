"""How much each token of a prompt surprised the model, and how sure the model was before it came."""

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lenswidget.errors import LensError
from lenswidget.progress import drain
from lenswidget.readout.cells import Cells
from lenswidget.readout.query import Query
from lenswidget.readout.reading import read_slices
from lenswidget.readout.readout import Readout
from lenswidget.readout.run import ModelInfo, Run

Array = npt.NDArray[np.float32]
Slices = Generator[tuple[int, int], None, Readout]


@dataclass(frozen=True, eq=False)
class Spine:
    """Numbers of a prompt's tokens, from the model's own last row at the column before each.

    Attributes:
        run_id: the run.
        surprise_nats: `[seq]` float32, less the log-prob of the token that came; NaN where nothing came
            before it (column 0) or the model has no number for it.
        entropy_nats: `[seq]` float32, of the model's prediction there: the surprise that it expected.
    """

    run_id: str
    surprise_nats: Array
    entropy_nats: Array

    @property
    def mean_nats(self) -> float:
        """The mean surprise over the tokens that have one; its exponential is the perplexity. NaN of none."""
        known = self.surprise_nats[~np.isnan(self.surprise_nats)].astype(np.float64)
        return float(known.mean()) if len(known) else float("nan")


def spine(run: Run) -> Spine:
    """How much each token of a run's prompt surprised the model: `-log p` of the token that came, in nats.

    Exact, over the whole vocabulary, from the states of the last layer; edits of the run count.

    Raises:
        LensError: not a run, or one of a model whose positions see later ones.
    """
    return drain(spine_slices(run, read_slices))


def spine_slices(
    run: Run, read: Callable[[Query], Slices], earlier: Spine | None = None, n_known: int = 0
) -> Generator[tuple[int, int], None, Spine]:
    """`spine` in slices.

    Args:
        read: reads a query in slices, as an engine does.
        earlier: of a run whose first `n_known` columns are this run's.
    """
    check_has_spine(run)
    n = 0 if earlier is None else min(n_known, len(earlier.surprise_nats), run.seq)
    surprise, entropy = np.full((2, run.seq), np.nan, np.float32)
    if earlier is not None:
        surprise[:n], entropy[:n] = earlier.surprise_nats[:n], earlier.entropy_nats[:n]
    first = max(n, 1)
    if first < run.seq:
        before = Cells.grid([run.n_layers - 1], range(first - 1, run.seq - 1))
        found = yield from read(Query(run, before, metrics=("surprise", "entropy")))
        values: Any = (found.surprise_nats, found.entropy_nats)
        surprise[first:], entropy[first:] = values
    return Spine(run.id, surprise, entropy)


def check_has_spine(run: Any) -> None:
    """Raise a LensError unless this is a run of a model that says what comes next."""
    if not isinstance(run, Run):
        raise LensError(
            f"Asked for the surprise of {run!r:.80}, which is not a run. Pass what model.run(prompt) gives."
        )
    if not has_spine(run.model):
        raise LensError(
            f"Asked for the surprise of tokens in {run.model.name}, whose prediction has seen the token that "
            'it is asked about. Read its cells: read(run, metrics=("surprise",)).'
        )


def has_spine(model: ModelInfo) -> bool:
    """Whether a model says what comes next before it has seen it."""
    return model.predicts == "next" and model.is_causal
