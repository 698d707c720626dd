"""The prompt written out by its surprise, the tree of forks, and what is played."""

import re

import pytest
from playwright.sync_api import expect
from widget_page import PROMPT, WidgetPage

SLOW_MS = 60_000


@pytest.fixture
def widget(shown: WidgetPage):
    shown.page.set_viewport_size({"width": 1400, "height": 1100})
    shown.execute("w.show_spine = False")
    shown.reset()
    return shown


def opened(widget):
    """The words of the prompt, once their surprise is there."""
    widget.root.get_by_label("Surprise", exact=True).check()
    words = widget.root.get_by_role("slider")
    expect(words.locator(".lw-word")).to_have_count(9)
    expect(words.locator(".lw-word.is-unknown")).to_have_count(1)
    return words


def idle(widget):
    expect(widget.root.locator(".lw-info .lw-state")).to_have_text("Live", timeout=SLOW_MS)


def test_each_word_says_what_the_models_log_softmax_says(widget, shot):
    words = opened(widget)
    widget.execute(
        "import torch; ids = torch.tensor([w.run['tokens']]); "
        "lp = model.hf_model(ids).logits[0].detach().double().log_softmax(-1)"
    )
    own = widget.value("[-float(lp[i, t]) for i, t in enumerate(w.run['tokens'][1:])]")
    titles = [words.locator(".lw-word").nth(i).get_attribute("title") for i in range(1, 9)]
    said = [float(re.search(r"surprise ([\d.]+) nats", title)[1]) for title in titles]
    assert said == pytest.approx(own, abs=0.0051)
    assert words.inner_text() == PROMPT
    shades = [
        words.locator(".lw-word").nth(i).evaluate("node => getComputedStyle(node).backgroundColor")
        for i in (1 + own.index(max(own)), 1 + own.index(min(own)))
    ]
    assert shades[0] != shades[1]
    expect(widget.root.locator(".lw-spine")).to_contain_text("perplexity")
    shot(widget.page, "spine-open")
    # a screen reader hears the token and its number, with the same value that is drawn
    words.locator(".lw-word").nth(4).click()
    expect(words).to_have_attribute("aria-valuenow", "4")
    assert re.search(rf"surprise {own[3]:.2f} nats", words.get_attribute("aria-valuetext"))


def test_keys_step_through_the_columns_and_play_runs_to_the_end(widget):
    words = opened(widget)
    widget.cell(20, 3).click()
    widget.page.keyboard.press(".")
    expect(widget.cell(20, 4)).to_be_focused()
    expect(words).to_have_attribute("aria-valuenow", "4")
    widget.page.keyboard.press(",")
    widget.page.keyboard.press(",")
    expect(widget.cell(20, 2)).to_be_focused()
    words.focus()
    widget.page.keyboard.press("ArrowRight")
    expect(words).to_have_attribute("aria-valuenow", "3")
    expect(words).to_be_focused()
    widget.root.get_by_label("Speed", exact=True).select_option("16")
    words.focus()
    widget.page.keyboard.press("Space")
    expect(widget.root.get_by_role("button", name="Pause")).to_be_visible()
    expect(words).to_have_attribute("aria-valuenow", "8")
    expect(widget.root.get_by_role("button", name="Play", exact=True)).to_be_visible()


def test_less_motion_plays_slowly(browser, widget):
    words = opened(widget)
    widget.page.emulate_media(reduced_motion="reduce")
    words.locator(".lw-word").nth(1).click()
    widget.root.get_by_label("Speed", exact=True).select_option("16")
    widget.root.get_by_role("button", name="Play", exact=True).click()
    widget.page.wait_for_timeout(500)
    assert words.get_attribute("aria-valuenow") == "1"
    expect(words).to_have_attribute("aria-valuenow", "2")
    widget.root.get_by_role("button", name="Pause").click()
    widget.page.emulate_media(reduced_motion=None)


def test_an_alternative_forks_and_the_tree_leads_back_and_compares(widget, shot):
    words = opened(widget)
    first = widget.value("w.run['id']")
    words.locator(".lw-word").nth(5).click()
    other = widget.root.locator(".lw-other").first
    expect(other).to_have_attribute("title", re.compile("after position 4"), timeout=SLOW_MS)
    token = other.get_attribute("title")
    other.click()
    widget.becomes("len(w.run['tokens'])", 6)
    idle(widget)
    chosen = widget.value("w.run['labels'][str(w.run['tokens'][-1])][0]")
    assert token == f"Go on with {chosen} after position 4"
    tree = widget.root.get_by_label("Branches", exact=True)
    expect(tree.locator("li")).to_have_count(2)
    expect(tree.locator("[aria-current=true]")).to_contain_text(chosen)
    # by a key, from the card's own cell
    widget.cell(29, 1).click()
    widget.page.keyboard.press("b")
    expect(tree.locator("li")).to_have_count(3)
    idle(widget)
    shot(widget.page, "branches")
    tree.get_by_role("button", name=re.compile("^Compare the shown run with the first run")).click()
    expect(widget.root.get_by_label("Comparison", exact=True)).to_be_visible(timeout=SLOW_MS)
    idle(widget)
    shot(widget.page, "branches-compared")
    tree.get_by_role("button", name="Show one run again").click()
    expect(widget.root.get_by_label("Comparison", exact=True)).to_have_count(0)
    tree.get_by_role("button", name=re.compile("^The first run:")).click()
    widget.becomes("w.run['id']", first)
    expect(tree.locator("[aria-current=true]")).to_have_count(1)


def test_pinned_tokens_run_along_the_prompt_and_say_where_they_rise(widget, shot):
    widget.execute("w.track(' Paris'); w.track(' city')")
    widget.root.get_by_label("Over", exact=True).select_option("tokens")
    widget.cell(29, 8).click()
    bar = widget.root.locator(".lw-chartbar")
    expect(bar).to_contain_text("Paris rises most at 8")
    expect(bar).not_to_contain_text("fetching")
    chart = widget.root.locator(".lw-pins svg.lw-chart")
    paris = widget.value("float(w.track(' Paris').grid('tracked_log_probs')[-1, -1, 0])")
    said = re.search(r"Paris: first token .*?, last token ([\d.]+) %", chart.get_attribute("aria-label"))
    assert float(said[1]) == pytest.approx(100 * 2.718281828**paris, rel=5e-3)
    shot(widget.root.locator(".lw-pins"), "chart-along")
    assert widget.value("w.trajectory['over']") == "tokens"
