"""The prompt grows on the grid: continued, stopped, forked, and followed as it is typed."""

import re

import pytest
from playwright.sync_api import expect
from widget_page import PROMPT, WidgetPage

# Most tests run with three threads or fewer, on a machine that does other things too.
SLOW_MS = 60_000


@pytest.fixture
def widget(shown: WidgetPage):
    shown.page.set_viewport_size({"width": 1400, "height": 1100})
    shown.reset()
    return shown


def n_tokens(widget):
    return widget.value("len(w.run['tokens'])")


def button(widget, name):
    return widget.root.get_by_role("button", name=name, exact=True)


def choose_tokens(widget, n):
    button(widget, "How to continue").click()
    panel = widget.root.get_by_role("group", name="How to continue")
    panel.get_by_label("Tokens", exact=True).fill(str(n))
    panel.get_by_label("Tokens", exact=True).press("Enter")
    return panel


def test_continue_adds_columns_whose_tokens_are_those_of_generate(widget, shot):
    panel = choose_tokens(widget, 4)
    shot(widget.page, "continue-panel")
    widget.page.keyboard.press("Escape")
    expect(panel).to_have_count(0)
    button(widget, "Continue").click()
    expect(widget.root.locator(".lw-info .lw-state")).to_have_text("Live", timeout=SLOW_MS)
    widget.becomes("len(w.run['tokens'])", 13)
    ids = widget.value("w.run['tokens']")
    own = "model.hf_model.generate(model.tokenize(prompt)['input_ids'], max_new_tokens=4, do_sample=False)"
    widget.execute(f"prompt = {PROMPT!r}; own = {own}[0].tolist()")
    assert ids == widget.value("own")
    # columns that were there before have their numbers still, and new ones too
    for position in (0, 8, 9, 12):
        expect(widget.cell(29, position)).not_to_have_class(re.compile("is-missing"))
    expect(widget.root.get_by_role("img", name=re.compile("Reuse: Continued from a cache"))).to_be_visible()
    shot(widget.page, "continue-after")


def test_stop_keeps_what_came(widget, shot):
    choose_tokens(widget, 200)
    widget.page.keyboard.press("Escape")
    button(widget, "Continue").click()
    state = widget.root.locator(".lw-info .lw-state")
    expect(state).to_have_text(re.compile(r"Generating: [3-9] of 200"), timeout=SLOW_MS)
    shot(widget.page, "continue-running")
    button(widget, "Stop").first.click()
    expect(button(widget, "Continue")).to_be_visible(timeout=SLOW_MS)
    n = n_tokens(widget)
    assert 12 <= n < 60
    widget.page.wait_for_timeout(500)
    assert n_tokens(widget) == n
    expect(widget.root.locator(".lw-notice")).to_have_count(0)


def test_a_click_on_an_alternative_in_the_last_row_forks_there(widget, shot):
    card = widget.open_card(29, 4)
    first = widget.value("w.run['id']")
    fork = card.locator(".lw-fork").nth(1)
    token = fork.get_attribute("title")
    shot(card, "fork-card")
    fork.click()
    widget.becomes("len(w.run['tokens'])", 6)
    reuse = widget.value("w.run['reuse']")
    assert reuse["n_columns"] == 5
    assert reuse["run_id"] == first
    chosen = widget.value("w.run['labels'][str(w.run['tokens'][-1])][0]")
    assert token == f"Go on with {chosen} after position 4"


def test_live_follows_the_typing(widget, shot):
    widget.root.get_by_label("Live typing", exact=True).check()
    box = widget.root.get_by_label("Prompt", exact=True)
    box.press("End")
    box.type(" Paris,", delay=30)
    widget.becomes("w.prompt", PROMPT + " Paris,", timeout_s=60)
    expect(widget.root.locator(".lw-info")).not_to_contain_text("edited, not run")
    assert widget.value("w.run['reuse']['n_columns']") >= 9
    expect(widget.cell(29, 10)).not_to_have_class(re.compile("is-missing"))
    shot(widget.page, "live-typing")
    widget.root.get_by_label("Live typing", exact=True).uncheck()
    box.type(" x")
    widget.page.wait_for_timeout(500)
    assert widget.value("w.prompt") == PROMPT + " Paris,"
    box.fill(PROMPT)
