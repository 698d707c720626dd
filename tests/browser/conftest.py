"""Browser fixtures: one browser and one server of each host for the session, a fresh page for each test."""

import re
from pathlib import Path

import pytest
from harness import output_page
from harness.notebook import Notebook, write_notebook
from harness.pages import PATIENCE_MS, chromium, watched_page
from harness.servers import jupyter
from playwright.sync_api import expect
from widget_page import widget_in_lab

expect.set_options(timeout=PATIENCE_MS)

SHOTS = Path(__file__).parent / "shots"


@pytest.fixture(scope="module")
def browser():
    """A browser for one file's tests: while it lives no other test of the process can run an event loop."""
    with chromium() as opened:
        yield opened


@pytest.fixture
def watched(browser):
    """A page and its log, for one test; the test fails if a request leaves the machine."""
    with watched_page(browser) as page_and_log:
        yield page_and_log


@pytest.fixture
def page(watched):
    return watched[0]


@pytest.fixture
def page_log(watched):
    return watched[1]


@pytest.fixture(scope="session")
def lab(tmp_path_factory):
    """The address of a running JupyterLab, and the folder that it serves."""
    folder = tmp_path_factory.mktemp("lab")
    with jupyter("lab", folder) as base:
        yield base, folder


@pytest.fixture(scope="module")
def shown(browser, lab, request):
    """The demo model's widget in JupyterLab, for all tests of a file; nothing of it may fail in the page."""
    with widget_in_lab(browser, lab, f"{request.module.__name__}.ipynb") as widget:
        yield widget
        assert widget.log.of_lenswidget() == []
        assert widget.log.uncaught == []


@pytest.fixture
def open_in_lab(lab, page, request):
    """Opens a notebook of the given cells, or a notebook file; its kernel ends with the test."""
    base, folder = lab
    opened = []

    def open_notebook(*cells, path=None):
        name = re.sub(r"\W+", "-", request.node.name) + f"-{len(opened)}.ipynb"
        if path is None:
            write_notebook(folder / name, *cells)
        else:
            (folder / name).write_bytes(Path(path).read_bytes())
        opened.append(Notebook(page, base, name))
        return opened[-1]

    yield open_notebook
    if opened:
        opened[-1].shut_down()


@pytest.fixture(scope="session")
def shot():
    """Saves a picture of a page or an element under `shots/`, to be looked at."""
    SHOTS.mkdir(exist_ok=True)
    return lambda target, name, **options: target.screenshot(path=str(SHOTS / f"{name}.png"), **options)


@pytest.fixture(scope="session")
def output_page_urls(tmp_path_factory):
    """The addresses of the VS Code-like and Colab-like pages, and of a Jupyter server that lets them in."""
    folder = tmp_path_factory.mktemp("output_page")
    with output_page.assets() as assets_url:
        port = assets_url.rpartition(":")[2]
        options = [f"--ServerApp.allow_origin_pat=http://(127.0.0.1|localhost):{port}"]
        with jupyter("server", folder, *options, "--ServerApp.disable_check_xsrf=True") as jupyter_url:
            yield assets_url, jupyter_url


@pytest.fixture
def open_output_page(output_page_urls, page):
    """Opens a page that shows outputs as VS Code or Colab does; its kernel ends with the test."""
    opened = []

    def open_page(host):
        opened.append(output_page.OutputPage(page, *output_page_urls, host))
        return opened[-1]

    yield open_page
    for each in opened:
        each.shut_down()


@pytest.fixture(scope="session")
def notebook7(tmp_path_factory):
    """The address of a running Notebook 7, and the folder that it serves."""
    folder = tmp_path_factory.mktemp("notebook7")
    with jupyter("notebook", folder) as base:
        yield base, folder
