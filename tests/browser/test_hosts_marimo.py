"""marimo, run and edit: the widget lives in a shadow root there."""

import pytest
from harness.lens import Lens
from harness.servers import marimo
from playwright.sync_api import expect

N_LAYERS = 30
APP = """
import marimo

app = marimo.App()


@app.cell
def _():
    import lenswidget as lw
    import marimo as mo

    model = lw.demo_model()
    w = mo.ui.anywidget(model.lens("The Eiffel Tower is in the city of", lens="logit"))
    w
    return mo, w


@app.cell
def _(mo, w):
    mo.md(f"selected: {w.value.get('selection')}")
    return


if __name__ == "__main__":
    app.run()
"""


@pytest.mark.parametrize("mode", ["run", "edit"])
def test_marimo_shows_the_grid_and_answers_a_click(tmp_path, page, page_log, shot, mode):
    app = tmp_path / "app.py"
    app.write_text(APP)
    theme = "dark" if mode == "edit" else "light"
    # the editor runs an opened notebook only where it is told to
    settings = f"[runtime]\nauto_instantiate = true\n[display]\ntheme = {theme!r}\n"
    (tmp_path / ".marimo.toml").write_text(settings)
    with marimo(mode, app) as base:
        page.goto(base)
        lens = Lens(page, N_LAYERS).wait_until_drawn()
        lens.open_card(20, 8)
        assert len(lens.card_rows()) == 20
        # Python saw the click: a cell that depends on the widget ran again
        page.get_by_text("selected: {'layer': 20, 'position': 8}").wait_for(timeout=60_000)
        assert lens.root.evaluate("element => element.getRootNode() instanceof ShadowRoot")
        expect(lens.root).to_have_attribute("data-theme", theme)
        shot(page, f"marimo-{mode}")
    assert page_log.of_lenswidget() == []
