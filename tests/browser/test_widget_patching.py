"""A second prompt under the first: cells dragged or put from it, and the causal map that it gives."""

import re

import pytest
from playwright.sync_api import expect
from test_widget_looks import OUTSIDE
from widget_page import WidgetPage

LAST = 8
COLOSSEUM = "The Colosseum is in the city of"
EIFFEL = "The Eiffel Tower is in the city of"


@pytest.fixture
def widget(shown: WidgetPage):
    shown.page.set_viewport_size({"width": 1400, "height": 1500})
    close = shown.root.get_by_role("button", name="Let the second prompt go")
    if close.is_visible():
        close.click()
    shown.execute("w.source = None")
    shown.reset()
    shown.execute(f"w.prompt = {COLOSSEUM!r}")
    expect(shown.root.locator(".lw-info strong")).to_have_text("“␣Rome”")
    expect(shown.root.locator(".lw-source")).to_be_hidden()
    return shown


def second(widget):
    return widget.root.locator(".lw-source .lw-grid")


def cell_of(grid, layer, position, n_layers=30):
    return grid.locator(
        f".lw-row[aria-rowindex='{n_layers - layer + 1}'] > [role=gridcell][aria-colindex='{position + 2}']"
    )


def first(widget, layer, position):
    return cell_of(widget.root.locator(".lw-left > .lw-grid"), layer, position)


def open_second(widget):
    """By its key and its box."""
    first(widget, 29, LAST).click()
    widget.page.keyboard.press("m")
    box = widget.root.get_by_role("textbox", name="Second prompt")
    box.fill(EIFFEL)
    box.press("Enter")
    widget.becomes("w.source", EIFFEL)
    expect(cell_of(second(widget), 29, LAST)).to_have_text("·Paris")


def test_a_cell_is_dragged_onto_the_first_grid(widget, shot):
    open_second(widget)
    source, target = cell_of(second(widget), 24, LAST), first(widget, 24, LAST)
    # columns stand under each other
    assert abs(source.bounding_box()["x"] - target.bounding_box()["x"]) < 2
    start, end = source.bounding_box(), target.bounding_box()
    page = widget.page
    page.mouse.move(start["x"] + 10, start["y"] + 10)
    page.mouse.down()
    page.mouse.move(start["x"] + 20, start["y"] - 60, steps=4)
    page.mouse.move(end["x"] + 10, end["y"] + 10, steps=4)
    expect(target).to_have_class(re.compile("is-reach-left"))
    expect(widget.root.locator(".lw-arrows path")).to_have_count(1)
    shot(page, "patch-drag")
    page.mouse.up()
    widget.becomes(
        "[(e.op, e.layers, e.positions, e.from_layer) for e in w.edits]", [["patch", [24], [8], 24]]
    )
    expect(widget.root.locator(".lw-arrows path")).to_have_count(1)
    effect = widget.value("w.run['edited']['effect']")
    assert effect["after"] < effect["before"]
    # the run is that of the same edit made in Python
    expected = widget.value(
        f"(lambda s: float(lw.read(model.run({COLOSSEUM!r}, edits=[lw.Edit('patch', layers=24, positions=8,"
        f" source=s)]), [(29, 8)], track=[{effect['id']}]).tracked_log_probs[0, 0]))(model.run({EIFFEL!r}))"
    )
    assert abs(effect["after"] - expected) < 1e-4
    # what it can change is outlined, and nothing else
    expect(first(widget, 24, LAST)).to_have_class(re.compile("is-reach-low"))
    expect(first(widget, 23, LAST)).not_to_have_class(re.compile("is-reach"))
    expect(first(widget, 26, LAST - 1)).not_to_have_class(re.compile("is-reach"))
    page.keyboard.press("d")
    shot(page, "patch-dropped")


