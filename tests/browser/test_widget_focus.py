"""Whoever works the widget by keyboard keeps their place, and the notebook's own cell is left alone."""

import pytest
from playwright.sync_api import expect
from widget_page import WidgetPage

IS_INSIDE = "() => !!document.activeElement.closest('.lenswidget')"
KEPT = {"layer": 20, "position": 3, "site": "resid_post", "lens": "logit"}


@pytest.fixture
def widget(shown: WidgetPage):
    shown.reset()
    shown.execute("w.track(' Paris'); w.track(' London')")
    shown.root.locator(".lw-pin").nth(1).wait_for()
    return shown


def press(widget, name, scope=None):
    """Focuses a button and presses it by keyboard, then waits for what it does."""
    button = (scope or widget.root).get_by_role("button", name=name).first
    button.focus()
    widget.page.keyboard.press("Enter")
    widget.page.wait_for_timeout(600)


@pytest.mark.parametrize("name", ["Unpin ␣Paris", "Sum with the other forms", "hold"])
def test_a_button_that_goes_away_leaves_the_focus_in_the_widget(widget, name):
    press(widget, name)
    assert widget.page.evaluate(IS_INSIDE)


@pytest.mark.parametrize("name", ["Keep", "Code", "Close (Escape)"])
def test_a_cards_own_buttons_leave_the_focus_in_the_widget(widget, name):
    press(widget, name, widget.open_card(20, 3))
    assert widget.page.evaluate(IS_INSIDE)


def test_a_kept_card_closed_by_keyboard_leaves_the_focus_in_the_widget(widget):
    widget.execute(f"w.cards = [{KEPT!r}]")
    kept = widget.root.locator(".lw-kept")
    kept.locator("tbody tr").first.wait_for()
    press(widget, "Close (Escape)", kept)
    expect(kept.locator(".lw-card")).to_have_count(0)
    assert widget.page.evaluate(IS_INSIDE)


def test_a_match_chosen_by_keyboard_leaves_the_focus_in_the_widget(widget):
    card = widget.open_card(20, 3)
    widget.page.keyboard.press("/")
    widget.page.keyboard.type(" Rome")
    card.locator(".lw-match").first.wait_for()
    widget.page.keyboard.press("Tab")
    widget.page.keyboard.press("Enter")
    card.locator(".lw-tracked li").wait_for()
    assert widget.page.evaluate(IS_INSIDE)


@pytest.mark.parametrize(
    ("panel", "name"), [("More", "Reset view"), ("More", "Download PNG"), ("Keys (?)", "Close (Escape)")]
)
def test_what_closes_a_panel_leaves_the_focus_in_the_widget(widget, panel, name):
    press(widget, panel)
    press(widget, name)
    assert widget.page.evaluate(IS_INSIDE)


def test_a_view_that_is_opened_later_shows_the_same_cards(widget):
    widget.execute(f"w.cards = [{KEPT!r}]")
    widget.open_card(28, 8)
    widget.page.evaluate("window.jupyterapp.commands.execute('notebook:create-output-view')")
    expect(widget.page.locator(".lenswidget")).to_have_count(2)
    for view in widget.page.locator(".lenswidget").all():
        expect(view.locator("[data-card]")).to_have_count(2)
    widget.page.evaluate("window.jupyterapp.shell.currentWidget.close()")


def test_enter_is_the_notebooks_only_with_ctrl_and_outside_of_the_prompt(widget):
    count = "() => window.jupyterapp.shell.currentWidget.content.widgets.map(w => w.model.executionCount)"
    before = widget.page.evaluate(count)
    for focused in (widget.cell(20, 3), widget.root.get_by_title("More"), widget.control("Colour")):
        focused.focus()
        widget.page.keyboard.press("Shift+Enter")
        widget.page.wait_for_timeout(300)
        assert widget.page.evaluate(count) == before
        assert widget.page.evaluate(IS_INSIDE)
    widget.root.get_by_label("Prompt", exact=True).focus()
    widget.page.keyboard.press("Control+Enter")
    widget.page.wait_for_timeout(300)
    assert widget.page.evaluate(count) == before


@pytest.mark.parametrize("part", ["cell", "button", "choice", "box"])
def test_a_key_that_no_part_uses_reaches_the_host(widget, part):
    parts = {
        "cell": widget.cell(20, 3),
        "button": widget.root.get_by_title("More"),
        "choice": widget.control("Colour"),
        "box": widget.root.get_by_label("Prompt", exact=True),
    }
    widget.page.evaluate(
        """() => { window.heard = [];
             document.body.onkeydown = ({ key }) => { window.heard.push(key); }; }"""
    )
    parts[part].focus()
    for key in ("F1", "F8", "Control+Shift+F9", "d"):
        widget.page.keyboard.press(key)
    heard = widget.page.evaluate("() => window.heard")
    assert [key for key in heard if key.startswith("F")] == ["F1", "F8", "F9"]
    assert "d" not in heard
    widget.page.keyboard.press("Control+z" if part == "box" else "Escape")
