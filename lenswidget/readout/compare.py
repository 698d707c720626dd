"""Two prompts, two models, or one with its adapter on and off: run both, and read what belongs together."""

import contextlib
import warnings
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import nn

from lenswidget.anatomy.protocol import ReadableModel
from lenswidget.errors import FidelityWarning, LensError, ModelError
from lenswidget.lenses.lens import LensLike, as_lens, covered_layers
from lenswidget.models.token_ids import token_id
from lenswidget.progress import Progress, reporting
from lenswidget.readout.alignment import MISSING, Alignment, align
from lenswidget.readout.cells import Cells
from lenswidget.readout.compared import Array, Comparison, Side
from lenswidget.readout.local_engine import LocalEngine
from lenswidget.readout.query import Query
from lenswidget.readout.reading import read_query
from lenswidget.readout.run import EMBED_SITE, Run

# Names of a readout's arrays, and those of the reference in the same readout.
_OWN = ("ids", "log_probs", "tracked_log_probs", "tracked_ranks")


def compare(
    *given: Any,
    lens: LensLike = None,
    site: str = EMBED_SITE,
    k: int = 5,
    track: Iterable[Any] = (),
    progress: Progress = None,
    cancelled: Callable[[], bool] | None = None,
) -> Comparison:
    """What differs between two runs, in the cells that belong together.

    Columns are aligned by token ids: equal stretches together, a stretch that was replaced by as many tokens
    place by place, all others missing on one side. Where the vocabularies differ, columns go together whose
    tokens end at the same character of one text, top tokens are compared as texts, and there is no KL. Rows
    go together by relative depth.

    Args:
        given: a model and two prompts; two models and one prompt; two runs; or a model that has an adapter
            and one prompt, which is run with the adapter off (a) and on (b).
        lens: how states are carried to the tail; None is the logit lens.
        site: what is read.
        k: how many top tokens of each cell.
        track: tokens whose log-prob and rank are wanted, as texts that are one token, or ids.
        progress: called with `(cells done, cells in all)`; True shows a tqdm bar.
        cancelled: asked between slices; once it says True, `Cancelled` is raised.
    Raises:
        LensError: anything else was given.
        ModelError: a model that has no adapter, or one whose adapter is merged or changes the unembed.
        PromptError: a prompt that a model cannot take, or columns that cannot be aligned.
        CellError: a token that is not one of the vocabulary.
    Warns:
        FidelityWarning: a run's last row is not the model's own logits.
    """
    pair = _pair(given)
    a, b = pair.a, pair.b
    if pair.by_adapter:
        _check_tail(pair)
    reason = _why_no_kl(a, b)
    alignment = align(a, b, site, by_ids=reason is None)
    carried = [covered_layers(as_lens(lens), run.n_layers) for run in (a, b)]
    rows = [row for row in alignment.rows.tolist() if row[0] in carried[0] and row[1] in carried[1]]
    alignment = Alignment(
        alignment.columns, alignment.is_same_token, np.array(rows, np.int64).reshape(-1, 2), alignment.by
    )
    tracked = _tracked(track, a, b, share_ids=reason is None)
    reader = _Reader(a, b, alignment, {"lens": lens, "site": site, "k": k}, tracked)
    with reporting(progress, "comparison", "cell") as report:
        found = reader.read(report, cancelled, together=reason is None)
    if not b.fidelity.ok:  # the readout of the first says so for its own
        complaint = b.fidelity.complaint(b.model.name)
        warnings.warn(f"{complaint} Do not trust these numbers.", FidelityWarning, stacklevel=2)
    is_missing = (reader.positions == MISSING).any(1)
    sides = [
        Side(
            name=pair.names[i],
            run_id=run.id,
            layers=reader.layers[:, i],
            positions=reader.positions[:, i],
            tracked_ids=np.array(tracked[i], np.int64),
            tokenizer=run.tokenizer,
            **{name: found[i, name] for name in _OWN},
        )
        for i, run in enumerate((a, b))
    ]
    tops = [side.ids[:, 0] if reason is None else side.tokens() for side in sides]
    is_known = (sides[0].ids[:, 0] >= 0) & (sides[1].ids[:, 0] >= 0)
    return Comparison(
        a=sides[0],
        b=sides[1],
        alignment=alignment,
        site=site,
        lens=as_lens(lens).name,
        is_missing=is_missing,
        agrees=np.where(is_known, tops[0] == tops[1], np.nan).astype(np.float64),
        kl_to_b=found.get((0, "kl_to_reference")),
        kl_to_a=found.get((0, "kl_from_reference")),
        js=found.get((0, "js_reference")),
        why_no_kl=reason,
    )


