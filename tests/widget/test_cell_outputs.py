"""A cell that runs again closes what it showed before, in a real kernel."""

import json
from pathlib import Path

import pytest
from jupyter_client.manager import start_new_kernel

SUPPORT = Path(__file__).parents[1] / "support"
SETUP = f"""
import gc, sys, weakref
sys.path.insert(0, {str(SUPPORT)!r})
import comm, ipywidgets
from ipywidgets import HBox, Output, Tab, VBox
from lenswidget.widget.widget import LensWidget
from tiny import language_model

model, made = language_model(n_layer=1), weakref.WeakSet()

def Shown():
    made.add(widget := LensWidget(model, [1, 2]))
    return widget

n_comms = lambda: len(comm.get_comm_manager().comms)
n_open = lambda: sum(each.comm is not None for each in made)
n_alive = lambda: gc.collect() * 0 + len(made)

def page_says(output, *shown):
    # what the page sends once it has drawn an Output's content
    views = [dict(model_id=each.model_id, version_major=2, version_minor=0) for each in shown]
    data = [dict([(view_type, view)]) for view in views]
    said = [dict(output_type="display_data", metadata=dict(), data=each) for each in data]
    output.set_state(dict(outputs=said))

view_type = "application/vnd.jupyter.widget-view+json"
"""


class Kernel:
    def __init__(self, client):
        self.client = client

    def run(self, code, cell):
        """Executes as a front end does that names its cells; returns the printed text."""
        content = {"code": code, "silent": False, "store_history": True, "user_expressions": {}}
        message = self.client.session.msg("execute_request", {**content, "allow_stdin": False})
        message["metadata"] = {"cellId": cell} if cell else {}
        self.client.shell_channel.send(message)
        text = ""
        while True:
            got = self.client.get_iopub_msg(timeout=60)
            if got["parent_header"].get("msg_id") != message["header"]["msg_id"]:
                continue
            assert got["msg_type"] != "error", got["content"]
            text += got["content"].get("text", "") if got["msg_type"] == "stream" else ""
            if got["msg_type"] == "status" and got["content"]["execution_state"] == "idle":
                return text

    def value(self, expression):
        """What an expression is, evaluated in no cell, as a callback of a slider is."""
        return json.loads(self.run(f"import json; print(json.dumps({expression}))", cell=None))


@pytest.fixture(scope="module")
def kernel():
    manager, client = start_new_kernel()
    opened = Kernel(client)
    opened.run(SETUP, cell=None)
    yield opened
    client.stop_channels()
    manager.shutdown_kernel(now=True)
    manager.cleanup_resources()


def test_twenty_runs_of_a_cell_leave_as_many_comms_as_one(kernel):
    kernel.run("w = Shown(); w", cell="a")
    after_one = kernel.value("n_comms()")
    for _ in range(20):
        kernel.run("w = Shown(); w", cell="a")
    assert kernel.value("n_comms()") == after_one
    assert kernel.value("w.comm is not None")


def test_a_widget_that_another_cell_shows_stays_open(kernel):
    kernel.run("kept = Shown(); kept", cell="b")
    kernel.run("kept", cell="c")
    kernel.run("Shown()", cell="b")
    assert kernel.value("kept.comm is not None")
    kernel.run("1", cell="c")
    kernel.run("Shown()", cell="c")
    assert kernel.value("kept.comm is None")


def test_the_same_widget_shown_again_by_its_cell_stays_open(kernel):
    for _ in range(3):
        kernel.run("same = globals().get('same') or Shown(); same", cell="d")
    assert kernel.value("same.comm is not None")


def test_two_widgets_of_one_execution_both_stay_open(kernel):
    kernel.run("pair = [Shown(), Shown()]\nfor each in pair: display(each)", cell="e")
    assert kernel.value("[each.comm is not None for each in pair]") == [True, True]


