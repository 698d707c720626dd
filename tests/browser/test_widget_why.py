"""The card's Why: terms that sum to the logit, a layer that opens into heads, and a bar that is a switch."""

import re

import pytest
from playwright.sync_api import expect
from test_widget_looks import OUTSIDE
from widget_page import WidgetPage

LAST = 8  # position of the prompt's last token


@pytest.fixture
def widget(shown: WidgetPage):
    shown.page.set_viewport_size({"width": 1400, "height": 1500})
    shown.reset()
    return shown


def why(widget):
    return widget.card().get_by_role("region", name="Why")


def open_why(widget, layer=29, position=LAST):
    card = widget.open_card(layer, position)
    button = card.get_by_role("button", name="Why", exact=True)
    if button.get_attribute("aria-expanded") == "false":  # it stays as a person left it
        button.click()
    expect(why(widget).locator(".lw-why")).to_be_visible(timeout=60_000)
    return why(widget)


def number(text):
    return float(text.replace("−", "-"))


def test_the_terms_stand_there_and_sum_to_the_cells_logit(widget, shot):
    widget.execute("w.track(' Paris')")
    section = open_why(widget)
    assert section.get_by_role("button").count() == 30
    sums = section.locator(".lw-facts").first.inner_text()
    total, logit = (number(re.search(rf"{name} ([−\d.]+)", sums).group(1)) for name in ("sum", "logit"))
    assert abs(total - logit) <= 0.001
    own = widget.value(
        "float(lw.decode(w._session.run, 29, 8, k=1).logits[0])",
    )
    assert abs(logit - own) <= 0.001
    expected = widget.value(
        "[(n, round(float(p), 2)) for n, p in zip(*(lambda a: (a.names, a.predicted))"
        "(lw.attribute(w._session.run, 29, 8, token=' Paris'))) if n in ('L23 attn', 'L29 mlp')]"
    )
    for name, value in expected:
        layer, part = name[1:].split(" ")
        said = section.get_by_role("button", name=re.compile(f"^layer {layer}:")).get_attribute("aria-label")
        word = {"attn": "attention", "mlp": "MLP"}[part]
        assert abs(number(re.search(rf"{word} \+?([−\d.]+)", said).group(1)) - value) <= 0.011
    shot(widget.page, "why")


def test_a_layer_opens_into_heads_and_one_is_switched_off(widget, shot):
    section = open_why(widget)
    section.get_by_role("button", name=re.compile("^layer 23:")).click()
    table = section.get_by_role("table", name="What layer 23 adds")
    expect(table).to_contain_text("Neurons", timeout=60_000)
    expect(table.get_by_role("row", name=re.compile("^neuron"))).to_have_count(5, timeout=60_000)
    expect(table).to_contain_text("Reads from")
    expect(table).to_contain_text("iffel")
    shot(widget.page, "why-layer")
    before = widget.value("float(lw.decode(w._session.run, 29, 8, k=1).logits[0])")
    table.get_by_role("button", name="Off: L23 head 4", exact=True).click()
    widget.becomes(
        "[(e.op, e.site, e.layers, e.positions, e.heads) for e in w.edits]",
        [["zero", "attn_out", [23], [8], [4]]],
    )
    line = section.locator(".lw-whyswitched")
    expect(line).to_contain_text("run again", timeout=60_000)
    after = widget.value(
        "float(lw.decode(w._session.run, 29, 8, k=1, track=[w.run['edited']['effect']['id']]).logits[0])"
    )
    said = number(re.search(r"run again \+?([−\d.]+)", line.inner_text()).group(1))
    assert abs(said - (before - after)) <= 0.006
    expect(widget.root.get_by_role("region", name="Edits")).to_contain_text("attn_out head 4")
    shot(widget.page, "why-switched")


