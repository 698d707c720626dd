"""How the widget looks with little room or few colours, on paper and as a PNG."""

import base64
import re

import pytest
from harness.pages import watched_page
from playwright.sync_api import expect
from widget_page import AXE, PROMPT, WidgetPage, widget_in_lab

# What a person reads or presses, and what of it does not lie inside the widget, to a pixel's fraction.
OUTSIDE = """() => {
  const root = document.querySelector(".lenswidget");
  const { left, right } = root.getBoundingClientRect();
  const seen = root.querySelectorAll(
    "button, select, input, .lw-state, .lw-badge, .lw-tick, .lw-key, .lw-num, .lw-tag");
  return [...seen].filter((e) => e.checkVisibility()).map((e) => [e, e.getBoundingClientRect()])
    .filter(([, box]) => box.left < left - 0.5 || box.right > right + 0.5)
    .map(([e, box]) => `${e.ariaLabel ?? e.textContent} ${Math.round(box.right - right)}`);
}"""


@pytest.fixture
def widget(shown: WidgetPage):
    shown.page.set_viewport_size({"width": 1400, "height": 1000})
    shown.reset()
    return shown


@pytest.mark.parametrize("width", [350, 600, 1000, 1600])
def test_all_that_is_read_or_pressed_lies_inside_the_widget(widget, shot, width):
    widget.execute("w.track(' Paris'); w.track(' France'); w.selection = {'layer': 20, 'position': 8}")
    widget.decoded_card(20, 8)
    widget.page.set_viewport_size({"width": width, "height": 1900})
    widget.page.wait_for_timeout(500)
    for name in ("Keys (?)", "More"):
        expect(widget.root.get_by_title(name)).to_be_visible()
    expect(widget.root.locator(".lw-state")).to_have_text("Live")
    assert widget.page.evaluate(OUTSIDE) == []
    shot(widget.page, f"widget-{width}")


def test_columns_that_gave_way_grow_again(widget):
    head = widget.root.locator(".lw-colhead").first
    widget.page.set_viewport_size({"width": 1000, "height": 1000})
    expect(head).not_to_have_css("width", "72px")
    assert head.evaluate("e => e.offsetWidth") >= 40
    # all nine are in view, and no strip leads to what is not
    expect(widget.root.locator(".lw-overview")).to_be_hidden()
    widget.page.set_viewport_size({"width": 1400, "height": 1000})
    expect(head).to_have_css("width", "72px")
    # nor do they give way for nothing as prompts come and go
    for prompt in ("The capital of Japan is", PROMPT):
        widget.execute(f"w.prompt = {prompt!r}")
        expect(widget.root.locator(".lw-prompt textarea")).to_have_value(prompt)
        expect(head).to_have_css("width", "72px")


@pytest.mark.parametrize("width", [1000, 1600])
def test_the_card_stands_right_beside_the_grid(widget, width):
    widget.page.set_viewport_size({"width": width, "height": 1000})
    card = widget.open_card(20, 3)
    last = widget.cell(20, 8).bounding_box()
    gap = card.bounding_box()["x"] - last["x"] - last["width"]
    # the grid's own frame, its scroll bar if it is taller than the window has room for, and 12 px
    bar = widget.root.get_by_role("grid").evaluate("g => g.offsetWidth - g.clientWidth")
    assert 10 <= gap - bar <= 22


