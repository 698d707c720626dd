"""A branch of a prompt is what a fresh run of that prompt is."""

import numpy as np
import pytest
import torch
from makes import made

import lenswidget as lw
from lenswidget.errors import CellError, PromptError
from lenswidget.interventions.forking import forked
from lenswidget.readout.run import RunSpec

IDS = list(range(3, 23))


@pytest.mark.parametrize("name", ["sequential", "learnt positions", "experts"])
@pytest.mark.parametrize("position", [0, 7, 19])
def test_a_fork_equals_a_fresh_run_of_that_prefix(name, position):
    model = made(name)
    run = model.run(IDS)
    lw.read(run)
    fork = model.run(forked(run.spec, position, 99), reuse=run)
    assert fork.token_ids.tolist() == [*IDS[: position + 1], 99]
    assert fork.reuse.n_columns == (position + 1 if position else 0)
    fresh = model.run([*IDS[: position + 1], 99], reuse=False)
    ours, theirs = lw.read(fork), lw.read(fresh)
    assert np.abs(ours.log_probs - theirs.log_probs).max() < 2e-3
    assert np.abs(ours.entropy_nats - theirs.entropy_nats).max() < 2e-3


def test_edits_before_a_fork_stay_and_those_behind_it_go():
    model = made("sequential")
    before = lw.Edit("zero", layers=1, positions=4)
    both = lw.Edit("scale", layers=0, positions=[4, 15], strength=0.5)
    last = lw.Edit("zero", layers=2, positions=-1)
    everywhere = lw.Edit("project_out", layers=1, tokens=(7, 8))
    generated = lw.Edit("zero", layers=1, positions="generated")
    run = model.run(IDS, edits=[before, both, last, everywhere, generated])
    spec = forked(run.spec, 9, 50)
    assert spec.edits[0] is before
    assert [edit.positions for edit in spec.edits] == [4, (4,), None]
    end = forked(run.spec, 19, 50)
    assert [edit.positions for edit in end.edits] == [4, (4, 15), (19,), None]
    fork, fresh = model.run(spec, reuse=run), model.run(RunSpec(spec.prompt, edits=spec.edits), reuse=False)
    assert np.abs(lw.read(fork).log_probs - lw.read(fresh).log_probs).max() < 2e-3


def test_what_cannot_be_forked_is_refused():
    model = made("sequential")
    spec = model.run(IDS).spec
    with pytest.raises(CellError, match="position 20 of 20 tokens"):
        forked(spec, 20, 5)
    padded = {"input_ids": torch.tensor([[0, 5, 6]]), "attention_mask": torch.tensor([[0, 1, 1]])}
    with pytest.raises(PromptError, match="more than token ids"):
        forked(model.run(padded).spec, 1, 5)


def test_a_branch_of_the_widget_leads_back():
    model = made("sequential")
    w = model.lens(IDS)
    first = w.run["id"]
    w.fork(7, 99)
    assert w.prompt == [*IDS[:8], 99]
    assert w.run["reuse"]["run_id"] == first
    w.generate(3)
    assert w.run["tokens"][:9] == [*IDS[:8], 99]
    # what was shown before is there still
    w.prompt = w._session.spec_of(first)
    assert w.run["tokens"] == IDS
