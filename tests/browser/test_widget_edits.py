"""A run is edited on the grid, by mouse and by keyboard, and shown before, after and as a difference."""

import re

import pytest
from playwright.sync_api import expect
from test_widget_looks import OUTSIDE
from widget_page import WidgetPage

LAST = 8  # position of the prompt's last token


@pytest.fixture
def widget(shown: WidgetPage):
    shown.page.set_viewport_size({"width": 1400, "height": 1100})
    shown.reset()
    expect(shown.root.locator(".lw-edits")).to_have_count(0)
    return shown


def editor(widget):
    return widget.root.get_by_role("region", name="Edit the run")


def bar(widget):
    return widget.root.get_by_role("region", name="Edits")


def edit_at(widget, layer, position, op, **fields):
    """Edit a cell by its key and the form."""
    widget.cell(layer, position).click()
    widget.page.keyboard.press("e")
    form = editor(widget)
    form.get_by_role("combobox", name="What").select_option(op)
    for name, value in fields.items():
        box = form.get_by_label(name, exact=True)
        (box.select_option if box.evaluate("e => e.tagName") == "SELECT" else box.fill)(value)
    form.get_by_role("button", name="Apply").click()
    expect(form).to_have_count(0)
    expect(bar(widget)).to_be_visible()


def test_an_edit_by_key_shows_what_it_did_and_what_it_left(widget, shot):
    edit_at(widget, 20, 7, "zero", Site="mlp_out")
    widget.becomes(
        "[(e.op, e.site, e.layers, e.positions) for e in w.edits]", [["zero", "mlp_out", [20], [7]]]
    )
    text = bar(widget).inner_text()
    assert "20 mlp_out · “␣city” → 0" in re.sub(r"\s+", " ", text)
    answer = widget.value("w.run['edited']['effect']")
    assert f"{100 * 2.718281828 ** answer['before']:.1f}" in text
    expect(bar(widget).get_by_role("img", name=re.compile("Proof: .*bit-equal"))).to_be_visible()
    # rows of layers -1 to 19, and positions 0 to 6 above
    assert widget.value("w.run['edited']['proof']['n_equal']") == 21 * 9 + 10 * 7
    assert "is-edited" in widget.cell(20, 7).get_attribute("class")
    shot(widget.page, "edit-after")


def test_d_flips_between_after_difference_and_before(widget, shot):
    widget.execute("w.edits = [lw.Edit('zero', layers=24, positions=-1)]")
    expect(bar(widget)).to_be_visible()
    widget.cell(29, LAST).click()
    after = widget.decoded_card(29, LAST).inner_text()
    widget.page.keyboard.press("d")
    widget.becomes("w.view", "difference")
    expect(widget.root.locator(".lw-legend")).to_contain_text("KL(before ‖ after)")
    # what the edit cannot reach is not changed at all
    untouched = widget.cell(10, 3)
    expect(untouched).not_to_have_class(re.compile("is-missing"))
    plain = untouched.evaluate("e => getComputedStyle(e).backgroundColor")
    expect(widget.cell(29, LAST)).not_to_have_css("background-color", plain)
    shot(widget.page, "edit-difference")
    widget.page.keyboard.press("d")
    widget.becomes("w.view", "before")
    expect(widget.cell(29, LAST)).to_have_text("·Paris")
    expect(widget.card()).to_contain_text("Paris")
    before = widget.decoded_card(29, LAST).inner_text()
    assert before != after
    widget.page.keyboard.press("d")
    widget.becomes("w.view", "after")
    expect(widget.cell(29, LAST)).not_to_have_text("·Paris")


def test_the_difference_of_a_token_is_that_of_two_reads(widget, shot):
    widget.execute(
        "w.edits = [lw.Edit('scale', layers=22, positions=-1, strength=0.5)]; w.view = 'difference';"
        "w.difference = 'log_prob'"
    )
    expect(widget.root.locator(".lw-legend")).to_contain_text("Change of log-prob of “␣Paris”")
    cell = widget.cell(29, LAST)
    expect(cell).not_to_have_class(re.compile("is-missing"))
    cell.hover()
    paris = widget.value("model.tokenizer.encode(' Paris')[0]")
    expected = widget.value(
        f"(lambda a, b: float(a - b))(*[lw.read(r, [(29, {LAST})], track=[{paris}]).tracked_log_probs[0, 0] "
        "for r in (model.run(w.prompt, edits=w.edits), model.run(w.prompt))])"
    )
    tooltip = widget.root.locator(".lw-tooltip")
    expect(tooltip).to_contain_text(f"{expected:.2f}".replace("-", "−"))
    shot(widget.page, "edit-log-prob")
    widget.execute("w.difference = 'rank'")
    expect(widget.root.locator(".lw-legend")).to_contain_text("Rise in rank of “␣Paris”")


