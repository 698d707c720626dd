"""What a survey found: a table of prompts, and curves over layers with bands."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lenswidget.errors import LensError
from lenswidget.files import file_at, write_beside
from lenswidget.survey.curves import curves_of, parts_of
from lenswidget.survey.measured import Measured
from lenswidget.survey.opener import Opener
from lenswidget.survey.survey_widget import SurveyWidget
from lenswidget.versions import import_pandas


@dataclass(frozen=True, eq=False, repr=False)
class Survey:
    """What the layers say of an answer, over many prompts.

    Attributes:
        k: a layer *has* an answer whose rank is below this.
        lens, site: where it was read.
        measured: a `Measured` per prompt and condition, by prompt.
        opener: runs a prompt of the survey again; None where the models are not at hand.
    """

    k: int
    lens: str
    site: str
    measured: Sequence[Measured] = field(default_factory=tuple)
    opener: Opener | None = None

    def __len__(self) -> int:
        return len({each.row for each in self.measured})

    def __repr__(self) -> str:
        n_failed = len({each.row for each in self.measured if each.error})
        failed = f", {n_failed} of them failed" if n_failed else ""
        lines = [f"{len(self)} prompts{failed}, {self.lens} lens, {self.site}"]
        for (model, condition, group), found in parts_of(self.measured).items():
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
        self,
        metric: str = "pass",
        *,
        k: int | None = None,
        only_right: bool = False,
        contrast: str | None = None,
        seed: int = 0,
    ) -> Any:
        """Means over prompts by layer, each with a 95 % band, as a DataFrame.

        The band is the percentile bootstrap over prompts, 1,000 resamples, seeded.

        Args:
            metric: `pass` (share of prompts whose answer is among the top `k`), `log_prob` (nats),
                `foil_difference` (nats) or `rank`.
            k: another one than the survey's.
            only_right: leave out prompts that the plain model does not answer rightly at its end.
            contrast: "edits" for the edited condition minus the plain one, "models" for each model minus the
                first; both prompt by prompt, so the band is that of the mean difference.
        Returns:
            `model`, `condition`, `group`, `layer`, `mean`, `low`, `high`, `n`.
        Raises:
            LensError: a metric or contrast that is not known, or that this survey does not have.
        """
        k = self.k if k is None else k
        curves = curves_of(self.measured, metric, k, only_right=only_right, contrast=contrast, seed=seed)
        pd = import_pandas()
        parts = [
            pd.DataFrame(
                {
                    **each.part._asdict(),
                    "layer": each.layers,
                    "mean": each.mean,
                    "low": each.low,
                    "high": each.high,
                    "n": each.n,
                }
            )
            for each in curves
        ]
        return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()

    def arrivals(self, *, only_right: bool = False) -> Any:
        """How many prompts have their answer from which layer on, as a DataFrame.

        Returns:
            `model`, `condition`, `group`, `layer` (missing for prompts whose last layer lacks it), `n`.
        """
        pd = import_pandas()
        counts: list[dict[str, Any]] = []
        for part, found in parts_of(self.measured, only_right=only_right).items():
            arrived = [each.holds_from(self.k) for each in found]
            known = sorted({layer for layer in arrived if layer is not None})
            for layer in (*known, *([None] if None in arrived else [])):
                counts.append({**part._asdict(), "layer": layer, "n": arrived.count(layer)})
        table = pd.DataFrame(counts)
        return table.astype({"layer": "Int64"}) if counts else table

    def widget(self, **choices: Any) -> SurveyWidget:
        """The picture of the survey: curves, a column per prompt, and the live grid of one that is clicked.

        Args:
            choices: traits of a `SurveyWidget` or `LensWidget`, `curve="log_prob"` say.
        Raises:
            LensError: no prompt has numbers, or the survey was not made in this process.
        """
        return SurveyWidget(self, **choices)
