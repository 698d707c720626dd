"""Stop in a real kernel: what the page sends during a forward is heard before the run is shown."""

import time

import pytest
from jupyter_client.manager import start_new_kernel

CODE = """
import lenswidget as lw
model = lw.demo_model()
w = model.lens("The Eiffel Tower is in the city of")
w
"""
STATE = "(w.prompt, w.run['id'], w.snapshot['header']['run_id'], w.status)"
SECONDS = 120


@pytest.fixture(scope="module")
def kernel():
    manager, client = start_new_kernel()
    client.execute_interactive(CODE, timeout=SECONDS, output_hook=lambda message: None)
    yield client
    client.stop_channels()
    manager.shutdown_kernel(now=True)


def value(client, expression):
    found = []
    client.execute_interactive(
        f"print(repr({expression}))",
        timeout=SECONDS,
        output_hook=lambda m: found.append(m["content"].get("text", "")),
    )
    return eval("".join(found))


def send(client, comm_id, **content):
    data = {"method": "custom", "content": content}
    client.shell_channel.send(client.session.msg("comm_msg", {"comm_id": comm_id, "data": data}))


def reply(client, request_id):
    """The page's reply to a request."""
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        content = client.get_iopub_msg(timeout=SECONDS)["content"]
        custom = (content.get("data") or {}).get("content") or {}
        if custom.get("id") == request_id and "kind" not in custom:
            return custom
    raise TimeoutError(request_id)


@pytest.mark.parametrize("n_before", [0, 3])
def test_a_stop_sent_during_the_forward_leaves_the_grid_as_it_is(kernel, n_before):
    comm_id, before = value(kernel, f"(w.comm.comm_id, {STATE})")
    send(kernel, comm_id, id="run", kind="run", prompt="word " * 1500)
    for i in range(n_before):  # what else the page asked for meanwhile comes first
        send(kernel, comm_id, id=f"ping{i}", kind="ping")
    send(kernel, comm_id, id="stop", kind="cancel", target="run")
    assert reply(kernel, "run")["error"]["type"] == "Cancelled"
    assert value(kernel, STATE) == before
    send(kernel, comm_id, id="next", kind="run", prompt=f"One two {n_before}")
    assert "value" in reply(kernel, "next")
    assert value(kernel, "w.run['prompt']") == f"One two {n_before}"
