"""A cell that runs again closes what it showed before, in a real kernel."""

import json

import pytest
from jupyter_client.manager import start_new_kernel

SETUP = """
import comm, ipywidgets
from lenswidget.widget import cell_outputs

class Shown(ipywidgets.DOMWidget):
    def _repr_mimebundle_(self, **kwargs):
        cell_outputs.note(self)
        return super()._repr_mimebundle_(**kwargs)

n_comms = lambda: len(comm.get_comm_manager().comms)
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
