"""Campaigns in a real kernel: interrupts during a page's requests, and cells that run again."""

import json
import queue
import random
import time
from collections import Counter
from pathlib import Path

from jupyter_client.manager import start_new_kernel

SETUP = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import ipywidgets, json
from tiny import PROMPT, gpt2, language_model
from torture import figures
from lenswidget.widget.widget import LensWidget
model = language_model(gpt2, n_layer=12)
def show(i):
    display(LensWidget(model, PROMPT))
"""
# One of each way in which a cell shows a widget.
SHOWN = {
    "by itself": "LensWidget(model, PROMPT)",
    "displayed": "display(LensWidget(model, PROMPT))",
    "in a box": "ipywidgets.VBox([LensWidget(model, PROMPT)])",
    "in a tab": "ipywidgets.Tab([LensWidget(model, PROMPT)])",
    "in an Output": "out = ipywidgets.Output()\nwith out: display(LensWidget(model, PROMPT))\nout",
    "interactive_output": "ipywidgets.interactive_output(show, dict(i=ipywidgets.IntSlider()))",
}
# Without what IPython's own history of outputs holds, which is up to a thousand values.
OURS = """(lambda _: {
    **figures(),
    "ours": sum(isinstance(w, LensWidget) for w in ipywidgets.widgets.widget._instances.values()),
})(get_ipython().run_line_magic("reset", "-f out"))"""


class Kernel:
    """A kernel with a small model in it, asked as a front end asks."""

    def __enter__(self):
        self.manager, self.client = start_new_kernel()
        self.run(SETUP)
        return self

    def __exit__(self, *_):
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)
        self.manager.cleanup_resources()

    def send(self, kind, content, metadata=None):
        message = self.client.session.msg(kind, content)
        message["metadata"] = metadata or {}
        self.client.shell_channel.send(message)
        return message["header"]["msg_id"]

    def run(self, code, cell=None):
        """Executes in a cell, or in none; the printed text."""
        content = {"code": code, "silent": False, "store_history": cell is not None, "allow_stdin": False}
        asked = self.send(
            "execute_request", {**content, "user_expressions": {}}, {"cellId": cell} if cell else {}
        )
        text = ""
        while True:
            got = self.client.get_iopub_msg(timeout=120)
            if got["parent_header"].get("msg_id") != asked:
                continue
            assert got["msg_type"] != "error", got["content"]["traceback"]
            text += got["content"].get("text", "") if got["msg_type"] == "stream" else ""
            if got["msg_type"] == "status" and got["content"]["execution_state"] == "idle":
                return text

    def value(self, expression):
        text = self.run(f"print('<<<' + json.dumps({expression}))")
        return json.loads(text.partition("<<<")[2])  # what is said before it is IPython's

    def replies(self, request_id, timeout_s):
        """How many replies a request gets until the kernel is idle again and has answered a ping."""
        found, end = 0, time.monotonic() + timeout_s
        while time.monotonic() < end:
            try:
                got = self.client.get_iopub_msg(timeout=0.2)
            except queue.Empty:
                if found:
                    return found
                continue
            custom = (got["content"].get("data") or {}).get("content") or {}
            found += custom.get("id") == request_id and "kind" not in custom
        return found


def interrupts(n, seed=0):
    """`n` requests of a page, each interrupted at some moment: one reply each, and the kernel goes on."""
    rng, found = random.Random(seed), Counter()
    with Kernel() as kernel:
        kernel.run("w = LensWidget(model, PROMPT); w", cell="a")
        comm_id, run_id, seq = kernel.value("[w.comm.comm_id, w.run['id'], len(w.run['tokens'])]")
        cell = {"layer": 3, "position": 1, "site": "resid_post", "lens": "logit", "k": 5, "track": []}
        read = {**cell, "layers": list(range(12)), "positions": list(range(seq)), "k": 100, "metrics": ["kl"]}
        for i in range(n):
            kind = rng.choice(["read", "read", "decode", "run", "search", "code"])
            fields = {"read": read, "decode": cell, "code": cell}.get(kind, {})
            fields = {**fields, "text": "a", "prompt": f"The city {i}"}
            run_id = run_id if kind != "run" else ""
            content = {"id": f"r{i}", "kind": kind, "run_id": kernel.value("w.run['id']"), **fields}
            kernel.send("comm_msg", {"comm_id": comm_id, "data": {"method": "custom", "content": content}})
            time.sleep(rng.uniform(0, 0.03))
            kernel.manager.interrupt_kernel()
            got = kernel.replies(f"r{i}", 5)
            found["ok" if got == 1 else f"{got} replies to {kind}"] += 1
        kernel.run("w.prompt = PROMPT; w.selection = dict(layer=1, position=1)")
        agrees = kernel.value("w.run['id'] == w._session.shown == w.decoded['run_id']")
        found["the widget as it should be afterwards"] += agrees
        found["lock or hooks left"] += kernel.value("len(model.lock._holders)")
    return found


def reruns(how, n):
    """A cell that shows a widget run `n` times; the figures after a tenth of them, and after all."""
    with Kernel() as kernel:
        before = None
        for i in range(n):
            kernel.run(SHOWN[how], cell="a")
            if i + 1 == max(1, n // 10):
                before = kernel.value(OURS)
        return before, kernel.value(OURS)


def moves(n):
    """A slider of `interactive_output` moved `n` times, the page saying what is shown after each."""
    with Kernel() as kernel:
        kernel.run("slider = ipywidgets.IntSlider(max=10**6)", cell="a")
        kernel.run(
            "last = []\n"
            "def show(i):\n"
            "    last[:] = [LensWidget(model, PROMPT).model_id]\n"
            "    display(ipywidgets.widgets.widget._instances[last[0]])\n"
            "def page_says():\n"
            "    view = {'application/vnd.jupyter.widget-view+json': {'model_id': last[0]}}\n"
            "    said = {'output_type': 'display_data', 'data': view, 'metadata': {}}\n"
            "    out.set_state({'outputs': [said]})\n"
            "out = ipywidgets.interactive_output(show, dict(i=slider))\n"
            "out",
            cell="b",
        )
        before = None
        for i in range(n):
            kernel.run(f"slider.value = {i + 1}; page_says()")
            if i + 1 == max(1, n // 10):
                before = kernel.value(OURS)
        return before, kernel.value(OURS)
