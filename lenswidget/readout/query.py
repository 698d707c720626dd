"""What a readout is asked for, checked before anything is computed."""

import contextlib
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from lenswidget.checks import Ints
from lenswidget.errors import CellError, LensError
from lenswidget.lenses.lens import Lens, LensLike, as_lens, check_carried, check_lens, covered_layers
from lenswidget.readout.background import Background, chooser_of
from lenswidget.readout.cells import Cells
from lenswidget.readout.run import EMBED_SITE, Run
from lenswidget.readout.shown import Chooser

METRICS = ("entropy", "kl", "agrees")
# That of a cell and the token that came.
TOKEN_METRICS = ("surprise",)
# Those of a cell and the one that it is compared with.
PAIR_METRICS = ("js",)
# Cells, or a list of `(layer, position)` pairs.
CellsLike: TypeAlias = Cells | Iterable[tuple[int, int]]


@dataclass(frozen=True)
class Query:
    """What is asked of some cells, as it was given; `read` explains the fields.

    Unless told more: the top token of every cell, through the logit lens.
    """

    run: Run
    cells: CellsLike | None = None
    lens: LensLike = None
    site: str = EMBED_SITE
    k: int = 1
    track: Iterable[int] = ()
    against: Run | None = None
    metrics: Collection[str] = ()
    logits: bool = False
    against_cells: CellsLike | None = None
    show: str = "top"
    background: Background | None = None

    def checked(self) -> "CheckedQuery":
        """The same, ready to be decoded.

        Raises:
            CellError: a cell, site, k or token id that a run does not have, or a layer that the lens does
                not carry.
            LensError: not a run, a metric or lens that is not known, a lens of another model, or a reference
                that cannot be compared with.
        """
        run, site = _run(self.run, "read"), self.site
        run.check_model()
        lens = as_lens(self.lens)
        check_lens(lens, run.tail)
        cells = (
            Cells.grid(rows(run, site, lens), range(run.seq)) if self.cells is None else Cells.of(self.cells)
        )
        run.check(cells, site)
        check_carried(lens, np.unique(cells.layers).tolist(), run.n_layers)
        track = run.check_tokens(self.k, self.track)
        theirs = cells if self.against_cells is None else Cells.of(self.against_cells)
        metrics = _metrics(self.metrics)
        if self.against is not None:
            if len(theirs) != len(cells):
                raise CellError(
                    f"Asked to compare {len(cells)} cells with {len(theirs)}. Pass one of the "
                    "reference's per cell."
                )
            self._check_reference(_run(self.against, "compare with"), theirs, lens)
        elif "js" in metrics or self.against_cells is not None:
            raise LensError("Asked to compare cells with no run. Pass against=, or leave that out.")
        return CheckedQuery(
            run=run,
            cells=cells,
            lens=lens,
            site=site,
            k=int(self.k),
            track=torch.tensor(track, dtype=torch.long, device="cpu"),
            against=self.against,
            metrics=metrics,
            logits=self.logits,
            against_cells=theirs,
            chooser=chooser_of(run, cells, lens, site, self.show, self.background),
            show=self.show,
            background=self.background,
        )

    def _check_reference(self, against: Run, cells: Cells, lens: Lens) -> None:
        if against.d_vocab != self.run.d_vocab:
            raise LensError(
                f"Asked to compare a vocabulary of {self.run.d_vocab} with one of {against.d_vocab}: the "
                "reference must be a run of a model with the same vocabulary."
            )
        if len(cells) and cells.positions.max() >= against.seq:
            raise LensError(
                f"Asked to compare position {cells.positions.max()} with a reference run of {against.seq} "
                "tokens: choose cells that both runs have."
            )
        against.check(cells, self.site)
        check_carried(lens, np.unique(cells.layers).tolist(), against.n_layers)
        check_lens(lens, against.tail)


@dataclass(frozen=True)
class CheckedQuery:
    """A `Query` whose every field fits its run; only `Query.checked` makes one.

    Attributes:
        track: token ids `[tracked]` int64, on the CPU.
        against_cells: the reference's cell for each of `cells`.
        chooser: chooses what stands in a cell; None for the top token.
        show, background: what it chooses by.
    """

    run: Run
    cells: Cells
    lens: Lens
    site: str
    k: int
    track: Int[Tensor, " tracked"]
    against: Run | None
    metrics: frozenset[str]
    logits: bool
    against_cells: Cells
    chooser: Chooser | None
    show: str
    background: Background | None

    def targets(self, positions: Ints) -> Int[Tensor, " cells"]:
        """The token that a cell at each position speaks of, `[cells]` int64; -1 for none, or for no token."""
        ids = self.run.token_ids
        if self.run.model.predicts == "next":
            ids = torch.cat([ids[1:], ids.new_full((1,), -1)])
        found = ids[torch.from_numpy(positions)]
        return found.masked_fill(found >= self.run.d_vocab, -1)


def rows(run: Run, site: str, lens: Lens) -> list[int]:
    """The layers of a site's grid that a lens can carry, lowest first."""
    carried = covered_layers(lens, run.n_layers)
    return [layer for layer in range(run.lowest_layer(site), run.n_layers) if layer in carried]


def _run(run: Any, what: str) -> Run:
    if not isinstance(run, Run):
        raise LensError(
            f"Asked to {what} {run!r:.80}, which is not a run. Pass what model.run(prompt) gives."
        )
    return run


def _metrics(metrics: Any) -> frozenset[str]:
    with contextlib.suppress(TypeError):  # no collection, or one of what no set can hold
        asked: frozenset[str] = frozenset(metrics)
        if not isinstance(metrics, str) and asked <= {*METRICS, *TOKEN_METRICS, *PAIR_METRICS}:
            return asked
    raise LensError(
        f"Asked for metrics {metrics!r}; pass a list of any of "
        f"{', '.join((*METRICS, *TOKEN_METRICS, *PAIR_METRICS))}."
    )