def test_by_keyboard_and_without_faults_for_a_screen_reader(widget, shot):
    card = widget.open_card(28, LAST)
    if card.get_by_role("button", name="Why", exact=True).get_attribute("aria-expanded") == "false":
        widget.page.keyboard.press("w")
    section = why(widget)
    expect(section.locator(".lw-why")).to_be_visible(timeout=60_000)
    section.get_by_role("button", name=re.compile("^layer 10:")).focus()
    widget.page.keyboard.press("ArrowUp")
    widget.page.keyboard.press("Enter")
    table = section.get_by_role("table", name="What layer 11 adds")
    expect(table.get_by_role("row", name=re.compile("^neuron"))).to_have_count(5, timeout=60_000)
    assert widget.page.evaluate(OUTSIDE) == []
    widget.has_no_axe_violations(shot, "why")
    # another cell is explained in its turn
    widget.cell(20, 5).click()
    widget.decoded_card(20, 5)
    expect(section.get_by_role("button", name=re.compile("^layer 21:"))).to_have_count(0, timeout=60_000)
    widget.cell(20, 5).focus()
    widget.page.keyboard.press("w")
    expect(section).to_have_count(0)


def test_an_open_layer_marks_what_its_attention_read_and_a_head_has_arcs(widget, shot):
    widget.page.set_viewport_size({"width": 1400, "height": 2100})
    section = open_why(widget)
    section.get_by_role("button", name=re.compile("^layer 23:")).click()
    thumbs = section.get_by_role("button", name=re.compile(r"^head \d reads "))
    expect(thumbs).to_have_count(8, timeout=60_000)
    found = widget.value(
        "(lambda a, sizes: [a.weights.round(4).tolist(), (sizes / sizes.sum()).tolist(), a.sinks])"
        "(a := lw.attention(w._session.run, 23, 8), a.value_weighted.sum(0))"
    )
    weights, read, sinks = found
    heads = widget.root.locator(".lw-head .lw-colhead")
    marked = [i for i, share in enumerate(read) if share >= 0.02]
    expect(widget.root.locator(".lw-colhead.is-read")).to_have_count(len(marked))
    assert sinks == [0]
    expect(heads.nth(0)).to_have_class(re.compile("is-sink"))
    assert "a sink" in heads.nth(0).get_attribute("title")
    expect(widget.root.locator(".lw-arcs path")).to_have_count(0)
    shot(widget.page, "why-reads")
    # one head, pointed at: its own weights, and arcs from what it read
    thumb = section.get_by_role("button", name=re.compile("^head 4 reads "))
    thumb.hover()
    best = max(range(1, 9), key=lambda i: weights[4][i])
    assert f"{100 * weights[4][best]:.3g}"[:3] in thumb.get_attribute("aria-label")
    n_arcs = sum(share >= 0.02 for share in weights[4][:LAST])
    expect(widget.root.locator(".lw-arcs path")).to_have_count(n_arcs)
    expect(heads.nth(best)).to_have_attribute(
        "title", re.compile(f"read by head 4: {100 * weights[4][best]:.0f} %")
    )
    shot(widget.page, "why-arcs")
    section.get_by_role("button", name=re.compile("^layer 5:")).hover()
    expect(widget.root.locator(".lw-arcs path")).to_have_count(0)
    # by keyboard, and held by a press; folding the layer takes everything away
    thumb.focus()
    expect(widget.root.locator(".lw-arcs path")).to_have_count(n_arcs)
    widget.page.keyboard.press("Enter")
    expect(thumb).to_have_attribute("aria-pressed", "true")
    section.get_by_role("button", name=re.compile("^layer 23:")).focus()
    expect(widget.root.locator(".lw-arcs path")).to_have_count(n_arcs)
    # no part of the marks takes a press: the cell under an arc opens
    widget.has_no_axe_violations(shot, "why-arcs")
    section.get_by_role("button", name=re.compile("^layer 23:")).click()
    expect(widget.root.locator(".is-read, .lw-readcolumn, .lw-arcs")).to_have_count(0)
