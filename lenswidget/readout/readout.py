"""A readout: what some cells say, as small arrays."""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from lenswidget.checks import integers, is_integer
from lenswidget.errors import CellError, LensError
from lenswidget.models.token_bytes import token_text
from lenswidget.versions import import_pandas

Array = npt.NDArray[Any]
# Of the cells' axis, and so cut when a readout is.
PER_CELL = (
    "layers",
    "positions",
    "ids",
    "log_probs",
    "is_finite",
    "entropy_nats",
    "kl_from_final",
    "kl_to_final",
    "kl_from_reference",
    "kl_to_reference",
    "js_reference",
    "reference_ids",
    "reference_log_probs",
    "reference_tracked_log_probs",
    "reference_tracked_ranks",
    "tracked_log_probs",
    "tracked_ranks",
    "agrees",
    "logits",
    "shown_ids",
    "shown_log_probs",
    "shown_ranks",
    "shown_lifts",
    "surprise_nats",
)
SCALARS = (
    "entropy_nats",
    "surprise_nats",
    "kl_from_final",
    "kl_to_final",
    "kl_from_reference",
    "kl_to_reference",
    "js_reference",
    "agrees",
)


@dataclass(frozen=True, eq=False)
class Readout:
    """What `n` cells of a run say; arrays are flat over the cells, in the order in which they were asked for.

    Attributes:
        run_id, site, lens: where it was read, and the name of the lens.
        layers, positions: `[n]` int64; layer -1 is the embedding.
        ids: `[n, k]` int32, the most probable tokens, most probable first, ties by the lower id; -1 in a cell
            that is not finite.
        log_probs: `[n, k]` float32, nats, of those.
        is_finite: `[n]` bool: False where NaN or infinite states left no distribution; the cell's numbers
            are then NaN.
        tracked_ids: `[m]` int32.
        tracked_log_probs: `[n, m]` float32, nats.
        tracked_ranks: `[n, m]` int32: how many tokens score strictly higher; 0 is the top, -1 not finite.
        entropy_nats: `[n]` float32, or None where not asked for, as all below.
        kl_from_final: `[n]` float32, KL(last layer || cell) at the same position, nats.
        kl_to_final: `[n]` float32, KL(cell || last layer), nats.
        kl_from_reference, kl_to_reference: `[n]` float32, KL(reference || cell) and back, where the reference
            is the same cell of the run given as `against`, or the one that `against_cells` has for it.
        js_reference: `[n]` float32, the Jensen-Shannon divergence of the two, nats; at most log 2.
        reference_ids, reference_log_probs, reference_tracked_log_probs, reference_tracked_ranks: the
            reference's own, as `ids` and the others are this run's.
        agrees: `[n]` bool, whether the top token is the last layer's at that position.
        logits: `[n, k]` float32, of `ids`.
        shown_ids: `[n]` int32, the token that stands for the cell: its top word, or the one with most lift.
        shown_log_probs: `[n]` float32, nats, of those.
        shown_ranks: `[n]` int32, how many tokens of the whole vocabulary score strictly higher.
        shown_lifts: `[n]` float32, nats: the log-prob less its mean over the background.
        surprise_nats: `[n]` float32, less the log-prob of the token that the cell speaks of: the one that
            came next, or in a masked language model the one that stands there. NaN at the last column, after
            which nothing came.
        tokenizer: what turns ids into text, or None.
    """

    run_id: str
    site: str
    lens: str
    layers: Array
    positions: Array
    ids: Array
    log_probs: Array
    is_finite: Array
    tracked_ids: Array
    tracked_log_probs: Array
    tracked_ranks: Array
    entropy_nats: Array | None = None
    kl_from_final: Array | None = None
    kl_to_final: Array | None = None
    kl_from_reference: Array | None = None
    kl_to_reference: Array | None = None
    js_reference: Array | None = None
    reference_ids: Array | None = None
    reference_log_probs: Array | None = None
    reference_tracked_log_probs: Array | None = None
    reference_tracked_ranks: Array | None = None
    agrees: Array | None = None
    logits: Array | None = None
    shown_ids: Array | None = None
    shown_log_probs: Array | None = None
    shown_ranks: Array | None = None
    shown_lifts: Array | None = None
    surprise_nats: Array | None = None
    tokenizer: Any = field(default=None, repr=False)

    @property
    def k(self) -> int:
        """How many top tokens each cell has."""
        return self.ids.shape[1]

    def __len__(self) -> int:
        return len(self.layers)

    def __getitem__(self, index: Any) -> "Readout":
        """Some of the cells: by an index, a slice, a mask or a list of indices over them.

        Raises:
            CellError: anything else, or beyond the cells; `at` chooses by layer and position.
        """
        try:
            places = np.atleast_1d(np.arange(len(self))[index])
        except (IndexError, TypeError):
            places = None
        if places is None or places.ndim != 1:
            raise CellError(
                f"Asked for cells [{index!r:.80}] of {len(self)}. Pass an index, a slice, a mask or a list "
                "of indices over the cells, or choose by number: .at(layer=12, position=slice(0, 5))."
            )
        cut = {name: getattr(self, name) for name in PER_CELL}
        return replace(self, **{name: None if a is None else a[places] for name, a in cut.items()})

    def at(self, layer: Any = None, position: Any = None) -> "Readout":
        """The cells of some layers, some positions, or both; `readout.at(layer=12, position=slice(0, 5))`.

        Args:
            layer: one, several, or a slice of the layers that are there, such as `slice(-1, 12)` for the
                embedding and layers 0 to 11; None is all.
            position: likewise, from 0.
        Raises:
            CellError: one that is not in this readout, or a slice that holds none.
        """
        keep = np.ones(len(self), bool)
        for name, asked, have in (("layer", layer, self.layers), ("position", position, self.positions)):
            if asked is not None:
                keep &= np.isin(have, _chosen(name, asked, np.unique(have)))
        return self[keep]

    def grid(self, name: str) -> Array:
        """One array as `[layers, positions, ...]`, layers rising, for a readout of whole rows and columns.

        Raises:
            CellError: the cells are no grid.
            LensError: the array was not asked for.
        """
        array = getattr(self, name) if name in PER_CELL else None
        if array is None:
            have = ", ".join(n for n in PER_CELL if getattr(self, n) is not None)
            raise LensError(f"Asked for {name!r} of a readout that has {have}: name one of those.")
        rows, row = np.unique(self.layers, return_inverse=True)
        columns, column = np.unique(self.positions, return_inverse=True)
        places = row * len(columns) + column
        if len(np.unique(places)) != len(rows) * len(columns) or len(places) != len(rows) * len(columns):
            raise CellError(
                f"These {len(self)} cells do not fill {len(rows)} layers x {len(columns)} positions once "
                "each: use .at(...) to choose some that do."
            )
        out = np.empty((len(places), *array.shape[1:]), array.dtype)
        out[places] = array
        return out.reshape(len(rows), len(columns), *array.shape[1:])

    def tokens(self) -> Array:
        """The text of `ids`, `[n, k]` of str: decoded by the tokenizer, `#id` without one, empty for -1.

        Bytes that are no whole character are written as such, `<0xE2><0x82>`: decoded they would all be one
        replacement sign.
        """
        return self._texts(self.ids)

    def shown(self) -> Array:
        """The text of `shown_ids`, or of the top tokens where nothing else was asked to be shown; `[n]`."""
        return self._texts(self.ids[:, 0] if self.shown_ids is None else self.shown_ids)

    def _texts(self, ids: Array) -> Array:
        distinct, place = np.unique(ids, return_inverse=True)
        texts = np.array([token_text(self.tokenizer, i) for i in distinct.tolist()], dtype=object)
        return texts[place].reshape(ids.shape)

    def to_dataframe(self) -> Any:
        """A pandas frame with a row per cell and top token.

        Its columns are `layer, position, place, id, token, log_prob, prob`; `place` is 0 for the most
        probable. The cell's own numbers (entropy, divergences) are repeated in its rows, and so are tracked
        tokens, as `log_prob_<id>` and `rank_<id>`, and the token that is shown, as `shown_id`, `shown`,
        `shown_log_prob`, `shown_rank` and `shown_lift`.

        Raises:
            LensError: pandas is not installed.
        """
        pd = import_pandas()
        n, k = self.ids.shape
        columns: dict[str, Array] = {
            "layer": np.repeat(self.layers, k),
            "position": np.repeat(self.positions, k),
            "place": np.tile(np.arange(k), n),
            "id": self.ids.ravel(),
            "token": self.tokens().ravel(),
            "log_prob": self.log_probs.ravel(),
            "prob": np.exp(self.log_probs).ravel(),
        }
        if self.logits is not None:
            columns["logit"] = self.logits.ravel()
        for name in SCALARS:
            if (values := getattr(self, name)) is not None:
                columns[name] = np.repeat(values, k)
        if self.shown_ids is not None:
            columns["shown"] = np.repeat(self.shown(), k)
        for name in ("shown_ids", "shown_log_probs", "shown_ranks", "shown_lifts"):
            if (values := getattr(self, name)) is not None:
                columns[name.removesuffix("s")] = np.repeat(values, k)
        for j, token_id in enumerate(self.tracked_ids.tolist()):
            columns[f"log_prob_{token_id}"] = np.repeat(self.tracked_log_probs[:, j], k)
            columns[f"rank_{token_id}"] = np.repeat(self.tracked_ranks[:, j], k)
        return pd.DataFrame(columns)

    def __repr__(self) -> str:
        if not len(self):
            return f"Readout(no cells, site {self.site}, lens {self.lens})"
        have = [name for name in (*SCALARS, "logits") if getattr(self, name) is not None]
        lines = [
            f"Readout({_counted(len(self), 'cell')}: {_named('layer', self.layers)}, "
            f"{_named('position', self.positions)}; "
            f"top {self.k}, site {self.site}, lens {self.lens})"
        ]
        lines += [f"  {', '.join(have)}"] if have else []
        lines += [f"  tracked ids {self.tracked_ids.tolist()}"] if len(self.tracked_ids) else []
        lines += (
            [f"  not finite: {_counted(int((~self.is_finite).sum()), 'cell')}"]
            if not self.is_finite.all()
            else []
        )
        shown = self[-3:]
        for i, texts in enumerate(shown.tokens()[:, :3]):
            best = ", ".join(
                f"{t!r} {np.exp(lp):.3f}" for t, lp in zip(texts, shown.log_probs[i], strict=False)
            )
            lines.append(f"  layer {shown.layers[i]}, position {shown.positions[i]}: {best}")
        return "\n".join(lines)


