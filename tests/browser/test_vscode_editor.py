"""In an editor like VS Code's, whose frame is as tall as the notebook: what a person works with is in view.

The pages' stand-in is described in `harness/output_page.py`.
"""

import pytest
from harness.lens import Lens
from harness.output_page import OutputPage
from harness.pages import frames, watched_page
from playwright.sync_api import expect

N_LAYERS = 30
HEIGHT, BAR = 700, 40
CODE = """import lenswidget as lw
model = lw.demo_model()
w = model.lens("The Eiffel Tower is in the city of")
w"""
NARROW = """import ipywidgets
ipywidgets.VBox([model.lens("The Eiffel Tower is in the city of")], layout={"width": "620px"})"""


class Editor:
    """A notebook with the widget in it, in a window of 700 px."""

    def __init__(self, page, host):
        self.page = page
        self.host = host
        self.lens = Lens(host.frame, N_LAYERS).wait_until_drawn()

    def scroll_widget_to(self, y):
        """Scrolls the notebook so that the widget's top is `y` px under the window's."""
        top = self.lens.root.evaluate("root => root.getBoundingClientRect().top")
        self.host.scroll_to(top - y)

    def press(self, cell):
        """Presses where a cell is now: Playwright's own click would scroll things that no person can."""
        box = cell.bounding_box()
        assert self.in_view(cell)
        self.page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)

    def in_view(self, locator, need_px=None):
        """Whether an element, or the first `need_px` of it, is in the editor's window."""
        box = locator.bounding_box()
        bottom = box["y"] + min(box["height"], need_px or box["height"])
        return box["y"] >= BAR - 1 and bottom <= HEIGHT + 1

    def comes_into_view(self, locator, need_px=None):
        for _ in range(40):
            if locator.count() and self.in_view(locator.first, need_px):
                return True
            self.page.wait_for_timeout(50)
        return False

    @property
    def focused(self):
        return self.host.frame.locator(".lenswidget :focus")


@pytest.fixture(scope="module")
def editor(browser, output_page_urls):
    with watched_page(browser, viewport={"width": 1280, "height": HEIGHT}) as (page, log):
        host = OutputPage(page, *output_page_urls, "vscode")
        host.use_theme("dark")
        host.run(CODE)
        yield Editor(page, host)
        host.shut_down()
        assert log.uncaught == []


@pytest.fixture(autouse=True)
def fresh(editor):
    editor.page.evaluate("() => { window.obeys = true; window.keys = []; }")
    # a click's answer that is still on its way opens its card again
    expect(editor.lens.root.locator(".is-stale")).to_have_count(0)
    editor.host.run("w.selection = None")
    expect(editor.lens.card).to_have_count(0)
    editor.scroll_widget_to(20)


def test_the_grid_fits_the_window_and_keeps_its_heads(editor, shot):
    grid = editor.lens.grid
    assert grid.bounding_box()["height"] <= 450
    editor.scroll_widget_to(-120)
    editor.press(editor.lens.cell(2, 4))
    assert grid.evaluate("grid => grid.scrollTop") > 100
    assert editor.in_view(grid.locator(".lw-colhead").first)
    shot(editor.page, "vscode-editor-low-row")


@pytest.mark.parametrize("obeys", [True, False])
def test_the_focused_cell_stays_in_view(editor, obeys):
    editor.page.evaluate("obeys => { window.obeys = obeys; }", obeys)
    editor.press(editor.lens.cell(29, 8))
    for key in ["ArrowDown"] * 12 + ["PageDown"] * 3:
        editor.page.keyboard.press(key)
        frames(editor.page)
    assert editor.comes_into_view(editor.focused)
    # the lower half of the grid is out of view now
    top = editor.lens.grid.evaluate("grid => grid.getBoundingClientRect().top")
    editor.host.scroll_to(top - HEIGHT + 200)
    for key in ["PageUp"] * 2 + ["ArrowUp"] * 2:
        editor.page.keyboard.press(key)
        frames(editor.page)
    assert editor.comes_into_view(editor.focused)


