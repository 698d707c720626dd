"""Means over prompts by layer with their bands: of each part of a survey, or of differences within pairs."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from lenswidget.errors import LensError
from lenswidget.survey.measured import METRICS, Floats, Measured, Part

N_RESAMPLES, RESAMPLES_AT_ONCE = 1000, 50
# What is subtracted from what: the plain condition from the edited one, the first model from each other.
CONTRASTS = ("edits", "models")


class Curve(NamedTuple):
    """One part's mean over prompts, by layer.

    Attributes:
        part: whose; of a difference, its model or condition names both sides.
        layers: `[rows]`, -1 is the embedding.
        mean, low, high: `[rows]`; the band is the central 95 % of the bootstrap over prompts.
        n: how many prompts.
    """

    part: Part
    layers: npt.NDArray[np.int64]
    mean: Floats
    low: Floats
    high: Floats
    n: int


def parts_of(measured: Iterable[Measured], *, only_right: bool = False) -> dict[Part, list[Measured]]:
    """Those that have numbers, by part, in the order of their first prompts.

    Args:
        only_right: leave out prompts that the plain model does not answer rightly at its end.
    """
    measured = list(measured)
    right = {(each.row, each.model) for each in measured if each.condition == "plain" and each.is_right}
    parts: dict[Part, list[Measured]] = {}
    for each in measured:
        if not each.error and (not only_right or (each.row, each.model) in right):
            parts.setdefault(each.part, []).append(each)
    return parts


def contrasts_of(measured: Iterable[Measured]) -> list[str]:
    """The differences that a survey can show: models must have the same layers."""
    layers: dict[str, tuple[int, ...]] = {}
    conditions: set[str] = set()
    for each in measured:
        conditions.add(each.condition)
        if not each.error:
            layers.setdefault(each.model, tuple(each.layers.tolist()))
    found = ["edits"] if len(conditions) > 1 else []
    return [*found, "models"] if len(layers) > 1 and len(set(layers.values())) == 1 else found


def curves_of(
    measured: Sequence[Measured],
    metric: str,
    k: int,
    *,
    only_right: bool = False,
    contrast: str | None = None,
    seed: int = 0,
) -> list[Curve]:
    """The curve of each part, or of each difference.

    Args:
        metric: one of `METRICS`.
        k: for `pass`.
        only_right: see `parts_of`.
        contrast: None, or one of `CONTRASTS`: prompt by prompt, what has both sides.
        seed: of the bootstrap.
    Raises:
        LensError: a metric or contrast that is not known, or that the survey does not have.
    """
    if metric not in METRICS:
        raise LensError(f"Asked for curves of {metric!r:.40}. Name one of {', '.join(METRICS)}.")
    parts = parts_of(measured, only_right=only_right)
    if metric == "foil_difference" and any(
        each.foil_log_probs is None for found in parts.values() for each in found
    ):
        raise LensError("Asked for differences from a foil, but there was none: survey(..., foil=column).")
    values = {part: {each.row: each.values(metric, k) for each in found} for part, found in parts.items()}
    layers = {part.model: found[0].layers for part, found in parts.items()}
    if contrast is not None:
        possible = contrasts_of(measured)
        if contrast not in possible:
            raise LensError(
                f"Asked for the difference of {contrast!r:.40}; this survey has "
                f"{' and '.join(possible) or 'none'}. Survey with edits=, or models of the same layers."
            )
        values = _pairs(values, contrast)
    curves: list[Curve] = []
    for part, by_row in values.items():
        stacked = np.stack(list(by_row.values()))
        low, high = _band(stacked, seed)
        # differences of models are of models with the same layers
        rows = layers.get(part.model, next(iter(layers.values())))
        curves.append(Curve(part, rows, stacked.mean(0), low, high, len(stacked)))
    return curves


def _pairs(values: Mapping[Part, Mapping[int, Floats]], contrast: str) -> dict[Part, dict[int, Floats]]:
    """Of each part that has a counterpart, the differences of the prompts that both have."""
    first = next(iter(values)).model if values else ""
    found: dict[Part, dict[int, Floats]] = {}
    for part, ours in values.items():
        if contrast == "edits":
            base, named = part._replace(condition="plain"), part._replace(condition="edited − plain")
        else:
            base, named = part._replace(model=first), part._replace(model=f"{part.model} − {first}")
        theirs = values.get(base, {}) if base != part else {}
        both = {row: value - theirs[row] for row, value in ours.items() if row in theirs}
        if both:
            found[named] = both
    return found


def _band(values: Floats, seed: int) -> tuple[Floats, Floats]:
    """The 2.5th and 97.5th percentile of the mean over resampled prompts; of `values` `[n, rows]`."""
    generator, n = np.random.default_rng(seed), len(values)
    means: list[Floats] = []
    for start in range(0, N_RESAMPLES, RESAMPLES_AT_ONCE):
        size = min(RESAMPLES_AT_ONCE, N_RESAMPLES - start)
        # how often each prompt is drawn, instead of which: no copy of the values for each resample
        drawn = generator.integers(n, size=(size, n)) + n * np.arange(size)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=size * n).reshape(size, n)
        means.append(counts @ values / n)
    low, high = np.percentile(np.concatenate(means), [2.5, 97.5], axis=0)
    return low, high
