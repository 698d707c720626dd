"""Whether a notebook's host will find the scripts that widgets need, and what is installed beside them."""

from __future__ import annotations

import sys
from pathlib import Path

from lenswidget.versions import __version__, version_of

# Who reads which file, below one of Jupyter's data folders, and the package that brings it.
NEEDED = {
    "VS Code and nbclassic": ("nbextensions/anywidget/index.js", "anywidget"),
    "JupyterLab and Notebook 7": ("labextensions/anywidget/package.json", "anywidget"),
    "JupyterLab and Notebook 7, every widget": (
        "labextensions/@jupyter-widgets/jupyterlab-manager/package.json",
        "jupyterlab_widgets",
    ),
}
PACKAGES = (
    "torch",
    "transformers",
    "anywidget",
    "ipywidgets",
    "ipykernel",
    "jupyterlab",
    "notebook",
    "marimo",
)


def check_host() -> str:
    """What hosts will find of anywidget's own script, in this kernel's environment; a line for each.

    VS Code shows a red frame in place of a widget where it cannot find that script and has no network.

    Returns:
        A line for each kind of host, which names the file that is there, or says what to do.
    """
    return "\n".join(
        [f"anywidget {version_of('anywidget')}, Python in {sys.prefix}", *(_line(hosts) for hosts in NEEDED)]
    )


def doctor() -> tuple[str, bool]:
    """What `lenswidget doctor` says, for a report of what does not work.

    Returns:
        Lines with the versions of all that has a part in showing a widget, and a line for each kind of host;
        and whether every file that hosts look for is there.
    """
    python = ".".join(str(number) for number in sys.version_info[:3])
    versions = {name: version_of(name) for name in PACKAGES}
    lines = [
        f"lenswidget {__version__}, in {Path(__file__).parent}",
        f"Python {python}, in {sys.prefix}",
        *(
            f"{name} {'is not installed' if found == 'unknown' else found}"
            for name, found in versions.items()
        ),
        *(_line(hosts) for hosts in NEEDED),
    ]
    is_sound = all(_found(hosts) for hosts in NEEDED)
    last = (
        "All files that hosts look for are in this environment. A host that runs in another one looks there:"
        " run `python -m lenswidget.cli doctor` with its Python, too."
        if is_sound
        else "Without those files a host shows an error in a widget's place; see above what to do."
    )
    return "\n".join([*lines, last]), is_sound


def _found(hosts: str) -> Path | None:
    name, _ = NEEDED[hosts]
    return next((path for folder in _data_folders() if (path := Path(folder) / name).is_file()), None)


def _line(hosts: str) -> str:
    found = _found(hosts)
    if found:
        return f"{hosts}: {found}"
    name, package = NEEDED[hosts]
    looked = ", ".join(_data_folders())
    return (
        f"{hosts}: {name} is in none of {looked}. Run "
        f"`{sys.executable} -m pip install --force-reinstall {package}`, "
        "in the environment that the kernel runs in, and restart the host."
    )


def _data_folders() -> list[str]:
    try:
        from jupyter_core.paths import jupyter_path
    except ImportError:  # a kernel without Jupyter: marimo, say
        return [str(Path(sys.prefix) / "share" / "jupyter")]
    return jupyter_path()
