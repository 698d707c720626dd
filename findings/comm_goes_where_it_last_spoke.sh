#!/usr/bin/env bash
# Whether a widget's message waits for the running cell depends on who made the widget send something last.
#
# Versions: ipykernel 7.4.0, jupyterlab 4.6.6, jupyter_client 8.10.0, ipywidgets 8.1.9, Python 3.11.
# One would guess: either a kernel does one thing at a time and a page's message waits for the cell, or, as JupyterLab's
#   setting commsOverSubshells is "perCommTarget" by default, all widgets' messages are handled on a subshell's thread.
# What happens: the kernel routes a message by its comm, not by its header: to where the comm last sent from. A widget
#   that a cell made, or set, gets its next message on the main thread, after the cell. What is sent in answer to that
#   message names the subshell, so the messages after it are handled on another thread, in the middle of a running
#   cell, and see what it has half done; until a cell sets a trait again. A trait that such a handler sets while the
#   cell is inside `hold_sync` is not sent before the cell leaves it: the flag is the widget's, not the thread's.
# Where: ipykernel/comm/comm.py, publish_msg and _reply_subshell_for; kernelbase.py, shell_channel_thread_main;
#   jupyterlab's schema @jupyterlab/apputils-extension/kernels-settings; ipywidgets' Widget.hold_sync.
# So: expect either thread, try both, and put one lock around what a widget's handlers and its traits share.
. "$(dirname "$0")/lib.sh"
packages jupyterlab==4.6.6 ipykernel==7.4.0 jupyter_client==8.10.0 ipywidgets==8.1.9
python 2>/dev/null <<'END'
import json, pathlib, sys, time

from jupyter_client.manager import start_new_kernel

schema = pathlib.Path(sys.prefix, "share/jupyter/lab/schemas/@jupyterlab/apputils-extension/kernels-settings.json")
default = json.loads(schema.read_text())["properties"]["commsOverSubshells"]["default"]
print("jupyterlab's commsOverSubshells:", default)
assert default == "perCommTarget"

SETUP = """
import threading, time, ipywidgets
seen, half = [], [0, 0]
w = ipywidgets.IntText(0)
def handle(widget, content, buffers):
    seen.append((tuple(half), "main" if threading.current_thread() is threading.main_thread() else "other"))
    if content.get("set"):
        w.value = content["set"]
    w.send("an answer")
w.on_msg(handle)
"""
CELL = "half[:] = 1, 0; time.sleep(2); half[:] = 1, 1"
SETS = "w.value += 1; " + CELL
HELD = "with w.hold_sync():\n    time.sleep(2)\n    print('held until here', flush=True)"

manager, client = start_new_kernel()
try:
    def run(code, outputs=None):
        client.execute_interactive(code, timeout=60, output_hook=(outputs if outputs is not None else []).append)

    def value(expression):
        outputs = []
        run(f"print({expression})", outputs)
        return eval("".join(m["content"].get("text", "") for m in outputs))

    def send(**content):
        message = client.session.msg("comm_msg", {"comm_id": comm_id, "data": {"method": "custom", "content": content}})
        message["header"]["subshell_id"] = subshell_id
        client.shell_channel.send(message)

    def during(cell):
        run("half[:] = 0, 0; seen.clear()")
        client.execute(cell)
        time.sleep(0.7)
        send()
        time.sleep(3)
        return value("seen")

    run(SETUP)
    comm_id = value("repr(w.comm.comm_id)")
    client.control_channel.send(client.session.msg("create_subshell_request", {}))
    subshell_id = client.get_control_msg(timeout=60)["content"]["subshell_id"]
    expected = {"first": (CELL, (1, 1), "main"), "second": (CELL, (1, 0), "other"), "third": (CELL, (1, 0), "other"),
                "the cell sets a trait": (SETS, (1, 1), "main"), "after that": (CELL, (1, 0), "other")}
    for name, (cell, *what) in expected.items():
        found = during(cell)
        print(f"{name:22} handled with (half done, thread): {found}")
        assert found == [tuple(what)]

    while True:  # what was sent so far
        try:
            client.get_iopub_msg(timeout=0.5)
        except Exception:
            break
    client.execute(HELD)
    time.sleep(0.7)
    send(set=7)
    order, end = [], time.monotonic() + 4
    while time.monotonic() < end:
        try:
            content = client.get_iopub_msg(timeout=0.5)["content"]
        except Exception:
            continue
        order += [line for line in content.get("text", "").split("\n") if line]
        data = content.get("data", {})
        if data.get("content") == "an answer":
            order.append("the answer")
        if data.get("state", {}).get("value") == 7:
            order.append("value 7")
    print("set by a handler while a cell holds:", order)
    assert order == ["the answer", "held until here", "value 7"], order
finally:
    client.stop_channels()
    manager.shutdown_kernel(now=True)
END
