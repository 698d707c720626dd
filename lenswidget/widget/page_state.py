"""Traits that the page sets are checked before they change anything: a page is not to be believed."""

import os
from pathlib import Path
from typing import Any

import anywidget
import traitlets as t

from lenswidget.errors import LensError
from lenswidget.widget.tasks import ErrorMessage, error_message

# What a page sets besides a person's choices: how many views it has, where that is counted.
OF_THE_PAGE = frozenset({"_view_count"})

STATIC = Path(__file__).parent.parent / "static"


def source_of(name: str) -> str | Path:
    """A file of the bundle, as its text; with live reload (`ANYWIDGET_HMR=1`) its path, which is watched.

    anywidget keeps every widget whose source is a path, closed or not, with its model and its lenses.
    """
    path = STATIC / name
    return path if os.environ.get("ANYWIDGET_HMR") == "1" else path.read_text(encoding="utf-8")


class PageState(anywidget.AnyWidget):
    """A widget whose traits keep their values where the page sends one that does not fit."""

    def set_state(self, sync_data: dict[str, Any]) -> None:
        """Take traits from the page. One that is refused stays as it is in Python.

        The page is told why (`{"kind": "refused", "name": ..., "error": ...}`), and what the value is.
        """
        taken: dict[str, Any] = {}
        refused: dict[str, ErrorMessage] = {}
        for name, value in sync_data.items():
            try:
                self._check_from_page(name, value)
                taken[name] = value
            except Exception as error:
                refused[name] = error_message(error)
                if name in self.keys:
                    taken[name] = getattr(self, name)  # the page waits for an echo of each
        super().set_state(taken)
        for name, error in refused.items():
            # the name as the page wrote it, but for what no message can carry
            sent = str(name).encode("ascii", "backslashreplace").decode()
            self.send({"kind": "refused", "name": sent, "error": error})
            if name in self.keys:
                self.send_state(name)

    def _check_from_page(self, name: str, value: Any) -> None:
        """Refuse a value before it is set: traitlets keeps one that is refused by an error not its own."""
        trait = self.traits().get(name)
        if trait is None or not (trait.metadata.get("is_choice") or name in OF_THE_PAGE):
            raise LensError(f"The page set {name!r}, which only the kernel sets.")
        if isinstance(value, bool) is not isinstance(trait, t.Bool):
            raise LensError(f"The page set {name!r} to {value!r}. Send a value of the trait's own kind.")
        trait._validate(self, value)  # pyright: ignore[reportPrivateUsage]