@dataclass(frozen=True)
class _Pair:
    """Two runs, what sets them apart, and whether an adapter does."""

    a: Run
    b: Run
    names: tuple[str, str]
    by_adapter: bool = False


def _pair(given: Sequence[Any]) -> _Pair:
    match given:
        case (Run() as a, Run() as b):
            by_model = a.tail is not b.tail
            names = [run.model.name if by_model else repr(run.prompt)[:60] for run in (a, b)]
            return _Pair(a, b, (names[0], names[1]))
        case (ReadableModel() as one, ReadableModel() as other, prompt):
            runs = [LocalEngine(model).run(_prompt(prompt)) for model in (one, other)]
            return _Pair(runs[0], runs[1], (runs[0].model.name, runs[1].model.name))
        case (ReadableModel() as model, prompt):
            engine = LocalEngine(model)
            with model.lock:
                with _adapter_off(model.hf_model):
                    off = engine.run(_prompt(prompt))
                return _Pair(off, engine.run(off.spec), ("adapter off", "adapter on"), by_adapter=True)
        case (ReadableModel() as model, one, other):
            engine = LocalEngine(model)
            runs = [engine.run(_prompt(prompt)) for prompt in (one, other)]
            return _Pair(runs[0], runs[1], (repr(runs[0].prompt)[:60], repr(runs[1].prompt)[:60]))
        case _:
            kinds = ", ".join(type(each).__name__ for each in given) or "nothing"
            raise LensError(
                f"Asked to compare {kinds}. Pass a model and two prompts, two models and one prompt, two "
                "runs, or a model with an adapter and one prompt."
            )


def _prompt(prompt: Any) -> Any:
    """A prompt as `LocalEngine.run` takes it."""
    if isinstance(prompt, (Run, ReadableModel)):
        raise LensError(
            f"Asked to compare a {type(prompt).__name__} as if it were a prompt. Pass two runs alone, or "
            "models and a prompt."
        )
    return prompt


@contextlib.contextmanager
def _adapter_off(hf_model: nn.Module) -> Generator[None, None, None]:
    """The model without its adapter; which of its weights are trained is put back afterwards."""
    # what peft's layers have in common, of whatever method and however they came into the model
    layers: list[Any] = [
        module
        for module in hf_model.modules()
        if callable(getattr(module, "enable_adapters", None))
        and hasattr(module, "active_adapters")
        and hasattr(module, "merged")
    ]
    off = getattr(hf_model, "disable_adapter", None)
    if not layers and not callable(off):
        raise ModelError(
            f"Asked to compare {type(hf_model).__name__} with its adapter on and off, and it has none. Pass "
            "two prompts, or another model."
        )
    if any(layer.merged for layer in layers):
        raise ModelError(
            "Asked to compare a model with its adapter on and off, and it is merged into the weights. "
            "Unmerge it first: hf_model.unmerge_adapter()."
        )
    if any(getattr(layer, "disable_adapters", False) is True for layer in layers):
        raise ModelError(
            "Asked to compare a model with its adapter on and off, and it is off. Switch it on first: "
            "hf_model.enable_adapter_layers()."
        )
    trained = {parameter: parameter.requires_grad for parameter in hf_model.parameters()}
    try:
        if callable(off):
            with off():  # pyright: ignore[reportGeneralTypeIssues]
                yield
        else:
            for layer in layers:
                layer.enable_adapters(False)
            try:
                yield
            finally:
                for layer in layers:
                    layer.enable_adapters(True)
    finally:
        for parameter, is_trained in trained.items():
            parameter.requires_grad_(is_trained)


