"""`make lab`: says where JupyterLab is, serves the quickstart there, is plain about a port it cannot have."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = [sys.executable, str(ROOT / "scripts" / "lab.py")]


def environment(folder):
    without_display = {k: v for k, v in os.environ.items() if k not in ("DISPLAY", "WAYLAND_DISPLAY")}
    return {**without_display, "HOME": str(folder), "PYTHONUNBUFFERED": "1"}


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def answer_of(address, server):
    """The status of the first answer, once the server is up."""
    for _ in range(600):
        assert server.poll() is None
        try:
            with urllib.request.urlopen(address, timeout=60) as answer:
                return answer.status
        except urllib.error.URLError:
            time.sleep(0.1)
    raise TimeoutError(address)


def test_lab_prints_an_address_that_answers_on_the_asked_port(tmp_path):
    port = free_port()
    server = subprocess.Popen(
        [*SCRIPT, str(port)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        stdin=subprocess.DEVNULL,
        text=True,
        env=environment(tmp_path),
        start_new_session=True,
    )
    try:
        line = next(line for line in server.stdout if line.startswith("JupyterLab: "))
        address = line.removeprefix("JupyterLab: ").strip()
        assert address.startswith(f"http://127.0.0.1:{port}/lab/tree/quickstart.ipynb?token=")
        assert answer_of(address, server) == 200
        token = address.rpartition("=")[2]
        contents = f"http://127.0.0.1:{port}/api/contents/quickstart.ipynb?token={token}"
        with urllib.request.urlopen(contents, timeout=60) as answer:
            assert b"lenswidget" in answer.read()
        # what the page asks before it asks for news, or asks a person whether to
        settings = f"http://127.0.0.1:{port}/lab/api/settings/@jupyterlab/apputils-extension:notification"
        with urllib.request.urlopen(f"{settings}?token={token}", timeout=60) as answer:
            properties = json.load(answer)["schema"]["properties"]
        assert [properties[name]["default"] for name in ("fetchNews", "checkForUpdates")] == ["false", False]
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.communicate(timeout=120)


@pytest.mark.parametrize("target", ["lab", "dev"])
def test_make_leaves_the_number_of_threads_unset(target):
    """An empty OMP_NUM_THREADS is a complaint of libgomp's, in a red box, in the notebook's first cell."""
    # the tests may themselves be run by make, which then says into which folder it goes
    shown = subprocess.run(
        ["make", "-n", "--no-print-directory", target, "PORT=8889"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        env={name: value for name, value in os.environ.items() if not name.startswith("MAKE")},
    )
    recipe = shown.stdout.splitlines()[-1]
    assert 'python scripts/lab.py "8889"' in recipe
    start = recipe[recipe.index("env -u") :].replace(
        "scripts/lab.py", "-c 'import os; print(dict(os.environ))'"
    )
    done = subprocess.run(
        ["bash", "-c", start],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert "'PATH'" in done.stdout
    assert "OMP_NUM_THREADS" not in done.stdout


def test_a_port_in_use_is_named_with_what_to_do(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = subprocess.run([*SCRIPT, str(port)], capture_output=True, text=True, env=environment(tmp_path))
    assert done.returncode == 1
    assert f"Port {port} is in use" in done.stderr
    assert "make lab PORT=" in done.stderr


def test_a_port_that_is_no_number_is_refused(tmp_path):
    done = subprocess.run([*SCRIPT, "eighty"], capture_output=True, text=True, env=environment(tmp_path))
    assert done.returncode == 1
    assert "PORT=eighty is no port number" in done.stderr
