"""The surprise of the prompt's tokens, for the page to write out as text."""

from collections.abc import Generator
from typing import Any

import traitlets as t

from lenswidget.errors import Cancelled
from lenswidget.progress import drain
from lenswidget.readout.run import Run
from lenswidget.readout.spine import Spine, has_spine
from lenswidget.widget.packing import json_number
from lenswidget.widget.session import Session
from lenswidget.widget.view_traits import CHOICE, SHARED

# So many columns are decoded with a new run; more than that the page asks for, in slices, after its grid.
MOST_AT_ONCE = 32
DIGITS = 5
EMPTY: dict[str, Any] = {}


class SpineTraits(t.HasTraits):
    """The spine of the run that is shown. It is worked out only while it is open."""

    _session: Session
    _session_of_one: Session | None

    show_spine = t.Bool(False).tag(**CHOICE)
    spine = t.Dict(read_only=True).tag(**SHARED)
    has_spine = True

    def _keep_spine(self, run: Run) -> None:
        """Another run is shown: what is known of its tokens, where few are new; else the page will ask."""
        if (
            self.show_spine
            and self._may_have_spine(run)
            and self._session.n_without_spine(run) <= MOST_AT_ONCE
        ):
            self._set_spine(drain(self._session.spine(run)))
        else:
            self.set_trait("spine", EMPTY)

    def _spine_in_slices(self) -> Generator[tuple[int, int], None, dict[str, Any]]:
        """The page asks for the spine of the run that is shown; the trait has it before the reply."""
        run = self._session.run
        if self._may_have_spine(run):
            found = yield from self._session.spine(run)
            if self._session.shown != run.id:
                raise Cancelled("Another run is shown.")
            self._set_spine(found)
        return {}

    def packed_spine(self) -> dict[str, Any]:
        """The spine as the page takes it, for an exported file; empty where a run has none."""
        run = self._session.run
        if not self._may_have_spine(run):
            return EMPTY
        return spine_message(drain(self._session.spine(run)))

    def _may_have_spine(self, run: Run) -> bool:
        return self.has_spine and self._session_of_one is None and has_spine(run.model)

    def _set_spine(self, found: Spine) -> None:
        self.set_trait("spine", spine_message(found))

    @t.observe("show_spine")
    def _on_show_spine(self, _change: Any) -> None:
        if self._session.shown and not self.spine:
            self._keep_spine(self._session.run)


def spine_message(found: Spine) -> dict[str, Any]:
    """A spine as the page takes it; `SpineInfo` in `traits.ts`. What is not known is None."""
    return {
        "run_id": found.run_id,
        "surprise": [_rounded(value) for value in found.surprise_nats.tolist()],
        "entropy": [_rounded(value) for value in found.entropy_nats.tolist()],
    }


def _rounded(value: float) -> float | str | None:
    """With as many digits as are shown: text of an infinity, as JSON has none."""
    if value != value:
        return None
    found = json_number(value)
    return found if isinstance(found, str) else float(f"{found:.{DIGITS}g}")
