"""Running a recipe on top of an earlier run: the columns that both share are taken over."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lenswidget.anatomy.protocol import ReadableModel
from lenswidget.errors import LensError
from lenswidget.interventions.changes import Change, make_changes
from lenswidget.interventions.recipe import RunSpec
from lenswidget.interventions.shared_prefix import (
    is_ids_alone,
    shared_prefix,
    unshared_edits,
    untouched_cells,
)
from lenswidget.models.split_forward import (
    KeyPart,
    first_columns,
    gap_of,
    may_be_split,
)
from lenswidget.readout.capture import Capture, Captured
from lenswidget.readout.decoded import DecodedCells
from lenswidget.readout.kept import MOST_BYTES, Kept, kept_runs
from lenswidget.readout.reuse import WHOLE, Reuse
from lenswidget.readout.run import EMBED_SITE, Run
from lenswidget.readout.streams import Streams, as_streams
from lenswidget.tolerances import SPLIT_FORWARD

# Fewer columns in common than these are not worth a second look.
LEAST_COLUMNS = 2

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Grown:
    """What a run begins with, some of it from an earlier run.

    Attributes:
        streams: of `resid_post` with the embedding, `[rows, seq, d_model]`.
        own: the model's own logits of the last columns, `[n, d_vocab]`.
        kept: what later runs may take over, and the cells that need not be decoded again.
    """

    streams: Tensor | Streams
    own: Tensor
    reuse: Reuse = WHOLE
    kept: Kept | None = None


def grow(
    model: ReadableModel,
    spec: RunSpec,
    reuse: Run | Literal[False] | None,
    place: str,
    changes: Sequence[Change],
    progress: Callable[[int, int], None] | None,
) -> Grown:
    """Run a recipe, after the columns that it shares with an earlier run wherever that is right.

    Args:
        reuse: that run; False keeps nothing for later runs.
        place: where streams are kept, as for `LocalEngine`.
        changes: that the recipe's edits make.
    """
    hf_model, capture = model.hf_model, Capture(model, spec.prompt, place, changes)
    why_whole = ""
    if isinstance(reuse, Run):
        why_whole = _why_whole(model, spec)
        taken = None if why_whole else _Taken(model, spec, reuse, place, capture)
        if taken is not None and not (why_whole := taken.why_whole):
            grown = taken.run(progress)
            if grown is not None:
                if grown.kept is not None:
                    kept_runs(hf_model).add(grown.kept)
                return grown
            why_whole = "what was run again differs from the earlier run by more than rounding"
    keep_keys = (
        reuse is not False and is_ids_alone(spec) and may_be_split(hf_model, spec.prompt.seq, MOST_BYTES)
    )
    found = _with_keys(capture, progress) if keep_keys else None
    found = found or capture(EMBED_SITE, progress, want_logits=True)
    assert found.own is not None
    kept = None
    if found.keys is not None:
        kept = Kept((found.keys,), DecodedCells(spec.prompt.seq))
        kept_runs(hf_model).add(kept)
    return Grown(found.streams, found.own, Reuse(why_whole=why_whole), kept)


def _with_keys(capture: Capture, progress: Callable[[int, int], None] | None) -> Captured | None:
    """The whole prompt with its keys; None where the model's own code fails with a cache.

    In transformers 5.23 a Blenderbot's decoder alone gets a cache with as many layers as its encoder has.
    """
    try:
        return capture(EMBED_SITE, progress, want_logits=True, keep_keys=True)
    except LensError:
        raise
    except Exception:  # whatever it is, the model has to run without a cache, or raises again there
        return None


def most_shared(runs: Iterable[Run], spec: RunSpec, shown: Run | None = None) -> Run | None:
    """The run that shares most columns with a recipe, of several the first; None where none shares any.

    None as well where the run that is shown is of the very same recipe: who runs that again wants it run.
    """
    found, most = None, 0
    for run in runs:
        if run.kept is not None and run.kept.keys and run.is_current:
            n = shared_prefix(run.spec, spec)
            if run is shown and n == run.seq == spec.prompt.seq and not unshared_edits(run.spec, spec):
                return None
            found, most = (run, n) if n > most else (found, most)
    return found


def _why_whole(model: ReadableModel, spec: RunSpec) -> str:
    """Why a recipe is run whole on this model, whatever was run before; empty where it need not be."""
    split = model.anatomy.split
    if split.why_not:
        return split.why_not
    if not is_ids_alone(spec):
        return "the prompt is more than token ids"
    if split.longest is not None and spec.prompt.seq > split.longest:
        return f"the positions of all tokens turn with the length of a text of over {split.longest} tokens"
    return ""


class _Taken:
    """The columns of an earlier run that a recipe shares."""

    def __init__(self, model: ReadableModel, spec: RunSpec, old: Run, place: str, capture: Capture) -> None:
        self._model, self._spec, self._old, self._place, self._capture = model, spec, old, place, capture
        self._others = unshared_edits(old.spec, spec)
        # the last column is always run: the model's own logits come from there
        self.n = min(shared_prefix(old.spec, spec), spec.prompt.seq - 1)
        self.why_whole = self._refusal()

    def _refusal(self) -> str:
        old, spec = self._old, self._spec
        if old.tail.hf_model is not self._model.hf_model:
            return "the earlier run is one of another model"
        if not old.is_current:
            return "the model has changed since the earlier run"
        longest = self._model.anatomy.split.longest
        if longest is not None and old.seq > longest:
            return f"the earlier run is longer than {longest} tokens, which turns the positions of all"
        if self.n < LEAST_COLUMNS:
            return "it shares no columns with the earlier run"
        # such a run is run twice after its prefix, once without its edits
        if self._others and 2 * self.n < spec.prompt.seq:
            return "the edits begin in the first half of the prompt"
        if old.kept is None or old.kept.n_columns < self.n:
            return "the earlier run has kept no keys, or they were given up for later ones"
        return ""

    def run(self, progress: Any) -> Grown | None:
        """Run the rest; None where the last column taken over, run again, does not come out as it was."""
        n, old, kept = self.n, self._old, self._old.kept
        assert kept is not None
        parts = first_columns(kept.keys, n - 1)
        found = self._capture(EMBED_SITE, progress, want_logits=True, keep_keys=True, after=parts)
        assert found.own is not None
        before = as_streams(old.stream(EMBED_SITE)).first(n)
        again, there = found.streams[:, 0], before[-1][:, -1]
        bound = SPLIT_FORWARD.bound(1.0, found.streams.dtype)
        gap = gap_of(again, there.to(again.device))
        if not gap <= bound:
            return None
        rest, is_same = self._untouched(found, parts)
        # where a window has rolled over, nothing can be taken over from this run
        keys = () if found.keys is None else (*first_columns(kept.keys, n), found.keys.after(1))
        return Grown(
            Streams([*before, rest]),
            found.own[-(self._spec.prompt.seq - n) :],
            Reuse(old.id, n, gap, bound),
            Kept(keys, kept.decoded.handed_on(self._spec.prompt.seq, n, is_same)),
        )

    def _untouched(self, found: Captured, parts: Sequence[KeyPart]) -> tuple[Tensor, Mask | None]:
        """The streams of the columns after the prefix, and which cells have the earlier run's states.

        Where edits differ and the ids do not, cells that the edits cannot reach must be those of the earlier
        run. That one was run in other parts, so bits may differ: the rest is run once more without the edits,
        and cells that come out bit-equal there get the earlier run's states. Others keep their own, and the
        proof finds them.
        """
        own = found.streams[:, 1:].clone()
        old, spec, n = self._old, self._spec, self.n
        if not self._others or not torch.equal(old.token_ids, spec.prompt.column_ids):
            return own, None
        model, inputs = self._model, spec.prompt.model_inputs
        changes = make_changes(old.spec.edits, model, inputs)
        plain = Capture(model, spec.prompt, self._place, changes)(EMBED_SITE, after=parts)
        reachable = untouched_cells(self._others, spec, old.n_layers)
        is_equal = ((found.streams == plain.streams) | (found.streams.isnan() & plain.streams.isnan())).all(
            -1
        )
        is_same = reachable.copy()
        is_same[:, n:] &= is_equal[:, 1:].cpu().numpy()
        rows, columns = np.nonzero(is_same[:, n:])
        theirs = as_streams(old.stream(EMBED_SITE)).take(
            torch.from_numpy(rows), torch.from_numpy(columns + n)
        )
        own[torch.from_numpy(rows).to(own.device), torch.from_numpy(columns).to(own.device)] = theirs.to(
            own.device
        )
        return own, is_same
