"""Where no kernel is: an exported file opened from disk, and nbconvert's HTML with widgets on."""

import html
import re
import sys
from pathlib import Path

import nbformat
import pytest
from harness.lens import Lens
from harness.output_page import HERE
from harness.pages import PageLog, is_local
from nbclient import NotebookClient
from nbconvert import HTMLExporter
from playwright.sync_api import expect

import lenswidget as lw

N_LAYERS = 30
PROMPT = "The Eiffel Tower is in the city of"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_an_exported_file_works_from_disk(demo_model, browser, tmp_path, shot, scheme):
    widget = lw.LensWidget(demo_model, PROMPT)
    widget.track(" Paris")
    path = widget.save(tmp_path / "lens.html")
    context = browser.new_context(viewport={"width": 1280, "height": 960}, color_scheme=scheme)
    log, requests = PageLog(), []
    page = context.new_page()
    log.watch(page)
    page.on("request", lambda request: requests.append(request.url))
    page.goto(path.as_uri())
    lens = Lens(page, N_LAYERS).wait_until_drawn()
    expect(lens.root).to_have_attribute("data-theme", scheme)
    expect(lens.cell(N_LAYERS - 1, 8)).to_contain_text("Paris")

    # a card from the stored cells: the ten that were stored
    lens.open_card(20, 8)
    readout = widget.readout(k=10)
    index = (20 + 1) * 9 + 8
    assert [row.token_id for row in lens.card_rows()] == readout.ids[index].tolist()
    assert [row.log_prob for row in lens.card_rows()] == pytest.approx(
        readout.log_probs[index].tolist(), abs=1e-4
    )

    # colours switch, and what needs a kernel says so
    before = lens.cell(12, 4).evaluate("cell => cell.style.backgroundColor")
    lens.root.get_by_label("Colour").select_option("entropy")
    expect(lens.root.get_by_label("Legend: entropy")).to_be_visible()
    assert lens.cell(12, 4).evaluate("cell => cell.style.backgroundColor") != before
    expect(lens.root.get_by_role("button", name="Run", exact=True)).to_be_disabled()
    shot(page, f"export-{scheme}")
    assert [url for url in requests if not url.startswith(("file:", "blob:", "data:"))] == []
    assert (log.outside, log.uncaught, log.console) == ([], [], [])
    context.close()


def test_an_exported_file_has_why_of_the_cells_with_a_card(demo_model, browser, tmp_path, shot):
    widget = lw.LensWidget(demo_model, PROMPT)
    widget.selection = {"layer": 29, "position": 8}
    widget.track(" Paris")
    widget.track(" Rome")
    found = lw.attribute(widget._session.run, 29, 8, token=" Paris", by="head")
    path = widget.save(tmp_path / "lens.html")
    assert path.stat().st_size < 1_000_000
    page = browser.new_context(viewport={"width": 1280, "height": 1400}).new_page()
    log = PageLog()
    log.watch(page)
    page.goto(path.as_uri())
    lens = Lens(page, N_LAYERS).wait_until_drawn()
    lens.open_card(29, 8)
    lens.card.get_by_role("button", name="Why", exact=True).click()
    section = lens.card.get_by_role("region", name="Why")
    expect(section.locator(".lw-why").get_by_role("button")).to_have_count(30)
    expect(section).to_contain_text(f"logit {found.logit:.3f}")
    assert section.get_by_role("option").all_inner_texts() == ["“␣Paris”", "“␣Rome”", "“␣Paris” − “␣Rome”"]
    section.get_by_role("button", name=re.compile("^layer 23:")).click()
    table = section.get_by_role("table", name="What layer 23 adds")
    term = found.predicted[found.names.index("L23 head 4")]
    expect(table.get_by_role("row", name=re.compile("head 4"))).to_contain_text(f"{term:+.2f}")
    expect(table).to_contain_text("iffel")
    expect(table.get_by_role("button", name="Off")).to_have_count(0)
    shot(page, "export-why")
    section.get_by_role("combobox").select_option(label="“␣Paris” − “␣Rome”")
    expect(section).to_contain_text("not stored for this token")
    # other cells say what is missing, and the stored one is there again
    lens.open_card(20, 5)
    expect(section.get_by_role("alert")).to_contain_text("cards were open when this file was saved")
    lens.open_card(29, 8)
    expect(section.locator(".lw-why").get_by_role("button")).to_have_count(30)
    expect(section.get_by_role("alert")).to_have_count(0)
    assert (log.outside, log.uncaught, log.console) == ([], [], [])
    page.context.close()


