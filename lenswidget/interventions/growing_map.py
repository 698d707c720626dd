"""A causal map that is watched while it is measured: its estimate at once, its cells coarse to fine."""

from collections.abc import Generator
from typing import Any

from lenswidget.anatomy.protocol import ReadableModel
from lenswidget.errors import EditError
from lenswidget.interventions.effects import CausalMap
from lenswidget.interventions.map_request import MapRequest
from lenswidget.interventions.mapper import Mapper
from lenswidget.models.facts import facts_of, held


class GrowingMap:
    """One map of patches into a prompt, or of removals from it, in slices.

    Args:
        model: a `LanguageModel`.
        into: the prompt that is changed.
        source: the prompt that cells are taken from; None where they are removed.
        answer, foil, site, metric, ablate: as for `lenswidget.causal_map`.
    Raises:
        EditError: as `lenswidget.causal_map`.
    """

    def __init__(
        self,
        model: ReadableModel,
        into: Any,
        source: Any = None,
        *,
        answer: Any,
        foil: Any = None,
        site: str = "resid_post",
        metric: str | None = None,
        ablate: str | None = None,
    ) -> None:
        self._model = model
        clean, corrupt = (into, None) if source is None else (source, into)
        measure = ["estimate", "denoising" if ablate is None else "ablation"]
        asked = MapRequest.checked(
            model, clean, corrupt, answer, foil, site, metric, ablate, measure, None, None
        )
        self._mapper = Mapper(model, asked, is_growing=True)

    @property
    def value(self) -> CausalMap:
        """The map as far as it is measured: `estimate`, `denoising` or `ablation`; NaN where it is not."""
        return self._mapper.value()

    def slices(self) -> Generator[tuple[int, int], None, CausalMap]:
        """Measure it; yields `(cells done, cells in all)`. The model's lock is free between two slices.

        Raises:
            EditError: prompts that say the same of the answer, or a model that has changed meanwhile.
        """
        hf_model = self._model.hf_model
        _ = self._model.anatomy  # found before the model is taken for unchanged
        n_changes = facts_of(hf_model).fingerprint()
        steps = self._mapper.steps()
        while True:
            if facts_of(hf_model).fingerprint() != n_changes:
                raise EditError("The model has changed while the map was measured. Ask for the map again.")
            with held(hf_model):
                step = next(steps, None)
            if step is None:
                return self.value
            yield step
