"""A film: runs on the same cells, of which only the shown one is in memory."""

import gc
import json
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import PROMPT, language_model, llama
from widget_pages import Page

import lenswidget as lw
from lenswidget.errors import LensMismatchError


@pytest.fixture(scope="module")
def model():
    return language_model()


def strengths(model):
    """A direction steered along with rising strength, by name."""
    edit = lw.Edit("steer", layers=1, positions=-1, tokens=7)
    spec = model.run(PROMPT).spec
    return {f"x{s}": replace(spec, edits=(replace(edit, strength=float(s)),)) for s in (0, 1, 2, 4)}


def test_each_frame_has_the_numbers_of_its_run(model):
    recipes = strengths(model)
    w = lw.film(recipes, model=model)
    assert w.frames == ["x0", "x1", "x2", "x4"]
    for place in (0, 3, 1):
        w.frame = place
        whole = lw.read(model.run(list(recipes.values())[place], reuse=False), k=5)
        np.testing.assert_array_equal(w.readout().ids, whole.ids)
        np.testing.assert_allclose(w.readout().log_probs, whole.log_probs, rtol=0, atol=1e-5)
    again = lw.film(recipes, model=model, state=json.loads(json.dumps(w.state)))
    assert again.frame == 1
    assert again.run["edits"][0]["strength"] == 1.0


def test_only_the_shown_run_is_kept(model):
    made = []

    def frame(i):
        def make():
            run = model.run([i, *range(3, 12)], reuse=False)
            made.append(weakref.ref(run))
            return run

        return make

    w = lw.film(frame(i) for i in range(12))
    assert len(made) == 1
    for place in range(1, 12):
        w.frame = place
        gc.collect()
        assert [ref() is not None for ref in made] == [False] * place + [True]
    # of runs that are given, or that an iterator yields, the recipes are kept
    w = lw.film(model.run([i, *range(3, 12)]) for i in range(5))
    w.frame = 4
    gc.collect()
    assert len(w._session._runs) == 1
    assert w.run["tokens"][0] == 4


def test_checkpoints_are_read_through_a_lens_that_fits():
    def checkpoint(i):
        def make():
            own = language_model(llama)
            with torch.no_grad():
                own.hf_model.lm_head.weight.mul_(1 + 0.5 * i)
            return own.run(PROMPT)

        return make

    size = float(checkpoint(0)().tail.hf_model.lm_head.weight.detach().norm())

    class OfTheFirst:
        name = "of the first"

        def transport(self, layer, states):
            return states

        def check(self, model):
            if float(model.hf_model.lm_head.weight.detach().norm()) > size:
                raise LensMismatchError("This lens is of the first model.")

    w = lw.film({f"step {i}": checkpoint(i) for i in range(3)}, lens=OfTheFirst())
    assert w.lens == "of the first"
    tops = []
    for place in range(3):
        w.frame = place
        tops.append(w.readout().log_probs)
        own = checkpoint(place)()
        np.testing.assert_allclose(tops[-1], lw.read(own).log_probs, rtol=0, atol=1e-5)
    assert not np.allclose(tops[0], tops[2])
    assert w.lens == "logit"


def test_the_page_asks_for_a_frame_and_a_film_runs_nothing_else(model):
    w = lw.film(strengths(model), model=model)
    page = Page(w)
    reply, _ = page.ask("run", frame=2)
    assert (w.frame, reply["value"]) == (2, {"run_id": w.run["id"]})
    for fields in ({"frame": 9}, {"frame": "x"}, {"prompt": "Hi"}, {"again": w.run["id"]}):
        reply, _ = page.ask("run", **fields)
        assert "error" in reply
    assert "error" in page.ask("generate", n_tokens=2)[0]
    assert "error" in Page(model.lens(PROMPT)).ask("run", frame=0)[0]
    with pytest.raises(lw.LensError, match="A film shows the runs"):
        w.prompt = "Hi"
    assert w.frame == 2


def test_what_is_no_film_is_refused_and_a_frame_that_fails_leaves_the_shown_one(model):
    run = model.run(PROMPT)
    for given, complaint in [
        ([], "a film of no runs"),
        ([3], "Pass runs, recipes"),
        ("text", "a film of 'text'"),
        ([run.spec], "no model"),
        ([lambda: 3], "made 3"),
    ]:
        with pytest.raises(lw.LensError, match=complaint):
            lw.film(given)
    w = lw.film([run, model.run("Hi"), lambda: 1 / 0])
    shown = w.run["id"]
    for place, complaint in ((1, "same cells"), (2, "division"), (7, "of 3")):
        with pytest.raises(Exception, match=complaint):
            w.frame = place
        assert (w.frame, w.run["id"]) == (0, shown)