def _chosen(name: str, asked: Any, have: Array) -> Array:
    """Which of the numbers that are there, rising, are asked for."""
    if isinstance(asked, slice):
        wanted = _within(asked, have, -1 if name == "layer" else 0)
        if len(wanted):
            return wanted
        raise CellError(
            f"Asked for {name}s {asked!r} of a readout that has {name}s {_spans(have)}: choose from those by "
            "number, upwards; none counts from the end."
        )
    wanted = integers(f"{name}s", asked)
    absent = np.setdiff1d(wanted, have)
    if len(absent):
        raise CellError(
            f"Asked for {name} {absent[0]} of a readout that has {name}s {_spans(have)}: read it first."
        )
    return wanted


def _within(asked: slice, have: Array, lowest: int) -> Array:
    """Those of the numbers that a slice holds; none where it is not a slice of such numbers."""
    bounds = (asked.start, asked.stop)
    step = 1 if asked.step is None else asked.step
    is_fit = all(bound is None or (is_integer(bound) and bound >= lowest) for bound in bounds)
    if not is_fit or not is_integer(step) or step < 1 or not len(have):
        return have[:0]
    start = have[0] if asked.start is None else asked.start
    is_in = (have >= start) & ((have - start) % step == 0)
    return have[is_in if asked.stop is None else is_in & (have < asked.stop)]


def _counted(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def _named(what: str, values: Array) -> str:
    return f"{what}{'' if len(np.unique(values)) == 1 else 's'} {_spans(values)}"


def _spans(values: Array) -> str:
    """Sorted numbers in few words: `-1 to 29`, or `3, 7, 11`."""
    distinct = np.unique(values)
    if len(distinct) > 4 and (np.diff(distinct) == 1).all():
        return f"{distinct[0]} to {distinct[-1]}"
    texts = [str(value) for value in distinct]
    return ", ".join(texts if len(texts) <= 6 else [*texts[:5], f"... {texts[-1]}"])