def _why_no_kl(a: Run, b: Run) -> str | None:
    """None where an id is the same token in both runs."""
    one, other = a.tokenizer, b.tokenizer
    if a.d_vocab == b.d_vocab:
        if one is other or one is None or other is None:
            return None
        if one.get_vocab() == other.get_vocab():
            return None
    found = (
        f"{a.d_vocab} and {b.d_vocab} tokens" if a.d_vocab != b.d_vocab else "other tokens for the same ids"
    )
    return (
        f"There is no KL between {a.model.name} and {b.model.name}, whose vocabularies differ ({found}): "
        "compare top tokens, or models of one vocabulary."
    )


def _tracked(track: Iterable[Any], a: Run, b: Run, *, share_ids: bool) -> tuple[list[int], list[int]]:
    listed: list[Any] = [track] if isinstance(track, (str, int)) else list(track)
    if not share_ids and any(not isinstance(token, str) for token in listed):
        raise LensError(
            f"Asked to track the ids {listed!r:.60} in two vocabularies. Give texts that are one token "
            "in both."
        )
    own = [token_id(token, a.tokenizer, a.d_vocab) for token in listed]
    if share_ids:
        return own, own
    return own, [token_id(token, b.tokenizer, b.d_vocab) for token in listed]


class _Reader:
    """Reads all cells of two aligned runs: those of both together, the others of the one that has them."""

    def __init__(
        self,
        a: Run,
        b: Run,
        alignment: Alignment,
        options: dict[str, Any],
        tracked: tuple[list[int], list[int]],
    ) -> None:
        self._runs, self._options, self._tracked = (a, b), options, tracked
        n_rows, n_columns = len(alignment.rows), len(alignment.columns)
        self.layers = np.repeat(alignment.rows, n_columns, axis=0)
        self.positions = np.tile(alignment.columns, (n_rows, 1))

    def read(self, report: Any, cancelled: Any, *, together: bool) -> dict[tuple[int, str], Array]:
        """By side and name of the array; the divergences are under side 0."""
        has = self.positions != MISSING
        both = has.all(1) if together else np.zeros(len(has), bool)
        parts = [(0, both), (0, has[:, 0] & ~both), (1, has[:, 1] & ~both)]
        total = sum(int(places.sum()) for _, places in parts)
        found: dict[tuple[int, str], Array] = {}
        done = 0
        for side, places in parts:
            is_pair = together and places is both
            query = self._query(side, places, is_pair=is_pair)
            start = done
            readout = read_query(
                query,
                progress=lambda n, _, start=start: report(start + n, total),
                cancelled=cancelled,
                stacklevel=4,
            )
            done += len(readout)
            for name in _OWN:
                self._put(found, side, name, places, getattr(readout, name))
            if is_pair:
                for name in _OWN:
                    self._put(found, 1, name, places, getattr(readout, f"reference_{name}"))
                for name in ("kl_to_reference", "kl_from_reference", "js_reference"):
                    self._put(found, 0, name, places, getattr(readout, name))
        return found

    def _query(self, side: int, places: Array, *, is_pair: bool) -> Query:
        cells = [Cells(self.layers[places, i], np.maximum(self.positions[places, i], 0)) for i in (0, 1)]
        query = Query(self._runs[side], cells[side], track=self._tracked[side], **self._options)
        if not is_pair:
            return query
        return replace(query, against=self._runs[1], against_cells=cells[1], metrics=("js",))

    def _put(
        self, found: dict[tuple[int, str], Array], side: int, name: str, places: Array, values: Array
    ) -> None:
        """Some cells' values among all; those that nobody fills are NaN, or -1."""
        key = (side, name)
        if key not in found:
            is_float = values.dtype.kind == "f"
            shape = (len(self.layers), *values.shape[1:])
            found[key] = np.full(shape, np.nan if is_float else MISSING, np.float64 if is_float else np.int64)
        found[key][places] = values


def _check_tail(pair: _Pair) -> None:
    """Both runs are decoded by the model as it is now, with its adapter: that must be right for either."""
    if not (pair.a.fidelity.ok and pair.b.fidelity.ok):
        raise ModelError(
            f"The adapter of {pair.a.model.name} changes its unembed or final norm too, so what it says "
            "without can only be read by a second copy. Load one, and pass both models."
        )