def test_a_chip_switches_changes_and_removes_its_edit(widget):
    widget.execute("w.edits = [lw.Edit('scale', layers=22, positions=-1, strength=0.5)]")
    chip = bar(widget).get_by_role("listitem")
    run = widget.value("w.run['id']")
    chip.get_by_role("slider").fill("2")
    widget.becomes("w.edits[0].strength", 2.0)
    assert widget.value("w.run['id']") != run
    chip.get_by_role("checkbox").uncheck()
    widget.becomes("w.edits[0].is_on", False)
    widget.becomes("w.run['edited']", None)
    expect(widget.cell(29, LAST)).to_have_text("·Paris")
    chip.get_by_role("checkbox").check()
    widget.becomes("w.run['edited'] is None", False)
    chip.get_by_role("button", name=re.compile("Remove")).click()
    widget.becomes("len(w.edits)", 0)
    expect(bar(widget)).to_have_count(0)


def test_a_slider_that_is_dragged_ends_at_its_last_value(widget):
    widget.execute("w.edits = [lw.Edit('scale', layers=22, positions=-1, strength=1.0)]")
    slider = bar(widget).get_by_role("slider")
    slider.focus()
    for _ in range(9):
        widget.page.keyboard.press("ArrowRight")
    widget.becomes("round(w.edits[0].strength, 2)", 1.45)
    expect(bar(widget).locator("output")).to_have_text("1.45")


def test_a_steer_stands_beside_its_control(widget, shot):
    widget.execute("w.track(' Rome')")
    rome = str(widget.value("w.pins[0]['ids'][0]"))
    edit_at(widget, 24, 7, "steer", token=rome, Strength="1.5")
    widget.becomes("w.edits[0].op", "steer")
    expect(bar(widget)).to_contain_text("control")
    bar(widget).get_by_role("button", name="control").click()
    widget.becomes("w.view", "control")
    control = widget.value("w.run['edited']['control_id']")
    top = widget.value(f"int(lw.read(w._session.run_of({control!r}), [(29, {LAST})]).ids[0, 0])")
    expect(widget.cell(29, LAST)).to_have_text(
        widget.value(f"model.tokenizer.decode([{top}])").replace(" ", "·")
    )
    shot(widget.page, "edit-steer")


def test_a_cell_is_taken_and_put_into_another_prompt(widget, shot):
    widget.cell(23, LAST).click()
    widget.page.keyboard.press("y")
    expect(bar(widget)).to_contain_text("taken: 23 “␣of”")
    widget.execute("w.prompt = 'The Colosseum is in the city of'")
    expect(widget.root.locator(".lw-info")).to_contain_text("Rome")
    n = widget.value("len(w.run['tokens'])")
    widget.cell(23, n - 1).click()
    widget.page.keyboard.press("Shift+P")
    widget.becomes("[e.op for e in w.edits]", ["patch"])
    effect = widget.value("w.run['edited']['effect']")
    assert effect["after"] < effect["before"]
    expect(bar(widget).get_by_role("listitem")).to_contain_text("Tower is in the city of")
    shot(widget.page, "edit-patch")
    bar(widget).get_by_role("button", name="Let the taken cell go").click()
    expect(bar(widget)).not_to_contain_text("taken")


def test_a_refused_edit_is_said_and_the_grid_stays(widget):
    before = widget.cell(29, LAST).inner_text()
    widget.cell(5, 0).click()
    widget.page.keyboard.press("e")
    form = editor(widget)
    form.get_by_role("combobox", name="What").select_option("swap")
    same = form.get_by_label("token", exact=True).input_value()
    form.get_by_label("with", exact=True).select_option(same)
    form.get_by_role("button", name="Apply").click()
    expect(widget.root.get_by_role("alert")).to_contain_text("same token twice")
    expect(widget.cell(29, LAST)).to_have_text(before)
    assert widget.value("len(w.edits)") == 0


def test_edits_fit_a_narrow_page_and_its_dark_theme_and_axe_finds_nothing(widget, shot):
    widget.execute(
        "w.edits = [lw.Edit('zero', site='mlp_out', layers=[20, 21, 22], positions=[3, 4]),"
        " lw.Edit('steer', layers=24, positions=-1, tokens=' Rome', is_on=False)]; w.view = 'difference'"
    )
    expect(bar(widget)).to_be_visible()
    widget.cell(20, 3).click()
    widget.page.keyboard.press("e")
    for width in (1400, 600, 350):
        widget.page.set_viewport_size({"width": width, "height": 1300})
        widget.page.wait_for_timeout(500)
        assert widget.page.evaluate(OUTSIDE.replace(".lw-tag", ".lw-tag, .lw-edit")) == []
        shot(widget.page, f"edit-{width}")
    widget.page.set_viewport_size({"width": 1400, "height": 1100})
    widget.has_no_axe_violations(shot, "edit")
