"""Two runs on one grid in the browser: A, B and their difference, and a card with both sides."""

import re

import pytest
from playwright.sync_api import expect
from test_widget_looks import OUTSIDE
from widget_page import widget_in_lab

CODE = """import lenswidget as lw
model = lw.demo_model()
w = lw.CompareWidget(model, "The Eiffel Tower is in the city of", "The old Colosseum is in the city of")
w"""
# columns: The, three of A alone, four of B alone, and five of both
LAST, ONLY_A, ONLY_B = 12, 2, 5


@pytest.fixture(scope="module")
def shown(browser, lab):
    with widget_in_lab(browser, lab, "compare.ipynb", CODE) as widget:
        yield widget
        assert widget.log.of_lenswidget() == []
        assert widget.log.uncaught == []


@pytest.fixture
def widget(shown):
    shown.page.set_viewport_size({"width": 1400, "height": 1100})
    shown.execute("w.view = 'difference'; w.difference = 'kl'; w.selection = None")
    return shown


def bar(widget):
    return widget.root.get_by_role("region", name="Comparison")


def test_the_grid_shows_a_b_and_their_difference_by_key_and_by_mouse(widget, shot):
    expect(widget.root.locator(".lw-legend")).to_contain_text("KL(A ‖ B)")
    for column in (ONLY_A, ONLY_B):
        expect(widget.cell(20, column)).to_have_class(re.compile("is-missing"))
    expect(widget.cell(20, LAST)).not_to_have_class(re.compile("is-missing"))
    widget.cell(29, LAST).hover()
    kl = widget.value(f"w.comparison().grid('kl_to_b')[-1, {LAST}]")
    tooltip = widget.root.locator(".lw-tooltip")
    expect(tooltip).to_contain_text(f"{kl:.2f}")
    expect(tooltip).to_contain_text("A: ")
    shot(widget.page, "compare-difference")
    widget.cell(29, LAST).focus()
    widget.page.keyboard.press("d")
    widget.becomes("w.view", "a")
    expect(widget.cell(29, LAST)).to_have_text("·Paris")
    expect(widget.cell(29, ONLY_A)).not_to_have_class(re.compile("is-missing"))
    widget.page.keyboard.press("d")
    widget.becomes("w.view", "b")
    expect(widget.cell(29, LAST)).to_have_text("·Rome")
    bar(widget).get_by_role("button", name="difference").click()
    widget.becomes("w.view", "difference")
    widget.control("Difference of").select_option("agrees")
    widget.becomes("w.difference", "agrees")
    expect(widget.root.locator(".lw-legend")).to_contain_text("Same top token")
    widget.control("Difference of").select_option("log_prob")
    expect(widget.root.locator(".lw-legend")).to_contain_text("Change of log-prob of “␣Paris”")
    expect(widget.cell(29, LAST)).not_to_have_class(re.compile("is-missing"))


def test_a_card_has_two_columns(widget, shot):
    card = widget.open_card(29, LAST)
    table = card.get_by_role("group", name="Top tokens of both sides")
    text = [re.sub(r"\s+", " ", row) for row in table.locator("tbody tr").all_inner_texts()]
    assert re.match(r"␣Paris 65\.6 % ␣Rome \d", text[0])
    shot(widget.page, "compare-card")
    widget.cell(29, LAST).focus()
    widget.page.keyboard.press("e")
    expect(widget.root.locator("[role=status].lw-status")).to_have_text("A comparison takes no edits")


def test_axe_finds_nothing_and_nothing_is_cut(widget, shot):
    widget.open_card(29, LAST)
    widget.has_no_axe_violations(shot, "compare")
    for width in (600, 350):
        widget.page.set_viewport_size({"width": width, "height": 1100})
        widget.page.wait_for_timeout(500)
        assert widget.page.evaluate(OUTSIDE) == []


def test_a_typed_prompt_runs_the_second_side(widget):
    box = widget.root.get_by_role("textbox", name="Prompt")
    box.fill("The Louvre is in the city of")
    box.press("Enter")
    widget.becomes("w.prompt", "The Louvre is in the city of")
    expect(bar(widget)).to_contain_text("The Louvre")
    expect(bar(widget)).to_contain_text("The Eiffel Tower")
