"""What a newcomer meets first: a lens with its quality line, a low window, a box that was typed in."""

import pytest
from harness.lens import Lens
from playwright.sync_api import expect
from widget_page import PROMPT, WidgetPage, widget_in_lab

CODE = f"""import lenswidget as lw
model = lw.demo_model()
texts = [{PROMPT!r}, "The capital of Japan is Tokyo, a city of many districts."]
_ = lw.report(None, model, texts, progress=False)
w = model.lens({PROMPT!r}, lens="logit")
w"""

# The part of an element that a person sees, as a share of it.
SEEN = """element => new Promise((tell) => {
  const look = new IntersectionObserver(([entry]) => { look.disconnect(); tell(entry.intersectionRatio); });
  look.observe(element);
})"""


@pytest.fixture(scope="module")
def measured(browser, lab):
    with widget_in_lab(browser, lab, "first-sight.ipynb", CODE) as widget:
        yield widget


@pytest.fixture
def widget(measured: WidgetPage):
    measured.page.set_viewport_size({"width": 1280, "height": 665})
    measured.reset()
    return measured


def test_the_switch_draws_the_kernels_curve_and_the_legend_names_poor_rows(widget, shot):
    curve = widget.root.locator(".lw-controls .lw-quality")
    told = widget.value("w.run['lens_quality']['logit']")
    paths = curve.locator("path").evaluate_all("all => all.map((e) => e.getAttribute('d'))")
    assert paths == told["paths"]
    assert curve.get_attribute("aria-label") == told["text"]
    assert told["poor"]
    expect(widget.root.locator(".lw-legend")).to_contain_text(told["poor"])
    widget.execute("w.lens = 'tuned'")
    expect(widget.control("Lens")).to_have_value("tuned")
    shot(widget.page, "first-sight-tuned")
    widget.execute("w.lens = 'logit'; w.site = 'attn_out'")
    # it was measured on the stream
    expect(widget.root.locator(".lw-legend")).not_to_contain_text(told["poor"])


@pytest.mark.parametrize("layer", [28, 14, 0])
@pytest.mark.parametrize("size", [(1280, 665), (640, 332)], ids=["1280 x 665", "at 200 %"])
def test_a_clicked_cell_and_its_card_are_in_view_together(widget, shot, size, layer):
    # zooming a window of 1280 x 665 to 200 % leaves it 640 x 332 pixels of CSS
    widget.page.set_viewport_size({"width": size[0], "height": size[1]})
    widget.page.wait_for_timeout(500)
    lens = Lens(widget.page, 30)
    cell = lens.cell(layer, 8)
    card = lens.open_card(layer, 8)
    widget.page.wait_for_timeout(500)
    shot(widget.page, f"first-sight-{size[0]}-{layer}")
    assert cell.evaluate(SEEN) > 0.9
    # its head, and its first token
    assert card.locator(".lw-cardhead").evaluate(SEEN) > 0.9
    assert card.locator("tbody tr").first.evaluate(SEEN) > 0.9


def test_a_box_that_was_typed_in_says_that_it_was_not_run(widget):
    info = widget.root.locator(".lw-info")
    box = widget.root.locator(".lw-prompt textarea")
    expect(info).not_to_contain_text("edited, not run")
    box.press("End")
    box.press_sequentially(" light")
    expect(info).to_contain_text("edited, not run")
    box.press("Enter")
    expect(info).not_to_contain_text("edited, not run", timeout=60_000)
    widget.becomes("w.prompt", f"{PROMPT} light")


def test_the_grid_of_a_second_view_scrolls_to_the_cell_that_its_card_describes(widget):
    widget.page.set_viewport_size({"width": 1400, "height": 900})
    widget.execute("w.selection = {'layer': 2, 'position': 3}")
    widget.decoded_card(2, 3)
    widget.page.evaluate("window.jupyterapp.commands.execute('notebook:create-output-view')")
    expect(widget.page.locator(".lenswidget")).to_have_count(2)
    second = widget.page.locator(".lenswidget").nth(1)
    row = second.locator(".lw-row[aria-rowindex='29']")
    cell = row.locator("[role=gridcell][aria-colindex='5']")
    cell.scroll_into_view_if_needed()  # a panel may be lower than what stands above the grid
    grid, box = (each.bounding_box() for each in (second.locator(".lw-grid"), cell))
    assert grid["height"] < 300  # it fits its panel, not the window
    assert grid["y"] < box["y"]
    assert box["y"] + box["height"] <= grid["y"] + grid["height"]
    widget.page.evaluate("window.jupyterapp.shell.currentWidget.close()")