def test_escape_lets_a_dragged_cell_go(widget):
    open_second(widget)
    start, end = cell_of(second(widget), 24, LAST).bounding_box(), first(widget, 24, LAST).bounding_box()
    widget.page.mouse.move(start["x"] + 10, start["y"] + 10)
    widget.page.mouse.down()
    widget.page.mouse.move(end["x"] + 10, end["y"] + 10, steps=5)
    widget.page.keyboard.press("Escape")
    widget.page.mouse.up()
    expect(widget.root.locator(".lw-arrows path")).to_have_count(0)
    widget.page.wait_for_timeout(500)  # a patch that was asked for all the same would be run by then
    assert widget.value("len(w.edits)") == 0


def test_a_cell_is_taken_and_put_by_keys(widget):
    open_second(widget)
    cell_of(second(widget), 25, LAST).focus()
    widget.page.keyboard.press("ArrowUp")
    expect(cell_of(second(widget), 26, LAST)).to_be_focused()
    widget.page.keyboard.press("y")
    expect(widget.root.locator("[role=status].lw-status")).to_contain_text("Took the cell 26")
    first(widget, 26, LAST).focus()
    widget.page.keyboard.press("Shift+P")
    widget.becomes("[(e.op, e.layers, e.positions) for e in w.edits]", [["patch", [26], [8]]])
    widget.root.get_by_role("button", name="Let the second prompt go").click()
    widget.becomes("w.source", None)
    expect(second(widget)).to_be_hidden()


def test_a_map_fills_the_grid_and_a_click_makes_the_patch(widget, shot):
    open_second(widget)
    form = widget.root.get_by_role("group", name="Causal map")
    form.get_by_role("button", name="Map").click()
    expect(widget.root.locator(".lw-cell.is-estimate").first).to_be_visible()
    shot(widget.page, "map-growing")
    expect(form.get_by_role("button", name="Map")).to_be_visible(timeout=240_000)
    expect(widget.root.locator(".lw-cell.is-estimate")).to_have_count(9)  # the embedding, which no layer is
    answer, foil = widget.value("(w.causal['answer']['label'][2], w.causal['foil']['label'][2])")
    assert (answer, foil) == (" Paris", " Rome")
    expect(widget.root.locator(".lw-legend")).to_contain_text("Effect on “␣Paris” − “␣Rome”")
    at = widget.value("w.causal['layers'].index(24) * 9 + 8")
    expected = widget.value(f"w.causal['measured'][{at}]")
    first(widget, 24, LAST).hover()
    expect(widget.root.locator(".lw-tooltip")).to_contain_text(f"{expected:.2f}".replace("-", "−"))
    first(widget, 24, LAST).click()
    widget.becomes("[(e.op, e.layers, e.positions) for e in w.edits]", [["patch", [24], [8]]])
    assert widget.value("w.view") == "map"
    # another one takes its place, by key
    first(widget, 25, LAST).focus()
    widget.page.keyboard.press("Enter")
    widget.becomes("[(e.op, e.layers, e.positions) for e in w.edits]", [["patch", [25], [8]]])
    expect(
        widget.root.get_by_role("img", name=re.compile("Estimate .across. against measurement"))
    ).to_be_visible()
    widget.has_no_axe_violations(shot, "map")
    for width in (600, 350):
        widget.page.set_viewport_size({"width": width, "height": 1500})
        widget.page.wait_for_timeout(500)
        assert widget.page.evaluate(OUTSIDE) == []


def test_a_map_is_stopped_and_keeps_what_was_measured(widget):
    open_second(widget)
    form = widget.root.get_by_role("group", name="Causal map")
    form.get_by_role("button", name="Map").click()
    form.get_by_role("button", name="Stop").click()
    expect(form.get_by_role("button", name="Map")).to_be_visible()
    measured = widget.value("sum(x is not None for x in w.causal['measured'])")
    assert measured < 270
    assert widget.value("sum(x is not None for x in w.causal['estimate'])") == 270
    assert widget.value("w.causal['is_done']") is True
