"""What a survey found: a table of prompts, and curves over layers with bands."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lenswidget.errors import LensError
from lenswidget.files import file_at, write_beside
from lenswidget.versions import import_pandas

Floats = npt.NDArray[np.float64]
METRICS = ("pass", "log_prob", "foil_difference", "rank")
N_RESAMPLES, RESAMPLES_AT_ONCE = 1000, 50


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


@dataclass(frozen=True, eq=False, repr=False)
class Survey:
    """What the layers say of an answer, over many prompts.

    Attributes:
        k: a layer *has* an answer whose rank is below this.
        lens, site: where it was read.
        measured: a `Measured` per prompt and condition, by prompt.
    """

    k: int
    lens: str
    site: str
    measured: Sequence[Measured] = field(default_factory=tuple)

    def __len__(self) -> int:
        return len({each.row for each in self.measured})

    def __repr__(self) -> str:
        n_failed = len({each.row for each in self.measured if each.error})
        failed = f", {n_failed} of them failed" if n_failed else ""
        lines = [f"{len(self)} prompts{failed}, {self.lens} lens, {self.site}"]
        for (model, condition, group), found in self._parts():
            arrivals = [layer for each in found if (layer := each.holds_from(self.k)) is not None]
            name = " ".join(
                part for part in (group, model, condition if condition != "plain" else "") if part
            )
            told = f"; of those, in the median from layer {int(np.median(arrivals))} on" if arrivals else ""
            lines.append(f"  {name}: {len(arrivals)} of {len(found)} end in the top {self.k}{told}")
        return "\n".join(lines)

    def to_dataframe(self) -> Any:
        """A row per prompt and condition.

        Columns: `row`, `group`, `model`, `condition`, `prompt`, `first_layer` and `holds_from` (missing where
        no layer is), `log_prob` (nats) and `rank` of the last layer, `foil_difference` (nats, missing without
        a foil), `is_right`, `error`.
        """
        pd = import_pandas()
        found = pd.DataFrame([self._summary(each) for each in self.measured])
        for name in ("first_layer", "holds_from", "rank"):
            if name in found:
                found[name] = found[name].astype("Int64")
        return found

    def _summary(self, each: Measured) -> dict[str, Any]:
        has = not each.error
        foils = each.foil_log_probs
        return {
            "row": each.row,
            "group": each.group,
            "model": each.model,
            "condition": each.condition,
            "prompt": each.prompt if isinstance(each.prompt, str) else repr(each.prompt),
            "first_layer": each.first_layer(self.k) if has else None,
            "holds_from": each.holds_from(self.k) if has else None,
            "log_prob": float(each.log_probs[-1]) if has else None,
            "rank": int(each.ranks[-1]) if has else None,
            "foil_difference": float(each.log_probs[-1] - foils[-1]) if has and foils is not None else None,
            "is_right": each.is_right,
            "error": each.error,
        }

    def by_layer(self) -> Any:
        """A DataFrame with a row per prompt, condition and layer: `log_prob`, `rank`, `foil_log_prob`."""
        pd = import_pandas()
        parts = [
            {
                "row": each.row,
                "group": each.group,
                "model": each.model,
                "condition": each.condition,
                "layer": each.layers,
                "log_prob": each.log_probs,
                "rank": each.ranks,
                "foil_log_prob": np.nan if each.foil_log_probs is None else each.foil_log_probs,
            }
            for each in self.measured
            if not each.error
        ]
        return (
            pd.concat([pd.DataFrame(part) for part in parts], ignore_index=True) if parts else pd.DataFrame()
        )

    def to_parquet(self, path: str | Path) -> Path:
        """Write `by_layer()` as a Parquet file; returns its path, absolute.

        Raises:
            LensError: the folder is not there, or no package that writes Parquet is installed.
        """
        target = file_at(path)
        try:
            with write_beside(target) as scratch:
                self.by_layer().to_parquet(scratch, index=False)
        except ImportError as error:
            raise LensError("Writing Parquet needs pyarrow: pip install pyarrow.") from error
        return target

    def curves(
        self, metric: str = "pass", *, k: int | None = None, only_right: bool = False, seed: int = 0
    ) -> Any:
        """Means over prompts by layer, each with a 95 % band, as a DataFrame.

        The band is the percentile bootstrap over prompts, 1,000 resamples, seeded.

        Args:
            metric: `pass` (share of prompts whose answer is among the top `k`), `log_prob` (nats),
                `foil_difference` (nats) or `rank`.
            k: another one than the survey's.
            only_right: leave out prompts that the plain model does not answer rightly at its end.
        Returns:
            `model`, `condition`, `group`, `layer`, `mean`, `low`, `high`, `n`.
        Raises:
            LensError: a metric that is not known, or differences from a foil where there was none.
        """
        pd = import_pandas()
        if metric not in METRICS:
            raise LensError(f"Asked for curves of {metric!r:.40}. Name one of {', '.join(METRICS)}.")
        rows: list[dict[str, Any]] = []
        for (model, condition, group), found in self._parts(only_right):
            if metric == "foil_difference" and any(each.foil_log_probs is None for each in found):
                raise LensError(
                    "Asked for differences from a foil, but there was none: survey(..., foil=column)."
                )
            values = np.stack([each.values(metric, self.k if k is None else k) for each in found])
            low, high = _band(values, seed)
            for place, layer in enumerate(found[0].layers):
                rows.append(
                    {
                        "model": model,
                        "condition": condition,
                        "group": group,
                        "layer": int(layer),
                        "mean": float(values[:, place].mean()),
                        "low": float(low[place]),
                        "high": float(high[place]),
                        "n": len(found),
                    }
                )
        return pd.DataFrame(rows)

    def arrivals(self, *, only_right: bool = False) -> Any:
        """How many prompts have their answer from which layer on, as a DataFrame.

        Returns:
            `model`, `condition`, `group`, `layer` (missing for prompts whose last layer lacks it), `n`.
        """
        pd = import_pandas()
        counts: list[dict[str, Any]] = []
        for (model, condition, group), found in self._parts(only_right):
            arrived = [each.holds_from(self.k) for each in found]
            known = sorted({layer for layer in arrived if layer is not None})
            for layer in (*known, *([None] if None in arrived else [])):
                part = {"model": model, "condition": condition, "group": group}
                counts.append({**part, "layer": layer, "n": arrived.count(layer)})
        table = pd.DataFrame(counts)
        return table.astype({"layer": "Int64"}) if counts else table

    def _parts(self, only_right: bool = False) -> Iterator[tuple[tuple[str, str, str], list[Measured]]]:
        """Those that have numbers, by model, condition and group, in the order of their first prompts."""
        right = {
            (each.row, each.model) for each in self.measured if each.condition == "plain" and each.is_right
        }
        parts: dict[tuple[str, str, str], list[Measured]] = {}
        for each in self.measured:
            if not each.error and (not only_right or (each.row, each.model) in right):
                parts.setdefault((each.model, each.condition, each.group), []).append(each)
        yield from parts.items()


def measured_of(kept: Mapping[str, Any]) -> Measured:
    """The inverse of `to_state`."""
    foils = kept["foil_log_probs"]
    return Measured(
        **{name: kept[name] for name in ("row", "group", "prompt", "model", "condition", "error")},
        layers=np.array(kept["layers"], dtype=np.int64),
        log_probs=np.array(kept["log_probs"], dtype=np.float64),
        ranks=np.array(kept["ranks"], dtype=np.int64),
        foil_log_probs=None if foils is None else np.array(foils, dtype=np.float64),
    )


def to_state(measured: Measured) -> dict[str, Any]:
    """One result as JSON can hold it, arrays aside; floats of Python come back bit for bit."""
    return {name: getattr(measured, name) for name in Measured.__dataclass_fields__}


def _band(values: Floats, seed: int) -> tuple[Floats, Floats]:
    """The 2.5th and 97.5th percentile of the mean over resampled prompts; of `values` `[n, rows]`."""
    generator, n = np.random.default_rng(seed), len(values)
    means: list[Floats] = []
    for start in range(0, N_RESAMPLES, RESAMPLES_AT_ONCE):
        size = min(RESAMPLES_AT_ONCE, N_RESAMPLES - start)
        # how often each prompt is drawn, instead of which: no copy of the values for each resample
        counts = generator.multinomial(n, np.full(n, 1 / n), size=size)
        means.append(counts @ values / n)
    low, high = np.percentile(np.concatenate(means), [2.5, 97.5], axis=0)
    return low, high
