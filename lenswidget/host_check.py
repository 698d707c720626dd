"""Whether a notebook's host will find the script that every anywidget needs."""

from __future__ import annotations

import sys
from pathlib import Path

from anywidget import __version__ as anywidget_version

# Who reads which file, below one of Jupyter's data folders.
NEEDED = {
    "VS Code and nbclassic": "nbextensions/anywidget/index.js",
    "JupyterLab and Notebook 7": "labextensions/anywidget/package.json",
}


def check_host() -> str:
    """What hosts will find of anywidget's own script, in this kernel's environment; a line for each.

    VS Code shows a red frame in place of a widget where it cannot find that script and has no network.

    Returns:
        A line for each kind of host, which names the file that is there, or says what to do.
    """
    folders = [Path(folder) for folder in _data_folders()]
    lines = [f"anywidget {anywidget_version}, Python in {sys.prefix}"]
    for hosts, name in NEEDED.items():
        found = next((folder / name for folder in folders if (folder / name).is_file()), None)
        lines.append(f"{hosts}: {found or _missing(name, folders)}")
    return "\n".join(lines)


def _missing(name: str, folders: list[Path]) -> str:
    looked = ", ".join(str(folder) for folder in folders)
    return (
        f"{name} is in none of {looked}. Run `{sys.executable} -m pip install --force-reinstall anywidget`, "
        "in the environment that the kernel runs in, and restart the host."
    )


def _data_folders() -> list[str]:
    try:
        from jupyter_core.paths import jupyter_path
    except ImportError:  # a kernel without Jupyter: marimo, say
        return [str(Path(sys.prefix) / "share" / "jupyter")]
    return jupyter_path()
