"""A map by head is what whole float64 forwards with plain hooks give, head by head."""

import copy
import functools

import numpy as np
import pytest
import torch
from makes import made

import lenswidget as lw
from lenswidget.errors import AnatomyError, Cancelled, EditError
from lenswidget.interventions import patched_rows

CLEAN = torch.tensor([[11, 12, 13, 14, 15, 16, 17]])
CORRUPT = torch.tensor([[11, 12, 21, 22, 15, 24, 17]])
ANSWER, FOIL = 5, 9
NAMES = ["sequential", "post-norms inside", "tuple outputs", "parallel", "learnt positions"]


@pytest.fixture(params=NAMES, scope="module")
def model(request):
    return made(request.param)


@functools.cache
def double_of(model):
    return copy.deepcopy(model.hf_model).double()


def by_hooks(model, ids, new=None, layer=0, head=0, at=()):
    """Logits at the end in a float64 forward with one head replaced; and what all heads gave, by layer."""
    double = double_of(model)
    seen, handles = [], []
    for index, path in enumerate(model.anatomy.blocks):
        heads = model.anatomy.units[index].heads

        def hook(_module, args, index=index, heads=heads):
            states = args[0].clone().view(1, -1, heads.n, heads.d)
            seen.append(states[0].clone())
            if new is not None and index == layer:
                states[0, at, head] = new[layer][at, head]
            return (states.view(args[0].shape),)

        module = double.get_submodule(f"{path}.{heads.point.path}")
        handles.append(module.register_forward_pre_hook(hook))
    with torch.no_grad():
        logits = double(input_ids=ids, use_cache=False).logits[0, -1]
    for handle in handles:
        handle.remove()
    return float(logits[ANSWER] - logits[FOIL]), seen


def grid_by_hooks(model, ids, new, at):
    n_heads = model.anatomy.units[0].heads.n
    return np.array(
        [
            [by_hooks(model, ids, new, layer, head, at)[0] for head in range(n_heads)]
            for layer in range(len(new))
        ]
    )


@pytest.mark.parametrize("positions", [None, [-1], [2, 5]])
def test_heads_patched_and_removed(model, positions):
    at = list(range(7)) if positions is None else sorted(p % 7 for p in positions)
    options = {"answer": ANSWER, "foil": FOIL, "site": "heads", "positions": positions}
    found = lw.causal_map(model, CLEAN, CORRUPT, **options)
    _, of_clean = by_hooks(model, CLEAN)
    corrupt, of_corrupt = by_hooks(model, CORRUPT)
    size = max(1, abs(corrupt), abs(found.clean))
    assert found.denoised.shape == (model.anatomy.n_layers, model.anatomy.units[0].heads.n)
    np.testing.assert_allclose(found.denoised, grid_by_hooks(model, CORRUPT, of_clean, at), atol=2e-4 * size)
    np.testing.assert_allclose(found.noised, grid_by_hooks(model, CLEAN, of_corrupt, at), atol=2e-4 * size)
    assert found.positions.tolist() == at
    for ablate in ("zero", "mean"):
        removed = lw.causal_map(model, CLEAN, ablate=ablate, **options)
        new = [s * 0 if ablate == "zero" else s.mean(0, keepdim=True).expand_as(s) for s in of_clean]
        np.testing.assert_allclose(removed.ablated, grid_by_hooks(model, CLEAN, new, at), atol=2e-4 * size)


def test_a_cell_of_the_map_is_the_edit_of_that_head():
    model = made("sequential")
    found = lw.causal_map(model, CLEAN, ablate="zero", answer=ANSWER, foil=FOIL, site="heads", positions=[3])
    edit = lw.Edit("zero", site="attn_out", layers=1, positions=3, heads=2)
    with torch.no_grad(), model.trace(CLEAN, use_cache=False, edits=[edit]) as tracer:
        logits = tracer.result.logits[0, -1]
    assert found.ablated[1, 2] == pytest.approx(float(logits[ANSWER] - logits[FOIL]), abs=1e-5)


def test_it_says_how_it_was_run_and_falls_back_to_whole_forwards(monkeypatch):
    model = made("sequential")
    options = {"answer": ANSWER, "foil": FOIL, "site": "heads", "positions": [4]}
    quick = lw.causal_map(model, CLEAN, CORRUPT, **options)
    assert "from the changed layer on" in quick.way
    assert quick.n_checked
    assert quick.error < 1e-4
    # a stream that is handed on wrongly is seen, and whole forwards are run
    plain = patched_rows._give
    monkeypatch.setattr(patched_rows, "_give", lambda value, *args, **kwargs: plain(value * 1.01))
    slow = lw.causal_map(model, CLEAN, CORRUPT, **options)
    assert slow.way == patched_rows.WAYS["batch"]
    np.testing.assert_allclose(slow.denoised, quick.denoised, atol=1e-4)


def test_tables_words_and_refusals():
    model = made("sequential")
    options = {"answer": ANSWER, "foil": FOIL, "site": "heads"}
    found = lw.causal_map(model, CLEAN, CORRUPT, **options)
    frame = found.to_dataframe()
    assert list(frame.columns) == ["layer", "head", "denoised", "noised", "denoising", "noising"]
    assert len(frame) == 16
    assert "4 layers x 4 heads, at 7 positions" in repr(found)
    assert "head" in repr(found).splitlines()[-1]
    with pytest.raises(EditError, match="Asked to measure"):
        lw.causal_map(model, CLEAN, CORRUPT, measure=["estimate"], **options)
    with pytest.raises(AnatomyError, match="map of the heads of MambaForCausalLM, which no layer offers"):
        lw.causal_map(made("state space"), CLEAN, CORRUPT, **options)
    with pytest.raises(Cancelled, match="stopped after 0 of 32 heads"):
        lw.causal_map(model, CLEAN, CORRUPT, cancelled=lambda: True, **options)
