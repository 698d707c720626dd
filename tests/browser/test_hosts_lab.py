"""JupyterLab and Notebook 7, with real kernels: views, re-runs, notebooks saved and reopened, restarts.

The tests of Lab share one notebook and its kernel, and go in order: the last one restarts it.
"""

import json
import time

import pytest
from harness.lens import Lens
from harness.notebook import Notebook, write_notebook
from harness.pages import watched_page
from playwright.sync_api import expect

N_LAYERS = 30
SETUP = "%load_ext autoreload\n%autoreload 2\nimport lenswidget as lw\nmodel = lw.demo_model()"
LENS = 'w = model.lens("The Eiffel Tower is in the city of", lens="logit")\nw'
RERUN = 'again = model.lens("Hello there", lens="logit")\nagain'
SETUP_CELL, LENS_CELL, SECOND_VIEW_CELL, RERUN_CELL = range(4)
LISTENED = ("window", "document", "document.body", "matchMedia('(prefers-color-scheme: dark)')")


@pytest.fixture(scope="module")
def live(browser, lab):
    base, folder = lab
    write_notebook(folder / "live.ipynb", SETUP, LENS, "w", RERUN)
    with watched_page(browser) as (page, log):
        notebook = Notebook(page, base, "live.ipynb")
        notebook.run_cell(SETUP_CELL)
        yield notebook, log
        notebook.shut_down()


def lens_of(notebook, index):
    return Lens(notebook.output(index), N_LAYERS).wait_until_drawn()


def held(notebook):
    """What the page and the kernel hold: comms on both sides, widgets drawn, listeners on shared objects."""
    page = notebook.page
    notebook.wait_until_idle()
    page.wait_for_timeout(300)
    session = page.context.new_cdp_session(page)
    counts = {}
    for name in LISTENED:
        expression = f"Object.values(getEventListeners({name})).flat().length"
        options = {"expression": expression, "includeCommandLineAPI": True, "returnByValue": True}
        counts[name] = session.send("Runtime.evaluate", options)["result"]["value"]
    session.detach()
    counts["comms of the page"] = page.evaluate(
        "() => window.jupyterapp.shell.currentWidget.sessionContext.session.kernel._comms.size"
    )
    counts["comms of the kernel"] = notebook.value("len(__import__('comm').get_comm_manager().comms)")
    counts["widgets drawn"] = page.locator(".lenswidget").count()
    return counts


def held_at_rest(notebook):
    """What is held once nothing comes or goes: what was closed takes a moment to go."""
    end = time.monotonic() + 60
    before, now = None, held(notebook)
    while now != before and time.monotonic() < end:
        before, now = now, held(notebook)
    return now


def test_two_views_of_one_widget_show_one_state(live, shot):
    notebook, _ = live
    notebook.run_cell(LENS_CELL)
    notebook.run_cell(SECOND_VIEW_CELL)
    first, second = lens_of(notebook, LENS_CELL), lens_of(notebook, SECOND_VIEW_CELL)
    first.open_card(20, 8)
    second.wait_for_card(20, 8)
    assert first.card_rows() == second.card_rows()
    # a pin of Python's is in both
    notebook.execute("_ = w.track(' Paris')")
    for lens in (first, second):
        expect(lens.root.get_by_role("region", name="Pinned tokens")).to_contain_text("Paris")
    # an edit of the prompt in the second is the first's too
    second.prompt.fill("The capital of France is")
    second.prompt.press("Enter")
    for lens in (first, second):
        expect(lens.prompt).to_have_value("The capital of France is")
        expect(lens.cell(N_LAYERS - 1, 4)).to_contain_text("Paris")
    assert notebook.value("w.prompt") == "The capital of France is"
    shot(notebook.page, "lab-two-views")


def test_a_prompt_that_cannot_be_run_says_why_and_the_grid_stays(live):
    notebook, _ = live
    lens = lens_of(notebook, LENS_CELL)
    lens.prompt.fill("")
    lens.prompt.press("Enter")
    expect(lens.root.get_by_role("alert").first).to_contain_text("prompt")
    expect(lens.cell(N_LAYERS - 1, 4)).to_contain_text("Paris")


def test_many_runs_of_a_cell_leave_as_much_behind_as_one(live):
    notebook, _ = live
    notebook.run_cell(RERUN_CELL)
    # with a card open both times: it moves the view, and the notebook keeps the editors of the cells in view
    lens_of(notebook, RERUN_CELL).open_card(20, 1)
    after_one = held_at_rest(notebook)
    for _ in range(8):
        notebook.run_cell(RERUN_CELL)
    lens_of(notebook, RERUN_CELL).open_card(20, 1)
    assert held_at_rest(notebook) == after_one


def test_a_saved_notebook_reopened_on_a_new_kernel_draws_its_grid(live, lab, browser, shot):
    """The new kernel knows no widget. With no kernel Lab draws none: it waits for one before it looks."""
    notebook, _ = live
    base, folder = lab
    shown = lens_of(notebook, LENS_CELL).cell(20, 4).text_content()
    notebook.save_with_widgets()
    saved = json.loads((folder / "live.ipynb").read_text())["metadata"]["widgets"]
    assert "application/vnd.jupyter.widget-state+json" in saved
    (folder / "reopened.ipynb").write_bytes((folder / "live.ipynb").read_bytes())
    with watched_page(browser) as (page, log):
        reopened = Notebook(page, base, "reopened.ipynb")
        lens = lens_of(reopened, LENS_CELL)
        assert lens.cell(20, 4).text_content() == shown
        lens.cell(12, 3).click()
        expect(lens.card).to_contain_text("12")
        page.wait_for_timeout(1500)
        shot(page, "lab-reopened")
        reopened.shut_down()
        assert log.of_lenswidget() == []


def test_a_kernel_restarted_under_a_live_widget_is_told_and_a_new_run_draws_again(live, shot):
    notebook, log = live
    lens = lens_of(notebook, LENS_CELL)
    drawn = lens.cell(N_LAYERS - 1, 4).text_content()
    notebook.page.evaluate(
        "() => window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.restart()"
    )
    notebook.wait_until_idle()
    # what was read is still there to look at, and a click gets an answer in words
    expect(lens.cell(N_LAYERS - 1, 4)).to_have_text(drawn)
    lens.cell(12, 4).click()
    expect(lens.root).to_contain_text("Kernel gone: run the cell again")
    shot(notebook.page, "lab-restarted")
    notebook.run_cell(SETUP_CELL)
    notebook.run_cell(LENS_CELL)
    lens_of(notebook, LENS_CELL).open_card(12, 4)
    assert log.of_lenswidget() == []


def test_notebook_7_shows_the_grid_and_answers_a_click(notebook7, page, shot, page_log):
    base, folder = notebook7
    write_notebook(folder / "t.ipynb", SETUP, LENS)
    notebook = Notebook(page, base, "t.ipynb", kind="notebook")
    notebook.run_all()
    lens = Lens(page, N_LAYERS).wait_until_drawn()
    lens.open_card(20, 8)
    assert [row.token_id for row in lens.card_rows()] == notebook.value("w.decoded['ids']")
    shot(page, "notebook7-light")
    notebook.use_theme("JupyterLab Dark")
    expect(lens.root).to_have_attribute("data-theme", "dark")
    shot(page, "notebook7-dark")
    # Notebook 7.6 itself logs an uncaught error about a schema
    assert page_log.of_lenswidget() == []
    notebook.shut_down()