def luminance(color: str) -> float:
    parts = [int(x) / 255 for x in re.findall(r"\d+", color)[:3]]
    red, green, blue = (x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    low, high = sorted([luminance(one), luminance(other)])
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_in_high_contrast_data_keep_their_colours_and_all_else_takes_the_systems(browser, lab, shot, scheme):
    options = {"forced_colors": "active", "color_scheme": scheme}
    with widget_in_lab(browser, lab, f"contrast-{scheme}.ipynb", **options) as widget:
        # whatever Lab's own theme is
        expect(widget.root).to_have_attribute("data-theme", scheme)
        widget.execute("w.track(' Paris')")
        card = widget.open_card(29, 8)
        style = "(e, [name, part]) => getComputedStyle(e, part)[name]"

        def of(locator, name, part=None):
            return locator.evaluate(style, [name, part])

        canvas = of(widget.root, "backgroundColor")
        assert contrast(canvas, "rgb(0, 0, 0)" if scheme == "dark" else "rgb(255, 255, 255)") < 1.3
        # the card's tokens stand on bars that keep their colour
        assert contrast(of(card.locator("tbody th bdi").first, "color"), canvas) > 7
        # the scale's two ends differ, and each cell's ink is read on its own colour
        cells = [widget.cell(layer, position) for layer, position in ((29, 8), (28, 0), (5, 1))]
        assert len({of(cell, "backgroundColor") for cell in cells}) == 3
        for cell in cells:
            assert contrast(of(cell, "color"), of(cell, "backgroundColor")) >= 4.5
        # a pin's stripe and its mark in the list are one colour
        assert of(widget.root.locator(".lw-dotmark"), "backgroundColor") in of(
            widget.cell(29, 8), "boxShadow"
        )
        # what is selected and what has the focus are told apart
        widget.cell(29, 8).focus()
        widget.page.keyboard.press("ArrowLeft")
        focused, selected = widget.cell(29, 7), widget.cell(29, 8)
        expect(focused).to_be_focused()
        assert of(focused, "outlineColor") != of(selected, "outlineColor")
        for cell in (focused, selected):
            assert of(cell, "outlineStyle") == "solid"
        assert contrast(of(widget.root.locator(".lw-state"), "backgroundColor", "::before"), canvas) > 7
        widget.page.keyboard.press("?")
        shot(widget.page, f"widget-contrast-{scheme}")
        widget.page.add_script_tag(path=str(AXE))
        assert (
            widget.page.evaluate("async () => (await axe.run('.lenswidget')).violations.map(v => v.id)") == []
        )


# What is written into a canvas, and where.
LISTEN = """() => {
  window.written = [];
  const { fillText } = CanvasRenderingContext2D.prototype;
  CanvasRenderingContext2D.prototype.fillText = function (text, x, y) {
    window.written.push([text, x, y, this.fillStyle]);
    return fillText.call(this, text, x, y);
  };
}"""
PIXELS = """async ([data, places]) => {
  const blob = await (await fetch(`data:image/png;base64,${data}`)).blob();
  const image = await createImageBitmap(blob);
  const canvas = new OffscreenCanvas(image.width, image.height);
  const pen = canvas.getContext("2d");
  pen.drawImage(image, 0, 0);
  const rgb = ([x, y]) => [...pen.getImageData(2 * x, 2 * y, 1, 1).data].slice(0, 3).join(", ");
  return places.map((at) => `rgb(${rgb(at)})`);
}"""


def picture(widget, tmp_path):
    """The PNG of the menu in base64, and what is written in it: text and where."""
    widget.page.evaluate(LISTEN)
    widget.root.get_by_title("More").click()
    with widget.page.expect_download() as download:
        widget.root.get_by_role("button", name="Download PNG").click()
    written = {text: (x, y) for text, x, y, _ in widget.page.evaluate("written")}
    return base64.b64encode(download.value.path().read_bytes()).decode(), written


def test_the_picture_says_what_it_is_and_has_the_grids_marks(widget, tmp_path):
    widget.execute("w.track(' Paris')")
    # a corner, a floor and a stripe, as the grid has them
    expect(widget.cell(28, 2)).to_have_class(re.compile("is-next"))
    expect(widget.cell(28, 8)).to_have_class(re.compile("is-settled"))
    expect(widget.cell(29, 5)).to_have_class(re.compile("is-pinned"))
    data, written = picture(widget, tmp_path)
    for text in (PROMPT, "SmolLM2-135M-Instruct · float32 · resid_post · logit lens · 9 tokens"):
        assert text in written
    for text in ("Probability of the top token", "0 %", "50 %", "100 %"):
        assert text in written
    for text in (
        "not computed",
        "is the next token",
        "final answer from here on",
        "pinned: ␣Paris",
        "embed",
        "8",
    ):
        assert text in written
    left, top = written["29"][0] + 8, written["29"][1] - 14

    def at(layer, position, x, y):
        return [left + 72 * position + x, top + 20 * (29 - layer) + y]

    def background(layer, position):
        return widget.cell(layer, position).evaluate("e => getComputedStyle(e).backgroundColor")

    places = [at(28, 2, 69, 1), at(28, 1, 69, 1), at(28, 8, 20, 18), at(27, 8, 20, 18), at(29, 5, 1, 9)]
    corner, no_corner, floor, no_floor, stripe = widget.page.evaluate(PIXELS, [data, places])
    assert corner == floor == "rgb(0, 0, 0)"
    assert no_corner == background(28, 1)
    assert no_floor == background(27, 8)
    assert stripe == widget.root.locator(".lw-dotmark").evaluate("e => getComputedStyle(e).backgroundColor")


def test_the_picture_says_of_what_reading_it_is(widget, tmp_path):
    widget.execute("w.metric = 'rank'; w.site = 'mlp_out'; w.orientation = 'tokens'; w.stride = 3")
    expect(widget.root.locator(".lw-body .is-missing")).to_have_count(0)
    _, written = picture(widget, tmp_path)
    assert "SmolLM2-135M-Instruct · float32 · mlp_out · logit lens · 9 tokens" in written
    assert {"Rank of “␣Paris”", "#1", "#1,000"} <= set(written)
    # within a block nothing leads to the answer
    assert not any("final answer" in text for text in written)


def test_a_picture_of_a_long_prompt_is_of_what_is_in_view_says_so_and_leaves_it_there(widget, tmp_path):
    widget.execute("w.prompt = 'The cat sat on the mat. ' * 60")
    grid = widget.root.locator(".lw-grid")
    widget.page.wait_for_function("() => Number(document.querySelector('.lw-grid').ariaColCount) > 300")
    grid.evaluate("g => g.scrollTo(72 * 100, 0)")
    widget.page.wait_for_timeout(500)
    _, written = picture(widget, tmp_path)
    said = next(text for text in written if "logit lens" in text)
    first, last, n = map(int, re.search(r"positions (\d+) to (\d+) of (\d+)", said).groups())
    assert first == 100
    assert n == widget.value("len(w.run['tokens'])")
    assert str(last) in written
    assert str(last + 1) not in written
    widget.page.wait_for_timeout(500)
    assert grid.evaluate("g => g.scrollLeft") == 72 * 100


# Paper is narrower than the page was, and no script runs in between.
ON_PAPER = """(width) => {
  const root = document.querySelector(".lenswidget");
  root.style.width = `${width}px`;
  const { right } = root.getBoundingClientRect();
  const boxes = [...root.querySelectorAll(".lw-cell, .lw-colhead, .lw-chart, .lw-tokens")]
    .map((e) => e.getBoundingClientRect());
  root.style.width = "";
  return [boxes.filter((box) => box.right > right + 0.5).length, Math.min(...boxes.map((box) => box.width))];
}"""


def test_all_columns_are_on_the_paper_and_what_was_chosen_is_said(widget, browser, tmp_path, shot):
    widget.execute(
        "w.track(' Paris'); w.selection = {'layer': 20, 'position': 8};"
        f"w.save({str(tmp_path / 'lens.html')!r})"
    )
    with watched_page(browser) as (page, _):
        page.goto((tmp_path / "lens.html").as_uri())
        root = page.locator(".lenswidget")
        expect(root.locator("[data-card=main] tbody tr")).to_have_count(20)
        page.emulate_media(media="print")
        # upright, across, and as wide as the page itself
        for width in (640, 1000, 1250):
            n_cut, narrowest_px = page.evaluate(ON_PAPER, width)
            assert n_cut == 0
            assert narrowest_px >= 50
        for label in ("Colour", "Site", "Layers", "Rows"):
            expect(root.locator(".lw-controls").get_by_label(label, exact=True)).to_be_visible()
        for name in ("Run", "More", "Keep", "Hold", "Unpin ␣Paris"):
            expect(root.get_by_role("button", name=name)).to_be_hidden()
        # the chart is drawn for the paper, so that its letters stay as large as the others
        assert root.locator(".lw-chart").evaluate("e => e.width.baseVal.value") <= 680
        shot(page, "widget-paper", full_page=True)
        assert page.pdf(format="A4").startswith(b"%PDF")
