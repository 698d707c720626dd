#!/usr/bin/env bash
# A closed widget is never freed while its _esm or _css is a path; with the source as a string it is.
#
# Versions: anywidget 0.11.0, ipywidgets 8.1.9, Python 3.11, without live reload.
# One would guess: close() takes a widget out of the registry, so that with the last reference it goes, and with it
#   what its traits and attributes hold; how its source was given makes no difference.
# What happens: a path is watched by one FileContents object per class, and each instance connects a callback to its
#   `changed` signal, which holds the instance. The callback stays after close(), and also where live reload is off. So
#   each run of a cell keeps one more widget, and the model or arrays that it refers to. Instances of a class whose
#   _esm is a string, and plain ipywidgets, are freed.
# Where: anywidget/widget.py, AnyWidget.__init__: value.changed.connect for FileContents.
# So: read the files once and give strings (live reload aside), or let the widget hold its model weakly.
. "$(dirname "$0")/lib.sh"
packages anywidget==0.11.0 ipywidgets==8.1.9
python <<'END'
import gc
import pathlib
import weakref
import anywidget, ipywidgets

print("anywidget", anywidget.__version__, "ipywidgets", ipywidgets.__version__)
source, style = "export default { render() {} }", "p { margin: 0 }"
script, sheet = pathlib.Path("widget.js"), pathlib.Path("widget.css")
script.write_text(source)
sheet.write_text(style)


class Held:
    """Stands for a model."""


KINDS = {
    "_esm a path": dict(_esm=script),
    "_esm a string, _css a path": dict(_esm=source, _css=sheet),
    "both strings": dict(_esm=source, _css=style),
    "plain ipywidgets": None,
}
for label, fields in KINDS.items():
    base = ipywidgets.DOMWidget if fields is None else anywidget.AnyWidget
    cls = type("Cell", (base,), fields or {})
    widgets, models = [], []
    for _ in range(5):
        widget = cls()
        widget.held = Held()
        widgets.append(weakref.ref(widget))
        models.append(weakref.ref(widget.held))
        widget.layout.close()
        widget.close()
        del widget
    gc.collect()
    alive = [sum(ref() is not None for ref in refs) for refs in (widgets, models)]
    print(f"{label:28} of 5 closed widgets alive: {alive[0]}, of the objects they hold: {alive[1]}")
    assert alive == ([5, 5] if "path" in label else [0, 0])
END
