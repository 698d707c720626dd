"""The widget in pages of no known host: parents of all kinds, themes without a name, styles of their own."""

import pytest
from harness.lens import Lens
from harness.pages import frames, until_still
from harness.plain_page import PlainPages
from playwright.sync_api import expect

import lenswidget as lw

PROMPT = "The Eiffel Tower is in the city of"
HERE = '<div class="here"></div>'


@pytest.fixture(scope="module")
def pages(demo_model):
    widget = lw.LensWidget(demo_model, PROMPT)
    widget.selection = {"layer": 20, "position": 8}
    return PlainPages(widget)


# --- parents

PARENTS = {
    "a row": (f'<div style="display:flex; width:1200px">{HERE}{HERE}</div>', 600),
    "a narrow row": (f'<div style="display:flex; width:400px; overflow:auto">{HERE}{HERE}</div>', 294),
    "a row that wraps": (f'<div style="display:flex; flex-wrap:wrap; width:1200px">{HERE}{HERE}</div>', 1200),
    "a float": ('<div style="float:left" class="here"></div>', 1264),
    "a float in a column": (f'<div style="width:400px"><div style="float:left">{HERE}</div></div>', 400),
    "a line": ('<div style="display:inline-block" class="here"></div>', 1264),
    "as wide as it needs": ('<div style="width:fit-content" class="here"></div>', 1264),
    "a grid": (
        f'<div style="display:grid; grid-template-columns:auto auto; width:1200px">{HERE}{HERE}</div>',
        600,
    ),
    "out of the flow": ('<div style="position:absolute" class="here"></div>', 1272),
    "a block": (HERE, 1264),
    "a very narrow block": ('<div style="width:200px" class="here"></div>', 200),
}


def test_parents_that_shrink_to_fit_give_the_widget_its_width(pages, page):
    widths = {}
    for name, (body, _) in PARENTS.items():
        pages.open(page, body)
        roots = page.locator(".lenswidget")
        expect(roots.first.locator("[role=gridcell]").first).to_be_visible()
        widths[name] = {round(root.bounding_box()["width"]) for root in roots.all()}
        # nothing of it stands out of its own box
        for root in roots.all():
            assert root.evaluate("root => root.scrollWidth <= root.clientWidth"), name
    assert widths == {name: {width} for name, (_, width) in PARENTS.items()}


LOW = {
    "a low parent": f'<div style="height:420px; overflow:hidden">{HERE}</div>',
    "a low flex box": """<div style="display:flex; flex-direction:column; height:420px; overflow:hidden">
      <div class="here" style="display:flex; flex-direction:column; flex:1 1 400px; min-height:0"></div></div>
      <style>.here > * { flex: 1 1 auto; min-height: 0 }</style>""",
}


@pytest.mark.parametrize("name", LOW)
def test_the_widget_scrolls_in_a_parent_that_would_cut_it_off(pages, page, name):
    pages.open(page, LOW[name])
    root = page.locator(".lenswidget")
    frames(page, 4)
    assert root.bounding_box()["height"] <= 421
    pins = root.locator(".lw-pins, .lw-below").last
    expect(pins).to_be_attached()
    root.hover()
    page.mouse.move(30, 200)
    page.mouse.wheel(0, 3000)
    page.wait_for_function("() => document.querySelector('.lenswidget').scrollTop > 200")
    end = root.evaluate("root => root.scrollHeight - root.clientHeight - root.scrollTop")
    assert abs(end) <= 1
    # nothing else scrolls, and a parent with room leaves the widget as it is
    pages.open(page, f'<div style="overflow:hidden">{HERE}</div>')
    frames(page, 4)
    assert page.locator(".lenswidget").evaluate("root => [root.style.overflow, root.style.maxHeight]") == [
        "",
        "",
    ]


# A telephone; a laptop's screen at 200 %.
@pytest.mark.parametrize("size", [(390, 700), (640, 360)])
def test_on_a_small_screen_the_grid_fits_and_what_is_worked_with_is_in_view(pages, page, size):
    width, height = size
    page.set_viewport_size({"width": width, "height": height})
    pages.open(page)
    lens = Lens(page, 30).wait_until_drawn()
    assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
    assert lens.grid.bounding_box()["height"] <= max(240, height - 100)
    lens.grid.get_by_role("gridcell").first.focus()
    for _ in range(6):
        page.keyboard.press("PageDown")
        frames(page)
    cell = page.locator(".lenswidget [role=gridcell]:focus").bounding_box()
    assert -1 <= cell["y"] <= height - cell["height"] + 1
    assert 0 <= cell["x"] <= width
    page.keyboard.press("Enter")
    frames(page)
    until_still(page, "scrollY")
    head = lens.card.locator("header").bounding_box()
    assert -1 <= head["y"] <= height - head["height"] + 1


# --- themes

