"""One grid over two runs: what a cell of it is in either run, and how the page is told."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from lenswidget.errors import CellError
from lenswidget.readout.alignment import MISSING, align, align_rows
from lenswidget.readout.pair import Pair
from lenswidget.readout.paired_reading import PairedCells
from lenswidget.readout.run import EMBED_SITE, Run
from lenswidget.widget.messages import ids_in
from lenswidget.widget.packing import ARRAYS, Packed, pack
from lenswidget.widget.requests import ReadRequest
from lenswidget.widget.shared_ids import SharedIds

Array = npt.NDArray[Any]
Request = TypeVar("Request", bound=Any)
Item = TypeVar("Item")
# In place of a token that a run does not have in a column, and its label.
NO_TOKEN = -1
GAP = ["–", "none", ""]
DIVERGENCES = ("kl_from_reference", "kl_to_reference", "js_reference")


class PairedGrid(Generic[Request]):
    """The grid of a pair. Its rows are the layers of the first run; its columns are aligned.

    Args:
        ids: of both vocabularies, as the page has them.

    Attributes:
        pair: the runs.
        columns: `[c, 2]` int64, the position in either run; -1 where one lacks the column.
        is_same_token: `[c]` bool.
    """

    def __init__(self, pair: Pair, ids: SharedIds) -> None:
        self.pair = pair
        self.ids = ids
        alignment = align(pair.a, pair.b, EMBED_SITE, by_ids=ids.is_one)
        self.columns, self.is_same_token = alignment.columns, alignment.is_same_token

    def run(self, side: int) -> Run:
        """The first run, or the second."""
        return self.pair.b if side else self.pair.a

    def side(self, run_id: str) -> int:
        """0 for the first run's id, 1 for the second's."""
        return int(run_id == self.pair.b.id)

    def layer(self, side: int, layer: int, site: str) -> int:
        """The layer of a run that stands in a row."""
        a, b = self.pair.a, self.pair.b
        lowest = a.lowest_layer(site)
        if not side or not lowest <= layer < a.n_layers:
            return layer
        return int(align_rows(a.n_layers, b.n_layers, lowest)[layer - lowest, 1])

    def position(self, side: int, column: int) -> int:
        """The position of a run that stands in a column.

        Raises:
            CellError: the run has none there.
        """
        n = len(self.columns)
        if not 0 <= column < n:
            raise CellError(f"Asked for column {column} of a grid of {n}. Use 0 to {n - 1}.")
        position = int(self.columns[column, side])
        if position == MISSING:
            here, there = self.pair.names[side], self.pair.names[1 - side]
            raise CellError(
                f"Column {column} is a token that {there} has and {here} lacks. Show the other side."
            )
        return position

    def has(self, side: int, column: int) -> bool:
        """Whether a run has a token in a column."""
        return bool(self.columns[column, side] != MISSING)

    def in_run(self, side: int, request: Request) -> Request:
        """A request for one cell of the grid as one for that cell of a run."""
        layer = self.layer(side, request.layer, request.site)
        track = [i for i in self.ids.in_vocabulary(side, request.track) if i >= 0]
        return replace(request, layer=layer, position=self.position(side, request.position), track=track)

    def cells(self, request: ReadRequest, layers: Sequence[int], **reading: Any) -> PairedCells:
        """The cells that a rectangle of the grid is in both runs, its rows limited to some layers."""
        rows = np.array([[self.layer(side, i, request.site) for side in (0, 1)] for i in layers], np.int64)
        columns = self.columns[request.positions]
        return PairedCells(
            self.pair.a,
            self.pair.b,
            layers=np.repeat(rows.reshape(-1, 2), len(columns), axis=0),
            positions=np.tile(columns, (len(layers), 1)),
            tracked=(self.tracked(0, request.track), self.tracked(1, request.track)),
            share_ids=self.ids.is_one,
            site=request.site,
            **reading,
        )

    def tracked(self, side: int, ids: Sequence[int]) -> list[int]:
        """The page's ids in a vocabulary; 0, whose numbers are dropped, where it has no such token."""
        return [max(i, 0) for i in self.ids.in_vocabulary(side, ids)]

    def at_columns(self, side: int, values: Sequence[Item], missing: Item) -> list[Item]:
        """What a run has at each position, by column."""
        return [missing if i == MISSING else values[i] for i in self.columns[:, side].tolist()]

    def _others(self, side: int) -> list[str | None]:
        """By column the label of the other run's token, where this one has another or none."""
        ids, labels = self.run(1 - side).token_ids.tolist(), self.ids.own[1 - side]
        texts = [None if i == MISSING else labels[ids[i]].text for i in self.columns[:, 1 - side].tolist()]
        return [None if same else text for same, text in zip(self.is_same_token.tolist(), texts, strict=True)]

    def described(self, side: int, message: Mapping[str, Any]) -> dict[str, Any]:
        """What the page is told of a run, as if it had the grid's rows and columns, and the page's ids.

        Args:
            message: of the run alone, with its own ids.
        """
        tokens: list[int] = self.ids.shown(side, message["tokens"]).tolist()
        next_id = int(self.ids.shown(side, [message["next"]["id"]])[0])
        labels = {
            str(int(self.ids.shown(side, [int(i)])[0])): label for i, label in message["labels"].items()
        }
        own, other = self.run(side), self.run(1 - side)
        column_of = {int(i): column for column, i in enumerate(self.columns[:, side])}
        is_whole = self.columns[:, side].tolist() == list(range(own.seq))
        rows: Any = message["rows"]
        if own.n_layers != other.n_layers:
            rows = [self._row_name(i) for i in range(self.pair.a.n_layers)]
        return {
            **message,
            "n_layers": self.pair.a.n_layers,
            "tokens": self.at_columns(side, tokens, NO_TOKEN),
            "labels": {**labels, str(NO_TOKEN): GAP},
            "joined": self.at_columns(side, message["joined"], None),
            "special": self.at_columns(side, message["special"], False),
            # of bands the columns would have to be told apart; they are where both runs have the same
            "bands": message["bands"] if is_whole else [],
            "passes": message["passes"] if own.n_layers == other.n_layers else [],
            "rows": rows,
            "others": self._others(side),
            "next": {
                **message["next"],
                "id": next_id,
                "position": column_of[message["next"]["position"]],
            },
            "edits": [],
            "edited": None,
        }

    def _row_name(self, layer: int) -> dict[str, str]:
        there = self.layer(1, layer, EMBED_SITE)
        name = "embedding" if there < 0 else f"layer {there}"
        short = "e" if there < 0 else str(there)
        return {"name": f"{layer} | {short}", "phrase": f"layer {layer} beside {name}", "path": "by depth"}

    def _as_shown(self, request: ReadRequest, found: Mapping[str, Array], side: int) -> dict[str, Array]:
        """A readout with the page's ids, and nothing of tracked tokens that a vocabulary lacks."""
        if self.ids.is_one:
            return dict(found)
        shown = dict(found)
        for prefix, of in (("", side), ("reference_", 0)):
            if f"{prefix}ids" in shown:
                shown[f"{prefix}ids"] = self.ids.shown(of, shown[f"{prefix}ids"])
            lacks = np.array(self.ids.in_vocabulary(of, request.track), np.int64) < 0
            for name, nothing in (("log_probs", np.nan), ("ranks", -1)):
                values = shown.get(f"{prefix}tracked_{name}")
                if values is not None:
                    shown[f"{prefix}tracked_{name}"] = np.where(lacks, nothing, values).astype(values.dtype)
        if request.against is not None:
            # there is no divergence between distributions over unlike tokens
            for name in DIVERGENCES:
                shown[name] = np.full(len(shown["ids"]), np.nan)
        return shown

    def packed(self, request: ReadRequest, rows: Sequence[int], found: Mapping[str, Array]) -> Packed:
        """A readout of a rectangle, laid out `[layers, positions, ...]`; ids that a run lacks are -2.

        Args:
            found: by name, with the runs' own ids.
        """
        labels = self.ids.labels
        shape = (len(request.layers), len(request.positions))
        is_gap = np.tile(self.columns[request.positions] == MISSING, (len(rows), 1))
        side = 1 if request.against is not None else self.side(request.run_id)
        found = self._as_shown(request, found, side)
        laid_out: dict[str, Array] = {}
        for name, values in found.items():
            if name not in ARRAYS:
                continue
            is_ids = name.endswith("ids")
            gap = is_gap[:, 0 if name.startswith("reference_") else side]
            flat = values.copy()
            if is_ids:
                flat[gap] = -2
            nothing: Any = {"f": np.nan, "b": False}.get(flat.dtype.kind, -2 if is_ids else -1)
            whole = np.full((*shape, *flat.shape[1:]), nothing, flat.dtype)
            whole[list(rows)] = flat.reshape(len(rows), shape[1], *flat.shape[1:])
            laid_out[name] = whole
        ids = ids_in(*(found[name] for name in ("ids", "reference_ids") if name in found))
        return pack(
            laid_out,
            labels.of([*ids, *request.track]),
            run_id=request.run_id,
            site=request.site,
            lens=request.lens,
            k=request.k,
            layers=request.layers,
            positions=request.positions,
            tracked_ids=request.track,
            against=request.against,
        )
