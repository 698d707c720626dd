"""VS Code's widget manager in all of its themes, and Colab's output frames, with real kernels."""

from harness.lens import Lens
from harness.output_page import THEMES
from playwright.sync_api import expect

N_LAYERS = 30
SETUP = "import lenswidget as lw\nmodel = lw.demo_model()"
LENS = 'w = model.lens("The Eiffel Tower is in the city of", lens="logit")\nw'
# A message that VS Code carries in about a twentieth of a second.
TILE_BYTES = 50_000
HEADERS_BYTES = 3_000


def luminance(color: str) -> float:
    """0 (black) to 255 (white) of a CSS `rgb(...)` colour."""
    red, green, blue = (float(part) for part in color[color.index("(") + 1 : -1].split(",")[:3])
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def colors_of(locator):
    return locator.evaluate(
        """element => {
             let node = element, background = "";
             while (node && !background) {
               const style = getComputedStyle(node);
               if (!/^rgba\\(.*, 0\\)$/.test(style.backgroundColor)) background = style.backgroundColor;
               node = node.parentElement;
             }
             return { ink: getComputedStyle(element).color, background };
           }"""
    )


def check_colors(locator, *, is_dark):
    """The text stands out from what is behind it, which is as dark as the theme."""
    colors = colors_of(locator)
    ink, background = luminance(colors["ink"]), luminance(colors["background"])
    assert (background < 80) == is_dark
    assert abs(ink - background) > 110


def test_vscode_shows_the_grid_in_every_theme_and_answers_a_click(open_output_page, page, page_log, shot):
    host = open_output_page("vscode")
    host.use_theme("dark")
    host.run(f"{SETUP}\n{LENS}")
    lens = Lens(host.frame, N_LAYERS).wait_until_drawn()
    host.scroll_to(680)
    lens.open_card(20, 8)
    assert [row.token_id for row in lens.card_rows()] == host.value("w.decoded['ids']")
    page.mouse.move(5, 900)
    for theme in THEMES:
        host.use_theme(theme)
        is_dark = theme in ("dark", "high-contrast")
        expect(lens.root).to_have_attribute("data-theme", "dark" if is_dark else "light")
        # VS Code's white box behind widgets would show through here
        check_colors(lens.prompt, is_dark=is_dark)
        check_colors(lens.card.get_by_role("heading").first, is_dark=is_dark)
        shot(page, f"vscode-{theme}")
    assert "loaded anywidget" in host.log()
    assert not [line for line in host.log() if line.startswith("failed")]
    assert page_log.uncaught == []

    # what comes after the widget's first state, which brings its script along, is in tiles
    host.run("w.prompt = 'one two three four five six seven eight nine ten ' * 30")
    host.frame.evaluate("() => { lensHost.sizes.length = 0; }")
    for part in (0.3, 0.6, 0):
        lens.grid.evaluate("(grid, part) => grid.scrollTo(part * grid.scrollWidth, 0)", part)
        page.wait_for_timeout(1500)
    host.frame.wait_for_function("() => lensHost.sizes.length > 3")
    sizes = host.frame.evaluate("() => lensHost.sizes")
    assert max(sizes) <= TILE_BYTES + HEADERS_BYTES


def test_colab_output_frame_shows_the_grid_in_both_themes_and_answers_a_click(
    open_output_page, page, page_log, shot
):
    host = open_output_page("colab")
    host.use_theme("light")
    host.run(f"{SETUP}\n{LENS}")
    lens = Lens(host.frame, N_LAYERS).wait_until_drawn()
    lens.open_card(20, 8)
    assert [row.token_id for row in lens.card_rows()] == host.value("w.decoded['ids']")
    page.mouse.move(5, 900)
    for theme in ("light", "dark"):
        host.use_theme(theme)
        expect(lens.root).to_have_attribute("data-theme", theme)
        check_colors(lens.prompt, is_dark=theme == "dark")
        shot(page, f"colab-{theme}")
    assert page_log.uncaught == []