PAGES = {
    "Bootstrap's mark, dark": ("dark", "", 'data-bs-theme="dark"', HERE, "light"),
    "Bootstrap's mark around it": ("dark", "", "", f'<div data-bs-theme="dark">{HERE}</div>', "light"),
    "a dark page": ("dark", "<style>body { background: #222; color: #eee }</style>", "", HERE, "light"),
    "a dark page in new notation": (
        "dark",
        "<style>main { background: oklch(0.25 0.02 260) }</style>",
        "",
        f"<main>{HERE}</main>",
        "light",
    ),
    "a white page under a dark system": ("light", "", "", HERE, "dark"),
    "a page that knows dark, under a dark system": (
        "dark",
        "<style>:root { color-scheme: light dark }</style>",
        "",
        HERE,
        "dark",
    ),
    "a white sheet on a dark desk": (
        "light",
        "<style>body { background: #222 } main { background: #fff; color: #111 }</style>",
        "",
        f"<main>{HERE}</main>",
        "dark",
    ),
    "a thin veil over white": (
        "light",
        "<style>main { background: rgb(0 0 0 / 0.05) }</style>",
        "",
        f"<main>{HERE}</main>",
        "dark",
    ),
    "a mark that says neither": ("light", "", 'data-theme="auto"', HERE, "dark"),
}


@pytest.mark.parametrize("name", PAGES)
def test_the_theme_is_that_of_the_page_and_not_of_the_system(pages, page, name):
    theme, head, root, body, system = PAGES[name]
    page.emulate_media(color_scheme=system)
    pages.open(page, body, head=head, root=root)
    lens = page.locator(".lenswidget")
    expect(lens).to_have_attribute("data-theme", theme)


def test_the_widget_takes_the_pages_colours_and_follows_them(pages, page):
    head = """<style>body { background: rgb(40 44 52); color: rgb(220 223 228); transition: background 0.1s }
      body.day { background: rgb(253 246 227); color: rgb(0 43 54) }</style>"""
    pages.open(page, head=head)
    lens = page.locator(".lenswidget")
    expect(lens).to_have_css("background-color", "rgb(40, 44, 52)")
    expect(lens).to_have_css("color", "rgb(220, 223, 228)")
    page.evaluate("() => document.body.classList.add('day')")
    expect(lens).to_have_attribute("data-theme", "light")
    expect(lens).to_have_css("background-color", "rgb(253, 246, 227)")
    expect(lens).to_have_css("color", "rgb(0, 43, 54)")
    # a style sheet that comes later
    page.evaluate(
        """() => { const style = document.createElement("style");
             style.textContent = "body.day { background: rgb(20 20 20); color: rgb(240 240 240) }";
             document.head.append(style); }"""
    )
    expect(lens).to_have_attribute("data-theme", "dark")
    expect(lens).to_have_css("background-color", "rgb(20, 20, 20)")


def test_colours_that_text_could_not_be_read_on_are_not_taken(pages, page):
    pages.open(page, head="<style>body { background: rgb(128 128 128); color: rgb(110 110 110) }</style>")
    lens = page.locator(".lenswidget")
    frames(page)
    expect(lens).to_have_css("background-color", "rgb(255, 255, 255)")


# --- the page's own style

ALABASTER = """<style>
  body { font-family: Georgia, serif; font-size: 17px; letter-spacing: 1px; text-transform: uppercase }
  div.body h1, div.body h2, div.body h3, div.body h4 { font-family: Georgia, serif; font-weight: normal;
    font-size: 31px; margin: 30px 0 10px; padding: 0; line-height: 60px; color: red }
  div.body p, div.body dd, div.body li { line-height: 3em; margin: 1em }
  #main div.body li { list-style: square; margin-left: 40px }
  div.body table { border: 3px solid red; table-layout: fixed }
  div.body td, div.body th { padding: 20px; border: 1px solid }
  label, button, select { display: block; margin: 12px; width: 100%; font-size: 30px }
</style>"""
BOXES = """() => [...document.querySelectorAll(".lenswidget *")].map((element) => {
  const { x, y, width, height } = element.getBoundingClientRect();
  const { color, fontSize, fontFamily, fontWeight } = getComputedStyle(element);
  const box = [x, y, width, height].map(Math.round);
  return [element.className.toString(), ...box, color, fontSize, fontFamily, fontWeight];
})"""


def test_no_style_of_the_page_reaches_into_the_widget(pages, page):
    body = f'<div id="main"><div class="body">{HERE}</div></div>'
    plain = "<style>body { margin: 0; color: rgb(0 0 0); background: rgb(255 255 255) }</style>"
    pages.open(page, body, head=plain)
    Lens(page, 30).wait_until_drawn()
    frames(page)
    expected = page.evaluate(BOXES)
    pages.open(page, body, head=plain + ALABASTER)
    Lens(page, 30).wait_until_drawn()
    frames(page)
    found = page.evaluate(BOXES)
    assert len(found) == len(expected) > 400
    assert [pair for pair in zip(expected, found, strict=True) if pair[0] != pair[1]][:3] == []
