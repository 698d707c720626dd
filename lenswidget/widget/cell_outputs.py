"""What is no longer on the page is let go: a cell that runs again, or an `Output` that is cleared.

Without this every run of a cell would leave a widget behind for good, with its comm, its model in the page
and the states of its run: ipywidgets keeps each widget alive until it is closed. Boxes and tabs are looked
into: what they hold is shown where they are.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import ipywidgets
from ipywidgets.widgets import widget as registry

VIEW = "application/vnd.jupyter.widget-view+json"


@dataclass
class _Cell:
    """What a cell shows.

    Attributes:
        execution: the last of the cell.
        shown: the ids of the widgets that it has shown.
        before: those of earlier executions, until this one shows a widget of ours.
    """

    execution: str = ""
    shown: set[str] = field(default_factory=set[str])
    before: set[str] = field(default_factory=set[str])


_cells: dict[str, _Cell] = {}
_in_output: weakref.WeakKeyDictionary[Any, set[str]] = weakref.WeakKeyDictionary()
_watched: weakref.WeakSet[Any] = weakref.WeakSet()
_hooked: weakref.WeakSet[Any] = weakref.WeakSet()


def watch(widget: Any) -> None:
    """Close this widget once the cell that shows it, by itself or in a box, has run again and shows another.

    A widget that another cell shows too stays open. A closed widget still answers Python; it is no longer
    drawn. Does nothing outside an IPython kernel, or where the front end does not name its cells.
    """
    _watched.add(widget)
    shell = _shell()
    if shell is not None and shell not in _hooked:
        _hooked.add(shell)
        shell.events.register("post_run_cell", _on_result)
        if hasattr(shell.display_pub, "register_hook"):  # not in a plain terminal
            shell.display_pub.register_hook(_on_display)


def note(widget: Any) -> None:
    """Note that a widget is shown here: in the running cell, or the `Output` that captures what is shown."""
    registry._instances.setdefault(widget.model_id, widget)  # pyright: ignore[reportPrivateUsage]
    output = _capturing()
    if output is not None:
        _follow(output).add(widget.model_id)
        return
    name, execution = _running_cell()
    if not name:
        return
    cell = _cells.setdefault(name, _Cell())
    if cell.execution != execution:
        cell.before |= cell.shown
        cell.execution, cell.shown = execution, set()
    cell.shown.add(widget.model_id)
    if cell.before and any(each in _watched for each in _reached({widget.model_id})):
        replaced = [each for each in _reached(cell.before) if each in _watched]
        cell.before = set()
        kept = _on_show()
        for each in replaced:
            if each not in kept:
                each.close()


def _on_display(message: Any) -> Any:
    """A hook of IPython's display: a box is shown."""
    view = message.get("content", {}).get("data", {}).get(VIEW)
    widget = registry._instances.get(view["model_id"]) if view else None  # pyright: ignore[reportPrivateUsage]
    if widget is not None:
        note(widget)
    return message


def _on_result(result: Any) -> None:
    """A cell has run: the value of its last line is shown, which is no display."""
    if isinstance(result.result, ipywidgets.DOMWidget) and result.result.comm is not None:
        note(result.result)


def _on_show() -> set[Any]:
    """All widgets that some cell shows."""
    return set(_reached({model_id for cell in _cells.values() for model_id in cell.shown | cell.before}))


def _reached(model_ids: Iterable[str]) -> Iterator[Any]:
    """The open widgets of these ids, and those that they hold."""
    instances: Mapping[str, Any] = registry._instances  # pyright: ignore[reportPrivateUsage]
    waiting = [instances[model_id] for model_id in model_ids if model_id in instances]
    seen: set[int] = set()
    while waiting:
        widget = waiting.pop()
        if id(widget) in seen:
            continue
        seen.add(id(widget))
        yield widget
        if isinstance(widget, ipywidgets.Output):
            waiting += [instances[each] for each in _follow(widget) if each in instances]
        elif widget not in _watched:
            waiting += [each for name in widget.keys for each in _widgets_in(getattr(widget, name))]


def _widgets_in(value: Any) -> Iterator[Any]:
    if isinstance(value, ipywidgets.Widget):
        yield value
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from _widgets_in(each)
    elif isinstance(value, dict):
        yield from _widgets_in(list(value.values()))


# --- Outputs


def _follow(output: Any) -> set[str]:
    """The ids of what an `Output` shows, kept up to date from here on."""
    if output not in _in_output:
        _in_output[output] = _mentioned(output.outputs)
        output.observe(_on_outputs, "outputs")
    return _in_output[output]


def _on_outputs(change: Any) -> None:
    """The page says what an `Output` shows now: what it showed before is let go."""
    shown = _mentioned(change["new"])
    gone = _mentioned(change["old"] or ()) - shown
    _in_output[change["owner"]] = (_in_output.get(change["owner"], set()) | shown) - gone
    kept = _on_show()
    instances: Any = registry._instances  # pyright: ignore[reportPrivateUsage]
    for model_id in gone:
        widget = instances.get(model_id)
        if widget in _watched and widget not in kept:
            _let_go(widget)


def _let_go(widget: Any) -> None:
    """Keep an open widget only as long as something else does, which may show it again; then it closes."""
    handle = weakref.WeakMethod(widget._handle_msg)

    def pass_on(message: Any) -> None:
        method = handle()
        if method is not None:
            method(message)

    widget.comm.on_msg(pass_on)
    registry._instances.pop(widget.model_id, None)  # pyright: ignore[reportPrivateUsage]


def _mentioned(outputs: Any) -> set[str]:
    """The ids of the widgets in an `Output`'s messages."""
    views = (output.get("data", {}).get(VIEW) for output in outputs)
    return {view["model_id"] for view in views if view}


def _capturing() -> Any:
    """The `Output` that takes what is shown now; None where the cell does."""
    shell = _shell()
    parent = shell.kernel.get_parent() if shell is not None else {}
    message_id = parent.get("header", {}).get("msg_id")
    if not message_id:
        return None
    instances: Any = registry._instances  # pyright: ignore[reportPrivateUsage]
    taking = [
        each
        for each in instances.values()
        if isinstance(each, ipywidgets.Output) and each.msg_id == message_id
    ]
    return taking[-1] if taking else None


def _running_cell() -> tuple[str, str]:
    """The ids of the running cell and of this execution of it; empty where there are none."""
    shell = _shell()
    parent = shell.kernel.get_parent() if shell is not None else {}
    return parent.get("metadata", {}).get("cellId", ""), parent.get("header", {}).get("msg_id", "")


def _shell() -> Any:
    """IPython's shell in a kernel, or None."""
    # not imported here: where it is not loaded, no cell runs
    ipython: Any = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return shell if getattr(shell, "kernel", None) is not None else None
