"""The widget in a notebook, as a person works it: cells by layer and position, cards, and what they say."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness.notebook import Notebook, write_notebook
from harness.pages import PATIENCE_MS, PageLog, frames, watched_page
from playwright.sync_api import Browser, Locator, Page, expect

PROMPT = "The Eiffel Tower is in the city of"
CODE = f"""import lenswidget as lw
model = lw.demo_model()
w = model.lens({PROMPT!r}, lens="logit")
w"""
READY_MS = 180_000
AXE = Path(__file__).parents[2] / "js" / "node_modules" / "axe-core" / "axe.min.js"


# A cell that is at work from when `begun` is there until `end` is.
UNTIL_TOLD = """import pathlib, time
pathlib.Path("{folder}/begun").touch()
while not pathlib.Path("{folder}/end").exists(): time.sleep(0.05)"""
EXECUTE_UNAWAITED = """([code]) => { window.isDone = false;
  window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.requestExecute({ code })
    .done.then(() => { window.isDone = true; }, () => {}); }"""


class WidgetPage:
    """A notebook whose cell shows a widget named `w`."""

    def __init__(self, notebook: Notebook, log: PageLog):
        self.notebook = notebook
        self.page: Page = notebook.page
        self.log = log
        self.root = self.page.locator(".lenswidget").first

    def value(self, expression: str) -> Any:
        return self.notebook.value(expression)

    def becomes(self, expression: str, expected: Any, timeout_s: float = PATIENCE_MS / 1000) -> None:
        """Waits until Python has it: the host holds back a view's changes while the kernel is busy."""
        end = time.monotonic() + timeout_s
        while (found := self.value(expression)) != expected:
            assert time.monotonic() < end, f"{expression} is {found!r}, not {expected!r}"
            self.page.wait_for_timeout(50)

    def execute(self, code: str) -> str:
        return self.notebook.execute(code)

    def hold(self, folder: Path, *, with_model: bool = False) -> None:
        """Keeps the kernel at work until there is a file `end` in the folder; `window.isDone` then."""
        code = UNTIL_TOLD.format(folder=folder)
        if with_model:
            held = textwrap.indent(code, "    ")
            code = f"with model.trace('Hi'):\n    model.model.layers[0].output\n{held}"
        self.page.evaluate(EXECUTE_UNAWAITED, [code])
        end = time.monotonic() + PATIENCE_MS / 1000
        while not (folder / "begun").exists():
            assert time.monotonic() < end, "the kernel has not begun"
            self.page.wait_for_timeout(50)

    def cell(self, layer: int, position: int, n_layers: int = 30) -> Locator:
        """The grid's cell, with all layers and tokens on show and layers as rows."""
        row = n_layers - layer + 1
        return self.root.locator(
            f".lw-row[aria-rowindex='{row}'] > [role=gridcell][aria-colindex='{position + 2}']"
        )

    def card(self, key: str = "main") -> Locator:
        return self.root.locator(f"[data-card='{key}']")

    def open_card(self, layer: int, position: int) -> Locator:
        """Click a cell; its card once the kernel has answered."""
        self.cell(layer, position).click()
        return self.decoded_card(layer, position)

    def decoded_card(self, layer: int, position: int) -> Locator:
        name = f"layer {layer}" if layer >= 0 else "embedding"
        card = self.root.locator(
            f"[data-card=main][aria-busy=false][aria-label='Decoded cell, {name}, position {position}']"
        )
        card.wait_for()
        return card

    def control(self, label: str) -> Locator:
        """One of the choices above the grid."""
        return self.root.locator(".lw-controls").get_by_label(label, exact=True)

    def has_no_axe_violations(self, shot: Callable[[Page, str], None], name: str) -> None:
        """In the dark theme and in the light one, of which a picture is taken."""
        self.page.evaluate(AXE.read_text())
        for theme in ("Dark", "Light"):
            self.notebook.use_theme(f"JupyterLab {theme}")
            expect(self.root).to_have_attribute("data-theme", theme.lower())
            self.page.wait_for_timeout(300)
            found = self.page.evaluate(
                "async () => (await axe.run('.lenswidget')).violations.map((v) => v.id)"
            )
            assert found == [], theme
            shot(self.page, f"{name}-{theme.lower()}")

    def reset(self) -> None:
        """The widget as it was at first."""
        self.execute(
            "w.selection = None; w.pins = []; w.cards = []; w.metric = 'prob'; w.stride = 1;"
            "w.site = 'resid_post'; w.edits = []; w.view = 'after'; w.difference = 'kl';"
            "w.orientation = 'layers'; w.hide_special = False; w.column_width_px = 72; w.rank_token = None;"
            f"w.trajectory = {{'metric': 'prob', 'positions': []}}; w.card_k = 20; w.prompt = {PROMPT!r}"
        )
        expect(self.card()).to_have_count(0)
        expect(self.root.locator(".lw-info strong")).to_have_text("“␣Paris”")
        frames(self.page)


@contextmanager
def widget_in_lab(
    browser: Browser, lab: tuple[str, Path], name: str, code: str = CODE, **page_options: Any
) -> Iterator[WidgetPage]:
    """A widget in a running lab, for as many tests as like to share it."""
    base, folder = lab
    with watched_page(browser, **{"viewport": {"width": 1400, "height": 1000}, **page_options}) as (
        page,
        log,
    ):
        write_notebook(folder / name, code)
        notebook = Notebook(page, base, name)
        notebook.command("application:toggle-left-area")
        notebook.run_all()
        widget = WidgetPage(notebook, log)
        widget.root.locator("[role=gridcell]").first.wait_for(timeout=READY_MS)
        try:
            yield widget
        finally:
            notebook.shut_down()
