"""Servers of notebook hosts on loopback, each with its own configuration, ended by its own process group."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

from lenswidget.demo import cache_folder

ROOT = Path(__file__).resolve().parents[3]
TOKEN = "a-token-for-tests"
READY_TIMEOUT_S = 120


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Server:
    """A child process in its own process group, with a log file."""

    def __init__(self, command: Sequence[str], *, cwd: Path, env: dict[str, str], ready_url: str):
        self.log_path = cwd / "server.log"
        with self.log_path.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                cwd=cwd,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            self._wait_until_ready(ready_url)
        except BaseException:
            self.stop()
            raise

    def _wait_until_ready(self, url: str) -> None:
        end = time.monotonic() + READY_TIMEOUT_S
        while time.monotonic() < end and self._process.poll() is None:
            # A refusal with a status is an answer too: the server is up.
            with contextlib.suppress(OSError):
                try:
                    urllib.request.urlopen(url, timeout=5).close()
                except urllib.error.HTTPError as error:
                    error.close()
                    if error.code >= 500:
                        time.sleep(0.1)
                        continue
                return
            time.sleep(0.1)
        raise RuntimeError(f"No answer from {url}:\n{self.log_path.read_text()[-3000:]}")

    def stop(self) -> None:
        for sign in (signal.SIGTERM, signal.SIGKILL):
            if self._process.poll() is None:
                os.killpg(self._process.pid, sign)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(10)


def host_environment(home: Path, package: Path = ROOT) -> dict[str, str]:
    """The environment of a host: a home of its own, a checkout's package, the demo model's real cache."""
    return {
        **{k: v for k, v in os.environ.items() if not k.startswith(("JUPYTER", "IPYTHON", "PYTEST"))},
        "HOME": str(home),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONPATH": str(package),
        "XDG_CACHE_HOME": str(cache_folder().parent),
        "JUPYTER_PLATFORM_DIRS": "0",
        "JUPYTER_CONFIG_DIR": str(home / "config"),
        "JUPYTER_DATA_DIR": str(home / "data"),
        "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
        "JUPYTERLAB_SETTINGS_DIR": str(home / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"),
        "IPYTHONDIR": str(home / "ipython"),
        "MARIMO_SKIP_UPDATE_CHECK": "1",
        # The kernel must not reach out either: a request would fail here, and hang elsewhere.
        "HF_HUB_OFFLINE": "1",
    }


@contextlib.contextmanager
def jupyter(kind: str, folder: Path, *options: str, package: Path = ROOT) -> Iterator[str]:
    """Runs `jupyter lab`, `notebook` or `server` over `folder`; yields its address, without the token.

    Its kernels import the package of the checkout `package`.
    """
    home = folder / ".home"
    lab_config = home / "config" / "labconfig"
    lab_config.mkdir(parents=True)
    # No news and no update check: both would try the network.
    quiet = {"disabledExtensions": {"@jupyterlab/apputils-extension:announcements": True}}
    (lab_config / "page_config.json").write_text(json.dumps(quiet))
    port = free_port()
    app = {"lab": "LabApp", "notebook": "JupyterNotebookApp"}.get(kind)
    command = [sys.executable, "-m", "jupyter", kind, "--no-browser", "--allow-root"]
    command += [f"--ServerApp.{k}={v}" for k, v in (("ip", "127.0.0.1"), ("port", port), ("port_retries", 0))]
    command += [f"--ServerApp.root_dir={folder}", f"--IdentityProvider.token={TOKEN}"]
    command += [f"--{app}.expose_app_in_browser=True"] if app else []
    base = f"http://127.0.0.1:{port}"
    environment = host_environment(home, package)
    server = Server([*command, *options], cwd=folder, env=environment, ready_url=f"{base}/api?token={TOKEN}")
    try:
        yield base
    finally:
        server.stop()


@contextlib.contextmanager
def marimo(mode: str, app: Path) -> Iterator[str]:
    """Runs `marimo run` or `marimo edit` on one file; yields its address."""
    port = free_port()
    command = [sys.executable, "-m", "marimo", "-q", mode, str(app), "--headless", "--no-token"]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    command += ["--skip-update-check"] if mode == "edit" else []
    home = app.parent / ".home"
    home.mkdir()
    base = f"http://127.0.0.1:{port}"
    server = Server(command, cwd=app.parent, env=host_environment(home), ready_url=f"{base}/health")
    try:
        yield base
    finally:
        server.stop()
