"""A second run that patches are taken from, and the map of what each patch does to the answer."""

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any

import numpy as np
import traitlets as t

from lenswidget.errors import Cancelled
from lenswidget.interventions.effects import CausalMap
from lenswidget.interventions.recipe import RunSpec
from lenswidget.models.encoded_prompt import prompt_of_state
from lenswidget.progress import Progress, drain, reporting
from lenswidget.widget.labels import Labels
from lenswidget.widget.packing import json_number, label_to_list
from lenswidget.widget.refusals import refused_together
from lenswidget.widget.requests import MapRequest, source_prompt
from lenswidget.widget.session import Session
from lenswidget.widget.turns import TakesTurns
from lenswidget.widget.view_traits import SHARED

# Between two pictures of a map that grows: so many seconds, and more where each takes longer to send.
UPDATE_S, CELLS_PER_S = 0.4, 5000
DIGITS = 5


class SourceTrait(t.Any):
    """The prompt that patches are taken from. Setting it runs it first; it is kept only if that went well."""

    def set(self, obj: Any, value: Any) -> None:
        """Run the prompt; the widget then calls `keep`."""
        with refused_together():
            obj._run_source(value)

    def keep(self, obj: Any, value: Any) -> None:
        """The prompt that was run; observers hear of it."""
        super().set(obj, value)