def test_a_front_end_that_names_no_cells_has_nothing_closed(kernel):
    kernel.run("first = Shown(); first", cell=None)
    kernel.run("second = Shown(); second", cell=None)
    assert kernel.value("first.comm is not None and second.comm is not None")


@pytest.mark.parametrize(
    "show",
    ["VBox([Shown()])", "Tab([HBox([ipywidgets.IntSlider(), Shown()])])", "display(VBox([Shown()]))"],
)
def test_a_widget_in_a_box_is_closed_when_its_cell_has_run_again(kernel, show):
    cell = f"box {show}"
    kernel.run(show, cell=cell)
    after_one = kernel.value("n_open()")
    for _ in range(5):
        kernel.run(show, cell=cell)
    assert kernel.value("n_open()") == after_one


def test_a_widget_in_a_box_that_another_cell_shows_stays_open(kernel):
    kernel.run("inner = Shown(); box = VBox([inner]); inner", cell="f")
    kernel.run("box", cell="g")
    kernel.run("Shown()", cell="f")
    assert kernel.value("inner.comm is not None")
    kernel.run("box.children = ()", cell=None)  # to be put back, perhaps
    assert kernel.value("inner.comm is not None")
    kernel.run("box.children = (inner,)", cell=None)
    kernel.run("Shown()", cell="g")
    assert kernel.value("inner.comm is None")


def test_a_cell_that_runs_again_and_shows_none_leaves_open_what_a_name_still_holds(kernel):
    kernel.run("held = VBox([Shown()]); held", cell="h")
    kernel.run("held.children[0].k", cell="h")
    kernel.run("held", cell="i")
    assert kernel.value("held.children[0].comm is not None")
    kernel.run("Shown()", cell="h")
    assert kernel.value("held.children[0].comm is not None")


def test_a_new_output_in_the_same_cell_closes_what_was_in_the_old_one(kernel):
    code = "output = Output()\nwith output: display(Shown())\noutput"
    kernel.run(code, cell="j")
    after_one = kernel.value("n_open()")
    for _ in range(5):
        kernel.run(code, cell="j")
    assert kernel.value("n_open()") == after_one


def test_two_widgets_shown_one_after_the_other_in_an_output_both_stay_open(kernel):
    kernel.run("stack, pair = Output(), [Shown(), Shown()]; stack", cell="k")
    for i in range(2):
        kernel.run(f"with stack: display(pair[{i}])", cell="l")
    assert kernel.value("[each.comm is not None for each in pair]") == [True, True]


def test_each_move_of_a_slider_frees_the_widget_that_it_replaces(kernel):
    """`interactive_output`, whose function shows another widget each time; the page says what is shown."""
    kernel.run(
        "last = []\n"
        "def show(i):\n"
        "    last[:] = [Shown()]\n"
        "    display(last[0])\n"
        "slider = ipywidgets.IntSlider()\n"
        "output = ipywidgets.interactive_output(show, dict(i=slider))\n"
        "VBox([slider, output])",
        cell="m",
    )
    kernel.run("page_says(output, last[0])", cell=None)
    after_one = kernel.value("[n_alive(), n_comms()]")
    for i in range(1, 6):
        kernel.run(f"slider.value = {i}; page_says(output, last[0])", cell=None)
    assert kernel.value("[n_alive(), n_comms()]") == after_one


def test_a_widget_that_a_name_holds_can_be_shown_in_an_output_again(kernel):
    kernel.run("either, one, two = Output(), Shown(), Shown(); either", cell="n")
    for name in ("one", "two", "one", "two"):
        kernel.run(f"with either:\n    display({name})\npage_says(either, {name})", cell=None)
    assert kernel.value("[one.comm is not None, two.comm is not None]") == [True, True]
    kernel.run(
        "one.comm.handle_msg(dict(content=dict(data=dict(method='update', state=dict(k=3)))))", cell=None
    )
    assert kernel.value("one.k") == 3
