"""A cell that runs again replaces its output: the widgets that it showed before are closed.

Without this every run of a cell would leave a widget behind for good, with its comm, its model in the page
and the states of its run: ipywidgets keeps each widget alive until it is closed.
"""

from __future__ import annotations

import sys
from typing import Any
from weakref import WeakSet

# cell id -> (the execution that showed them, what it showed)
_shown: dict[str, tuple[str, WeakSet[Any]]] = {}


def note(widget: Any) -> None:
    """Note that the running cell shows a widget, and close what the same cell showed when it last ran.

    A widget that another cell shows too stays open. A closed widget still answers Python; it is no longer
    drawn. Does nothing outside an IPython kernel, or where the front end does not name its cells.
    """
    cell, execution = _running_cell()
    if not cell:
        return
    shown_by, widgets = _shown.get(cell, ("", WeakSet[Any]()))
    if shown_by != execution:
        replaced, widgets = widgets, WeakSet[Any]()
        _shown[cell] = (execution, widgets)
        still_shown = {id(other) for _, others in _shown.values() for other in others} | {id(widget)}
        for other in [each for each in replaced if id(each) not in still_shown]:
            # the layout is a widget of its own, with a comm of its own
            other.layout.close()
            other.close()
    widgets.add(widget)


def _running_cell() -> tuple[str, str]:
    """The ids of the running cell and of this execution of it; empty where there are none."""
    # not imported here: where it is not loaded, no cell runs
    ipython: Any = sys.modules.get("IPython")
    kernel = getattr(ipython.get_ipython(), "kernel", None) if ipython else None
    parent = kernel.get_parent() if kernel else {}
    return parent.get("metadata", {}).get("cellId", ""), parent.get("header", {}).get("msg_id", "")
