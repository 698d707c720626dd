"""A Ray cluster of two nodes on this machine, reached through Ray Client, and a client in a process."""

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
# Where a Python process finds this package and these helpers.
PATHS = os.pathsep.join([str(ROOT), str(ROOT / "tests" / "support")])
START = [sys.executable, "-W", "ignore", "-m", "ray.scripts.scripts", "start", "--block"]
# Who has no token is not let in: a node that is told 127.0.0.1 listens on the machine's own address all the
# same. Ray reads these when it is first imported; by itself it takes a token that it finds in the home folder
# for a cluster, and none for a client.
AUTH = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16)}
# The second node has what the model needs, so that it is not on the head.
HAS_MODEL = {"has_model": 1}


def demo():
    """The demo model with one thread, as the tests have it; called in the actor."""
    import torch

    import lenswidget as lw

    torch.set_num_threads(1)
    return lw.demo_model()


def small(n_layer=4):
    """A small model with random weights."""
    import tiny
    import torch

    torch.set_num_threads(1)
    return tiny.language_model(n_layer=n_layer)


def split(folder, distributed_config):
    """A part of a model; a rank that says nothing for 10 s is lost."""
    import torch

    import lenswidget as lw
    from lenswidget.engines import ray_group

    ray_group.SILENT_S = 10
    torch.set_num_threads(1)
    return lw.LanguageModel(folder, distributed_config=distributed_config)


def whole_though_split(distributed_config):
    """A function that does not heed what it is given."""
    return small()


@contextlib.contextmanager
def cluster(*, n_cpus=3):
    """The address of a cluster of a head and another node; all its processes are gone afterwards."""
    port, client_port = free_port(), free_port()
    folder = tempfile.mkdtemp(prefix="r", dir="/tmp")  # short: sockets have long names below it
    common = [
        "--object-store-memory",
        str(80 << 20),
        "--disable-usage-stats",
        "--node-ip-address",
        "127.0.0.1",
    ]
    head = [f"--port={port}", f"--ray-client-server-port={client_port}", "--include-dashboard=false"]
    head += ["--head", "--num-cpus=1", f"--temp-dir={folder}"]
    other = [f"--address=127.0.0.1:{port}", f"--num-cpus={n_cpus}", '--resources={"has_model": 8}']
    os.environ.update(AUTH)
    env = {**os.environ, "PYTHONPATH": PATHS, "OMP_NUM_THREADS": "1"}
    quiet = {
        "stdout": subprocess.DEVNULL,
        "stderr": subprocess.DEVNULL,
        "env": env,
        "start_new_session": True,
    }
    nodes, watch, is_over = [], None, threading.Event()
    try:
        for is_last in (False, False, True):
            nodes.append(subprocess.Popen([*START, *head, *common], **quiet))
            if listens(client_port, nodes[-1], is_last):
                break
        nodes.append(subprocess.Popen([*START, *other, *common], **quiet))
        watch = threading.Thread(target=begin_again, args=(nodes, [*START, *other, *common], quiet, is_over))
        watch.start()
        yield f"ray://127.0.0.1:{client_port}"
    finally:
        is_over.set()
        if watch is not None:
            watch.join()
        for node in reversed(nodes):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(node.pid, signal.SIGKILL)  # its agents too; workers end when they miss it
            node.wait()
        shutil.rmtree(folder, ignore_errors=True)


def begin_again(nodes, command, options, is_over):
    """Starts a node again that has ended by itself, as `listens` says, until all is over."""
    while not is_over.wait(0.5):
        if nodes[-1].poll() is not None:
            nodes.append(subprocess.Popen(command, **options))


def connected(address, load=demo, **options):
    """A model of the cluster; on a machine that is busy, Ray Client gives up before its server has begun."""
    import lenswidget as lw

    for is_last in (False, False, True):
        with contextlib.suppress(*() if is_last else (lw.LensError,)):
            return lw.connect(address, load, resources=HAS_MODEL, **{"keep_s": 60, "wait_s": 120, **options})
    return None


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def listens(port, node, is_last, patience_s=120):
    """Waits for a node; False if it has ended. Ray 2.60 ends one whose agents take over 15 s to begin."""
    end = time.monotonic() + patience_s
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
        if node.poll() is not None and not is_last:
            return False
        assert time.monotonic() < end, f"nothing listens on {port}"
        time.sleep(0.1)


def client(code):
    """A process of its own that runs some code; `said` waits for its lines."""
    # a client that is lost may come back for so many seconds
    env = {
        **os.environ,
        "PYTHONPATH": PATHS,
        "OMP_NUM_THREADS": "1",
        "RAY_CLIENT_RECONNECT_GRACE_PERIOD": "1",
    }
    return subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True, env=env
    )


def kept(model):
    """How much the actor of a model keeps for its clients."""
    import ray

    return ray.get(model._calls._actor.kept.remote())


def becomes(function, expected, patience_s=60):
    """Waits until a function gives what is expected."""
    end = time.monotonic() + patience_s
    while (found := function()) != expected:
        assert time.monotonic() < end, f"{found!r}, not {expected!r}"
        time.sleep(0.1)
