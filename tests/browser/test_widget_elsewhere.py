"""A grid in JupyterLab whose model is in a Ray actor: the actor is lost, the page says so, and it goes on."""

import re

import pytest
import ray_cluster
from harness.lens import ANSWER_TIMEOUT_MS, Lens
from playwright.sync_api import expect

N_LAYERS = 30
PATIENCE_MS = 300_000  # until Ray has started the actor again, which loads the model
SETUP = """import os, sys
sys.path[:0] = {paths!r}
os.environ.update({auth!r})
import ray_cluster
model = ray_cluster.connected({address!r})"""
LENS = 'w = model.lens("The Eiffel Tower is in the city of", lens="logit")\nw'
KILL = "import ray; ray.kill(model._calls._actor, no_restart=False)"


@pytest.fixture(scope="module")
def address():
    with ray_cluster.cluster() as found:
        yield found


def test_a_lost_actor_leaves_the_grid_says_so_and_comes_back(address, open_in_lab, page_log, shot):
    paths = ray_cluster.PATHS.split(":")
    setup = SETUP.format(paths=paths, auth=ray_cluster.AUTH, address=address)
    notebook = open_in_lab(setup, LENS)
    notebook.run_cell(0)
    notebook.run_cell(1)
    lens = Lens(notebook.output(1), N_LAYERS).wait_until_drawn()
    before = [row.text for row in (lens.open_card(29, 8), lens.card_rows())[1]]
    assert before[0] == "␣Paris"
    cells = lens.grid.inner_text()

    notebook.execute(KILL)
    lens.cell(28, 8).click()
    status = lens.root.locator(".lw-state")
    expect(lens.root).to_contain_text(re.compile("starts it again"), timeout=ANSWER_TIMEOUT_MS)
    assert lens.grid.inner_text() == cells  # what is there stays
    shot(lens.root, "actor-lost")
    expect(status).to_contain_text("is started again", timeout=ANSWER_TIMEOUT_MS)

    expect(status).to_have_text("Live", timeout=PATIENCE_MS)
    lens.open_card(29, 7)
    lens.open_card(29, 8)
    assert [row.text for row in lens.card_rows()] == before
    shot(lens.root, "actor-back")
    assert notebook.value("model.state") == "live"
    assert page_log.of_lenswidget() == []
