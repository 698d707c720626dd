"""A share of a survey, in a process of its own: some rows in, one result each out."""

from collections.abc import Callable, Sequence
from typing import Any

from lenswidget.lenses.lens import as_lens
from lenswidget.readout.local_engine import LocalEngine
from lenswidget.survey.measured import to_state
from lenswidget.survey.rows import SurveyRow
from lenswidget.survey.survey import survey
from lenswidget.versions import __version__

COLUMNS = {"prompt": "prompt", "target": "target", "foil": "foil", "group": "group"}


class SurveyWorker:
    """Measures rows with a model of its own.

    Args:
        load: gives a `LanguageModel`.
        options: of that.
    """

    def __init__(self, load: Callable[..., Any], options: dict[str, Any]) -> None:
        self._failed: Exception | None = None
        self._model: Any = None
        try:
            self._model = load(**options)
        except Exception as error:  # told to the client, who would else see an actor that died
            self._failed = error

    def hello(self) -> dict[str, Any]:
        """What a client must know of the model; or why there is none."""
        if self._failed is not None:
            return {"error": self._failed}
        return {"version": __version__, "name": LocalEngine(self._model).info().name}

    def measure(self, rows: Sequence[SurveyRow], asked: dict[str, Any]) -> list[dict[str, Any]]:
        """The results of some rows as `to_state` has them, in the order that `survey` gives.

        Args:
            rows: that are surveyed together.
            asked: `lens`, `site` and `edits`, as for `survey`; a lens of the model may be given by its name.
        """
        lens = asked["lens"]
        own = as_lens(self._model.lenses[lens]) if isinstance(lens, str) else lens
        given = [
            {"prompt": row.prompt, "target": list(row.targets), "foil": list(row.foils), "group": row.group}
            for row in rows
        ]
        columns: dict[str, Any] = {
            name: name for name in COLUMNS if name != "foil" or any(row.foils for row in rows)
        }
        options: dict[str, Any] = {**asked, "lens": own}
        found = survey(self._model, given, **columns, **options, progress=False)
        return [{**to_state(each), "row": rows[each.row].index} for each in found.measured]
