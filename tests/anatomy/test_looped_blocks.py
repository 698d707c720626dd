"""Blocks that run several times in one forward: a layer for each call, in the order of the forward."""

import pytest
import torch
from looped_models import IDS, MODELS

import lenswidget as lw


@pytest.fixture(params=MODELS, scope="module")
def model(request):
    return lw.LanguageModel(MODELS[request.param]())


def caught_by_hooks(model):
    """What entered and left every call of every block, by plain hooks, in the order of the forward."""
    seen = []

    def hook(_module, args, kwargs, output):
        entered = args[0] if args else kwargs["hidden_states"]
        left = output[0] if isinstance(output, tuple) else output
        seen.append((entered[0].clone(), left[0].clone()))

    blocks = [model.hf_model.get_submodule(path) for path in model.anatomy.blocks]
    handles = [block.register_forward_hook(hook, with_kwargs=True) for block in blocks]
    with torch.no_grad():
        model.hf_model(input_ids=torch.tensor([IDS]))
    for handle in handles:
        handle.remove()
    return seen


def test_there_is_a_layer_for_each_call_of_each_block(model):
    anatomy, seen = model.anatomy, caught_by_hooks(model)
    assert anatomy.is_looped
    assert anatomy.n_layers == sum(anatomy.n_calls) == len(seen) > len(anatomy.blocks)
    assert [layer.block for layer in model.layers] == [row.block for row in anatomy.rows]


def test_a_run_holds_the_stream_after_each_call_and_before_the_first(model):
    seen, run = caught_by_hooks(model), model.run(IDS)
    positions = list(range(len(IDS)))
    assert run.fidelity.ok
    assert torch.equal(run.states("resid_post", [-1] * 8, positions), seen[0][0])
    for layer, (_, left) in enumerate(seen):
        assert torch.equal(run.states("resid_post", [layer] * 8, positions), left)


def test_each_call_is_read_in_a_trace_by_its_row_or_by_its_block(model):
    seen = caught_by_hooks(model)
    with torch.no_grad(), model.trace(IDS):
        pre = [layer.resid_pre[0].clone() for layer in model.layers]
        post = [layer.resid_post[0].clone() for layer in model.layers]
        last = model.layers[0].calls[-1]
        of_last = last.resid_post[0].clone()
    assert all(torch.equal(a, b) for a, (b, _) in zip(pre, seen, strict=True))
    assert all(torch.equal(a, b) for a, (_, b) in zip(post, seen, strict=True))
    assert (last.block, last.call) == (0, model.anatomy.n_calls[0] - 1)
    assert torch.equal(of_last, seen[last.index][1])


def test_a_change_of_one_call_leaves_the_calls_before_it_as_they_were(model):
    n = model.anatomy.n_layers
    seen = caught_by_hooks(model)
    with torch.no_grad(), model.trace(IDS):
        before = model.layers[n - 3].resid_post.clone()
        model.layers[n - 2].resid_post = torch.zeros_like(before)
        after = model.layers[n - 1].resid_pre.clone()
    assert torch.equal(before[0], seen[n - 3][1])
    assert float(after.abs().max()) == 0


def test_sites_inside_a_looped_block_are_those_of_that_call():
    model = lw.LanguageModel(MODELS["universal"]())
    with torch.no_grad(), model.trace(IDS):
        for layer in model.layers:
            assert "mlp_out" in layer.offered
            pre, added, post = layer.resid_pre.clone(), layer.mlp_out.clone(), layer.resid_post.clone()
            # float32 rounding of one sum of values of a few units
            torch.testing.assert_close(pre + added, post, rtol=0, atol=2e-6)


def test_the_last_row_reads_as_the_models_own_logits(model):
    run = model.run(IDS)
    readout = lw.read(run, lw.Cells([run.n_layers - 1] * 8, range(8)), k=3)
    with torch.no_grad():
        own = model.hf_model(input_ids=torch.tensor([IDS])).logits[0].log_softmax(-1)
    theirs = own.gather(1, torch.tensor(readout.ids.astype("int64")))
    torch.testing.assert_close(torch.tensor(readout.log_probs), theirs, rtol=0, atol=1e-5)


def test_the_anatomy_says_that_blocks_run_in_a_loop(model):
    text = str(model.anatomy)
    assert "in a loop" in text
    assert f"{model.anatomy.n_layers} layers" in text
    assert f"{model.anatomy.rows[1].path} pass {model.anatomy.rows[1].call}" in text
