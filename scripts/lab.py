"""Starts JupyterLab on the quickstart, says where, and opens a browser only where there is a display.

Usage: lab.py [PORT]
"""

import os
import secrets
import socket
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
EXAMPLES, SETTINGS = HERE.parent / "examples", HERE / "lab_settings"
FIRST_PORT = 8888


def is_free(port: int) -> bool:
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            s.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def choose_port(asked: str) -> int:
    if not asked:
        return next(port for port in range(FIRST_PORT, FIRST_PORT + 100) if is_free(port))
    if not asked.isdigit() or not 0 < int(asked) < 65536:
        sys.exit(f"PORT={asked} is no port number: give one from 1 to 65535, as in `make lab PORT=8889`.")
    if not is_free(int(asked)):
        sys.exit(
            f"Port {asked} is in use: stop what listens there, or give another, as in `make lab PORT=8889`."
        )
    return int(asked)


def has_display() -> bool:
    return sys.platform in ("darwin", "win32") or any(
        os.environ.get(v) for v in ("DISPLAY", "WAYLAND_DISPLAY")
    )


def main() -> None:
    port = choose_port(sys.argv[1] if len(sys.argv) > 1 else "")
    token = secrets.token_hex(16)
    print(f"\nJupyterLab: http://127.0.0.1:{port}/lab/tree/quickstart.ipynb?token={token}\n", flush=True)
    command = [sys.executable, "-m", "jupyter", "lab", str(EXAMPLES / "quickstart.ipynb")]
    command += [f"--ServerApp.root_dir={EXAMPLES}", "--ServerApp.ip=127.0.0.1", f"--ServerApp.port={port}"]
    command += ["--ServerApp.port_retries=0", f"--IdentityProvider.token={token}", "--log-level=WARN"]
    command += ["--LabApp.log_level=WARN"]
    # Nothing here asks for news or a newer release, and no dialog asks whether to: it would cover the card.
    command += [f"--LabApp.app_settings_dir={SETTINGS}"]
    # Defaults that are warned about: a timeout beyond the interval, a kernel's traffic in plain text.
    command += ["--ServerApp.tornado_settings={'ws_ping_timeout': 30000}"]
    command += ["--KernelManager.transport_encryption=auto"]
    command += [] if has_display() else ["--no-browser"]
    command += ["--allow-root"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    os.execv(sys.executable, command)


if __name__ == "__main__":
    main()