def test_a_press_on_a_low_row_opens_a_card_whose_head_is_in_view(editor, shot):
    # the upper part of the widget is out of view
    editor.scroll_widget_to(-380)
    rows = editor.lens.grid.locator("[role=gridcell][aria-colindex='6']")
    box = editor.lens.grid.bounding_box()
    below = box["y"] + box["height"]
    low = next(cell for cell in rows.all()[::-1] if cell.bounding_box()["y"] + 40 < min(below, HEIGHT))
    editor.press(low)
    expect(editor.lens.card).to_have_attribute("aria-busy", "false")
    assert editor.comes_into_view(editor.lens.card, 130)
    shot(editor.page, "vscode-editor-card")


@pytest.mark.parametrize("obeys", [True, False])
def test_a_narrow_widget_shows_the_head_of_its_card_too(editor, obeys, shot):
    editor.page.evaluate("obeys => { window.obeys = obeys; }", obeys)
    editor.host.run(NARROW)
    wide, editor.lens = editor.lens, Lens(editor.host.frame, N_LAYERS, nth=1).wait_until_drawn()
    try:
        editor.scroll_widget_to(60)
        editor.press(editor.lens.cell(24, 4))
        expect(editor.lens.card).to_have_attribute("aria-busy", "false")
        is_seen = editor.comes_into_view(editor.lens.card, 130)
        shot(editor.page, f"vscode-editor-narrow-{obeys}")
        assert is_seen
    finally:
        editor.lens = wide
        editor.host.frame.evaluate("() => document.querySelectorAll('.output')[1].remove()")


def test_what_a_key_opens_appears_at_the_focused_cell(editor, shot):
    editor.scroll_widget_to(-420)
    cell = editor.lens.cell(14, 4)
    editor.press(cell)
    expect(editor.lens.card).to_have_attribute("aria-busy", "false")
    editor.page.keyboard.press("/")
    editor.page.keyboard.type(" Rome")
    expect(editor.focused).to_have_value(" Rome")
    assert editor.comes_into_view(editor.focused)
    editor.lens.root.locator(".lw-match").first.wait_for()
    shot(editor.page, "vscode-editor-search")
    editor.page.keyboard.press("Enter")
    expect(editor.lens.card.locator(".lw-tracked li")).to_have_count(1)
    expect(editor.lens.root.locator(".lw-form")).to_have_count(0)
    cell.focus()
    editor.page.keyboard.press("e")
    form = editor.lens.root.get_by_role("region", name="Edit the run")
    assert editor.comes_into_view(form)
    shot(editor.page, "vscode-editor-edit")
    editor.page.keyboard.press("Escape")
    expect(form).to_have_count(0)
    editor.page.keyboard.press("?")
    assert editor.comes_into_view(editor.lens.root.locator(".lw-help"), 130)
    editor.page.keyboard.press("Escape")
    expect(editor.focused).to_have_attribute("role", "gridcell")


def test_keys_that_no_part_uses_are_the_editors(editor):
    parts = [
        editor.lens.cell(20, 3),
        editor.lens.prompt,
        editor.lens.root.get_by_label("Colour"),
        editor.lens.root.get_by_title("More"),
    ]
    for part in parts:
        part.focus()
        editor.page.evaluate("() => { window.keys = []; }")
        for key in ("F1", "F8", "Control+Shift+F9", "k"):
            editor.page.keyboard.press(key)
        editor.page.wait_for_timeout(50)
        keys = editor.page.evaluate("() => window.keys")
        assert [key for key in keys if key not in ("Control", "Shift")] == ["F1", "F8", "F9"]
    editor.lens.cell(20, 3).focus()
    editor.page.keyboard.press("Control+Enter")
    editor.page.wait_for_function("() => window.keys.includes('Enter')")
    editor.lens.prompt.fill("The Eiffel Tower is in the city of")


def test_a_restarted_kernel_is_told_in_the_head(editor):
    """Last: the widget has no kernel afterwards."""
    editor.press(editor.lens.cell(20, 3))
    editor.lens.wait_for_card(20, 3)
    editor.host.frame.evaluate("() => lensHost.kernel.restart()")
    editor.press(editor.lens.cell(20, 5))
    state = editor.lens.root.locator(".lw-state")
    expect(state).to_contain_text("Kernel gone")
    expect(state).not_to_contain_text("Live")
    # the stored numbers of that cell, and no endless wait
    expect(editor.lens.card).to_have_attribute("aria-busy", "false")
    expect(editor.lens.card.locator("tbody tr")).to_have_count(5)