def test_an_exported_file_has_the_second_prompts_grid(demo_model, browser, tmp_path):
    widget = lw.LensWidget(demo_model, "The Colosseum is in the city of")
    widget.source = PROMPT
    page = browser.new_page(viewport={"width": 1280, "height": 1400})
    page.goto(widget.save(tmp_path / "two.html").as_uri())
    source = page.locator(".lw-source")
    expect(source.get_by_text("Second prompt:")).to_be_visible()
    cell = source.locator(".lw-row[aria-rowindex='2'] > [role=gridcell]").last
    expect(cell).to_have_text("·Paris")
    expect(source.get_by_role("button", name="Map")).to_have_count(0)
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_an_exported_file_shows_its_grid_where_no_script_runs(demo_model, browser, tmp_path, shot, scheme):
    widget = lw.LensWidget(demo_model, PROMPT)
    path = widget.save(tmp_path / "lens.html")
    context = browser.new_context(java_script_enabled=False, color_scheme=scheme)
    page = context.new_page()
    page.goto(path.as_uri())
    table = page.get_by_role("table")
    expect(table.locator("caption")).to_contain_text(PROMPT)
    readout = widget.readout(k=1)
    labels = [widget._session.labels[i].text for i in readout.ids[:, 0].tolist()]
    # the last layer first, each row behind its head
    rows = [row.locator("td").all_text_contents() for row in table.locator("tr").all()[1:3]]
    assert rows == [labels[9 * row :][:9] for row in (30, 29)]
    expect(page.get_by_text("The script of this page does not run here")).to_be_visible()
    shot(page, f"export-no-script-{scheme}")
    context.close()


def test_an_exported_file_shows_its_grid_in_an_empty_sandbox(demo_model, browser, tmp_path):
    path = lw.LensWidget(demo_model, PROMPT).save(tmp_path / "lens.html")
    page = browser.new_page()
    page.set_content(f"<iframe sandbox srcdoc='{html.escape(path.read_text(), quote=True)}'></iframe>")
    expect(page.frames[1].get_by_role("table")).to_contain_text("Paris")
    page.close()


def test_token_text_of_an_exported_file_is_shown_and_not_run(demo_model, browser, tmp_path):
    prompt = "</script><img src=x onerror='window.hacked = 1'> is"
    path = lw.LensWidget(demo_model, prompt).save(tmp_path / "lens.html")
    page = browser.new_page()
    page.goto(path.as_uri())
    lens = Lens(page, N_LAYERS).wait_until_drawn()
    expect(lens.prompt).to_have_value(prompt)
    assert page.evaluate("() => [document.images.length, window.hacked]") == [0, None]
    page.close()


def test_nbconvert_html_draws_the_saved_grid(browser, tmp_path, shot):
    """nbconvert's page takes its widget manager from a CDN; the same files are handed to it here."""
    cells = ["import lenswidget as lw", f"lw.demo_model().lens({PROMPT!r})"]
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in cells])
    NotebookClient(book, timeout=180, store_widget_state=True).execute()
    path = tmp_path / "lens.html"
    path.write_text(HTMLExporter().from_notebook_node(book)[0])
    local = {
        "embed-amd": HERE / "dist" / "embed-amd.js",
        "require": HERE / "node_modules" / "requirejs" / "require.js",
        "anywidget": Path(sys.prefix) / "share" / "jupyter" / "nbextensions" / "anywidget" / "index.js",
    }
    asked = []

    def answer(route):
        asked.append(route.request.url)
        name = next((name for name in local if name in route.request.url), None)
        if name is None:
            route.abort()
        else:
            route.fulfill(path=local[name], content_type="text/javascript")

    context = browser.new_context(viewport={"width": 1280, "height": 960})
    context.route(lambda url: not is_local(url), answer)
    page = context.new_page()
    page.goto(path.as_uri())
    lens = Lens(page, N_LAYERS).wait_until_drawn()
    expect(lens.cell(N_LAYERS - 1, 8)).to_contain_text("Paris")
    shot(page, "nbconvert")
    # nbconvert's own: requirejs, MathJax, the widget manager, anywidget; nothing is ours
    assert [url for url in asked if "lens" in url] == []
    assert len(asked) == 4
    context.close()