class PatchTraits(TakesTurns):
    """The source of patches, and the causal map that it gives."""

    _session: Session
    site: str

    source = SourceTrait(None)
    source_run = t.Dict(read_only=True).tag(**SHARED)
    source_snapshot = t.Dict(read_only=True).tag(**SHARED)
    causal = t.Dict(read_only=True).tag(**SHARED)

    def causal_map(
        self,
        source: Any = None,
        *,
        answer: Any,
        foil: Any = None,
        site: str | None = None,
        metric: str | None = None,
        ablate: str | None = None,
        progress: Progress = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> CausalMap:
        """Measure what each cell of the source does in the prompt that is shown, and colour the grid by it.

        Each cell is patched into the prompt that is shown, in turn, as `lenswidget.causal_map` does: 0 moves
        nothing, 1 all the way to what the source says. Edits of the run that is shown are left out.

        Args:
            source: the prompt that cells are taken from; `w.source` unless given.
            answer, foil, metric: as for `lenswidget.causal_map`.
            site: the widget's own unless given.
            ablate: "zero" or "mean", to remove cells instead.
            progress: called with `(cells done, cells in all)`; True shows a tqdm bar.
            cancelled: asked between batches; once it says True, `Cancelled` is raised, and the grid keeps
                what was measured.
        Returns:
            The map, with `estimate`, and `denoising` or `ablation`.
        Raises:
            EditError: prompts that do not go together, or an argument that is not known.
        """
        if source is not None:
            self.source = source
        asked = {
            "answer": answer,
            "foil": foil,
            "site": site or self.site,
            "metric": metric,
            "ablate": ablate,
        }
        with reporting(progress, "causal map", "cell") as report:

            def between(done: int, total: int) -> None:
                report(done, total)
                if cancelled is not None and cancelled():
                    raise Cancelled(f"The causal map was stopped after {done} of {total} cells.")

            return drain(self._in_turns(self._map_in_slices(asked)), between)

    def _run_source(self, prompt: Any) -> None:
        """Run the prompt that patches are taken from now; one that fails leaves everything as it was."""
        with self.hold_sync():
            message: Any = self._session.set_source(prompt)
            traits: dict[str, Any] = self.traits()
            given = None if prompt is None else self._session.spec_of(self._session.source).prompt.as_given
            traits["source"].keep(self, given)
            self.set_trait("source_run", message or {})
            self._keep_source_snapshot()
            # a map of patches is of the source that it was measured with
            if self.causal and self.causal["ablate"] is None:
                self.set_trait("causal", {})

    def _restore_source(self, recipe: Any) -> None:
        """The second prompt of a state, if it has one."""
        if isinstance(recipe, Mapping) and "source" in recipe:
            prompt, options = prompt_of_state(recipe["source"])
            self.source = RunSpec(self._session.encode(prompt, **options))

    def _keep_source_snapshot(self) -> None:
        """The second prompt's newest columns, so that a saved notebook has them."""
        self.set_trait(
            "source_snapshot", self._snapshot(self._session.source) if self._session.source else {}
        )

    def _snapshot(self, run_id: str | None = None) -> dict[str, Any]:
        raise NotImplementedError

    def _keep_map(self, spec: RunSpec) -> None:
        """Another run is shown: a map of another prompt goes."""
        if self.causal and self.causal["tokens"] != spec.prompt.column_ids.tolist():
            self.set_trait("causal", {})

    def _answer_patching(self, message: Mapping[str, Any]) -> Generator[tuple[int, int], None, Any]:
        """A request of the page about the source, or about the map; returns the reply's value."""
        if message.get("kind") == "source":
            self.source = source_prompt(message)
            return {"run_id": self._session.source or None}
        request = MapRequest.parse(message)
        asked = {
            "answer": request.answer,
            "foil": request.foil,
            "site": request.site,
            "ablate": request.ablate,
        }
        yield from self._map_in_slices(asked)
        return {}

    def _map_in_slices(self, asked: Mapping[str, Any]) -> Generator[tuple[int, int], None, CausalMap]:
        """The map in slices; the trait `causal` shows it as it grows, until another prompt is shown."""
        session = self._session
        growing = session.growing_map(**asked)
        self.set_trait("causal", {})
        prompt, source, shown_at = session.spec.prompt, session.source, 0.0

        def is_asked() -> bool:
            is_source = asked["ablate"] is not None or session.source == source
            return self._session is session and session.spec.prompt is prompt and is_source

        try:
            for done, total in growing.slices():
                if not is_asked():
                    raise Cancelled("The causal map was stopped: another prompt is shown.")
                value = growing.value
                pause = max(UPDATE_S, value.layers.size * value.positions.size / CELLS_PER_S)
                if value.estimate is not None and time.monotonic() - shown_at > pause:
                    self._show_map(value, source, is_done=False)
                    shown_at = time.monotonic()
                yield done, total
        finally:
            if is_asked() and growing.value.estimate is not None:
                self._show_map(growing.value, source, is_done=True)
        return growing.value

    def _show_map(self, value: CausalMap, source: str, *, is_done: bool) -> None:
        is_first = not self.causal
        with self.hold_sync():
            self.set_trait("causal", map_message(value, self._session.labels, source, is_done=is_done))
            if is_first:
                self.set_trait("view", "map")


def map_message(value: CausalMap, labels: Labels, source: str, *, is_done: bool) -> dict[str, Any]:
    """A map as the page takes it; `CausalInfo` in `traits.ts`. Cells that are not measured are None.

    Args:
        source: the id of the run that patches are taken from.
        is_done: whether no more cells will be measured.
    """
    into = value.clean_ids if value.corrupt_ids is None else value.corrupt_ids
    measured = value.ablation if value.ablate else value.denoising
    return {
        "tokens": into.tolist(),
        "site": value.site,
        "metric": value.metric,
        "answer": {"id": value.answer_id, "label": label_to_list(labels[value.answer_id])},
        "foil": None
        if value.foil_id is None
        else {"id": value.foil_id, "label": label_to_list(labels[value.foil_id])},
        "ablate": value.ablate,
        "source_id": None if value.ablate else source,
        "layers": value.layers.tolist(),
        "positions": value.positions.tolist(),
        "of_source": json_number(value.clean),
        "of_shown": json_number(value.clean if value.ablate else value.corrupt),
        "estimate": _listed(value.estimate),
        "measured": _listed(measured),
        "way": value.way,
        "is_done": is_done,
    }


def _listed(grid: Any) -> list[float | None]:
    """`[layers, positions]` row by row, with as many digits as a colour can show; None for NaN."""
    if grid is None:
        return []
    flat: Sequence[float] = np.asarray(grid).ravel().tolist()
    return [None if value != value else float(f"{value:.{DIGITS}g}") for value in flat]
