"""A notebook that is open in JupyterLab or Notebook 7, with its kernel."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nbformat
from playwright.sync_api import Locator, Page

from .servers import TOKEN

# Importing torch and loading a model takes a while on a busy machine with two cores.
RUN_TIMEOUT_MS = 120_000
OPEN_TIMEOUT_MS = 90_000

KERNEL = "window.jupyterapp.shell.currentWidget.sessionContext.session.kernel"
EXECUTE = f"""async (code) => {{
  const future = {KERNEL}.requestExecute({{ code }});
  const out = {{ text: "", error: null }};
  future.onIOPub = (message) => {{
    const {{ header, content }} = message;
    if (header.msg_type === "stream") out.text += content.text;
    if (header.msg_type === "error") out.error = content.ename + ": " + content.evalue;
  }};
  await future.done;
  return out;
}}"""


def write_notebook(path: Path, *cells: str) -> None:
    """Writes a notebook of code cells."""
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in cells])
    for number, cell in enumerate(book.cells):
        cell["id"] = f"cell-{number}"
    book.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(book, path)


def _forget_settings(page: Page, base: str) -> None:
    """Puts back every setting (the theme, say) that an earlier page on the same server changed."""
    api, head = f"{base}/lab/api/settings", {"Authorization": f"token {TOKEN}"}
    for setting in page.request.get(api, headers=head).json()["settings"]:
        if setting["settings"]:
            page.request.put(f"{api}/{setting['id']}", headers=head, data={"raw": "{}"})


class Notebook:
    """Opens a notebook in a page and waits for its kernel: `kind` is "lab" or "notebook"."""

    def __init__(self, page: Page, base: str, path: str, *, kind: str = "lab"):
        self.page = page
        where = {"lab": f"lab/tree/{path}", "notebook": f"notebooks/{path}"}[kind]
        _forget_settings(page, base)
        # Lab would otherwise restore the notebooks that an earlier test had open.
        page.goto(f"{base}/{where}?token={TOKEN}" + ("&reset" if kind == "lab" else ""))
        page.wait_for_function("() => window.jupyterapp?.restored?.then(() => true)", timeout=OPEN_TIMEOUT_MS)
        page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=OPEN_TIMEOUT_MS)
        self.wait_until_idle()

    def wait_until_idle(self) -> None:
        """Waits until the kernel is connected and does nothing."""
        self.page.wait_for_function(
            "() => { const k = window.jupyterapp.shell.currentWidget?.sessionContext?.session?.kernel;"
            " return k && k.connectionStatus === 'connected' && k.status === 'idle'; }",
            timeout=RUN_TIMEOUT_MS,
        )

    def command(self, name: str, args: dict[str, Any] | None = None) -> None:
        """Runs a command of JupyterLab, such as `notebook:run-all-cells`, to its end."""
        self.page.evaluate(
            "([name, args]) => window.jupyterapp.commands.execute(name, args).then(() => true)",
            [name, args or {}],
        )

    def run_all(self) -> None:
        self.command("notebook:run-all-cells")

    def run_cell(self, index: int) -> None:
        """Runs one cell, to its end."""
        self.page.evaluate(
            "index => { window.jupyterapp.shell.currentWidget.content.activeCellIndex = index; }", index
        )
        self.command("notebook:run-cell")

    def output(self, index: int) -> Locator:
        """The output area of a cell."""
        return self.page.locator(f".jp-Notebook .jp-Cell[data-windowed-list-index='{index}'] .jp-OutputArea")

    def save(self) -> None:
        self.command("docmanager:save")

    def save_with_widgets(self) -> None:
        """Saves the notebook with the state of its widgets, which Lab leaves out unless it is told to."""
        command = "@jupyter-widgets/jupyterlab-manager:saveWidgetState"
        # the command is a switch: a second one would turn it off again
        if not self.page.evaluate("name => window.jupyterapp.commands.isToggled(name)", command):
            self.command(command)
        self.save()

    def use_theme(self, name: str) -> None:
        """Switches the theme of the running lab: "JupyterLab Light", "JupyterLab Dark", ..."""
        self.command("apputils:change-theme", {"theme": name})
        dark = "false" if "Dark" in name else "true"
        self.page.wait_for_function(f"() => document.body.dataset.jpThemeLight === '{dark}'")
        # Lab covers itself while it switches
        self.page.wait_for_selector("#jupyterlab-splash", state="detached")

    def execute(self, code: str) -> str:
        """Runs code in the notebook's kernel, beside its cells; returns what it printed."""
        out = self.page.evaluate(EXECUTE, code)
        assert out["error"] is None, out["error"]
        return out["text"]

    def value(self, expression: str) -> Any:
        """The value of a Python expression in the kernel, by way of JSON."""
        return json.loads(self.execute(f"import json; print(json.dumps({expression}))"))

    def shut_down(self) -> None:
        """Ends the kernel, and its model's memory with it."""
        self.page.evaluate("() => window.jupyterapp.shell.currentWidget?.sessionContext?.shutdown()")
