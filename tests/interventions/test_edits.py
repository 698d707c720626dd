"""Edits do what their formulas say, in every forward of a run, and nothing else."""

import copy

import numpy as np
import pytest
import tiny
import torch
import transformers as hf
from makes import MAKES, made
from tiny_models import tiny_config, tiny_model

import lenswidget as lw
from lenswidget.errors import AnatomyError, CellError, EditError, LensError, ModelError
from lenswidget.interventions.directions import random_like, token_directions
from lenswidget.interventions.places import reached_cells
from lenswidget.readout.proof import prove

IDS = torch.tensor([[11, 12, 13, 14, 15, 16, 17]])
LAYER, AT = 1, [1, 4]


@pytest.fixture(params=[name for name in MAKES if name != "learnt positions"], scope="module")
def model(request):
    return made(request.param)


@pytest.fixture(autouse=True)
def no_grad():
    with torch.no_grad():
        yield


def logits_of(model, **kwargs):
    with model.trace(IDS, use_cache=False, **kwargs) as tracer:
        return tracer.result.logits.clone()


def by_plain_hook(model, rule, layer=LAYER, at=AT, dtype=torch.float64):
    """The float64 logits of the bare model, its block's output changed by an ordinary hook.

    Args:
        rule: from the states of the positions, `[n, d_model]`, to the new ones.
    """
    double = copy.deepcopy(model.hf_model).to(dtype)
    block = double.get_submodule(model.anatomy.blocks[layer])

    def hook(_module, _args, output):
        states = (output[0] if isinstance(output, tuple) else output).clone()
        states[0, at] = rule(states[0, at].double(), states[0].double()).to(dtype)
        return (states, *output[1:]) if isinstance(output, tuple) else states

    handle = block.register_forward_hook(hook)
    found = double(input_ids=IDS, use_cache=False).logits
    handle.remove()
    return found


def unembed_row(model, token):
    return model.hf_model.get_output_embeddings().weight[token].double()


def clean_states(model, layer=LAYER):
    with model.trace(IDS, use_cache=False):
        return model.layers[layer].resid_post[0].double().clone()


def swapped(rows, held, basis):
    inverse = torch.linalg.pinv(basis)
    return rows + (held @ inverse.T[:, [1, 0]] - rows @ inverse.T) @ basis.T


VECTOR = torch.linspace(-1, 1, 64)


def cases(model):
    """By op, the edit and its formula in float64."""
    one, two = unembed_row(model, 5), unembed_row(model, 9)
    basis = torch.stack([one, two], dim=1)
    clean = clean_states(model)
    vector = torch.linspace(-1, 1, model.anatomy.d_model)
    orthonormal = torch.linalg.qr(basis)[0]
    return {
        "zero": ({}, lambda rows, _: 0 * rows),
        "mean": ({}, lambda rows, states: states.mean(0).expand_as(rows)),
        "scale": ({"strength": -1.5}, lambda rows, _: -1.5 * rows),
        "add": ({"vector": vector, "strength": 2.0}, lambda rows, _: rows + 2 * vector.double()),
        "steer": (
            {"tokens": 5, "strength": 0.7},
            lambda rows, _: rows + 0.7 * rows.norm(dim=-1).median() * one / one.norm(),
        ),
        "project_out": ({"tokens": [5, 9]}, lambda rows, _: rows - rows @ orthonormal @ orthonormal.T),
        "swap": ({"tokens": [5, 9]}, lambda rows, _: swapped(rows, clean[AT], basis)),
        "patch": (
            {"source": model.run(IDS), "from_positions": [0, 2], "strength": 0.5},
            lambda rows, _: 0.5 * rows + 0.5 * clean[[0, 2]],
        ),
    }


def edit_of(op, options):
    return lw.Edit(op, layers=LAYER, positions=AT, **options)


def test_each_op_is_its_formula(model):
    plain = logits_of(model)
    for op, (options, rule) in cases(model).items():
        if op in ("steer", "project_out", "swap") and model.anatomy.unembed is None:
            continue
        found = logits_of(model, edits=[edit_of(op, options)])
        # the grouped product of experts takes no float64
        is_mixture = isinstance(model.hf_model, hf.MixtralForCausalLM)
        expected = by_plain_hook(model, rule, dtype=torch.float32 if is_mixture else torch.float64).double()
        # float32 through a few blocks, beside float64
        size = float(expected.abs().max())
        torch.testing.assert_close(found.double(), expected, rtol=0, atol=2e-5 * max(size, 1), msg=op)
        assert not torch.equal(found, plain), op


def test_edits_of_parts_are_what_writing_them_in_a_trace_does(model):
    vector = torch.linspace(-1, 1, model.anatomy.d_model)
    for site in model.layers[LAYER].offered:
        edit = lw.Edit("add", site=site, layers=LAYER, positions=AT, vector=vector)
        with model.trace(IDS, use_cache=False) as tracer:
            layer = model.layers[LAYER]
            states = getattr(layer, site).clone()
            states[:, AT] += vector
            setattr(layer, site, states)
            expected = tracer.result.logits.clone()
        found = logits_of(model, edits=[edit])
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5, msg=site)


def test_no_edit_and_no_strength_leave_every_bit(model):
    plain = logits_of(model)
    off = [lw.Edit("zero", layers=LAYER, is_on=False)]
    assert torch.equal(logits_of(model, edits=[]), plain)
    assert torch.equal(logits_of(model, edits=off), plain)
    for op, (options, _) in cases(model).items():
        if op == "scale":  # whose strength is its factor
            continue
        edit = edit_of(op, {**options, "strength": 0.0})
        assert torch.equal(logits_of(model, edits=[edit]), plain), op


def test_patching_a_run_with_itself_changes_no_bit(model):
    run = model.run(IDS)
    plain = logits_of(model)
    for site in model.layers[LAYER].offered:
        edit = lw.Edit("patch", site=site, layers=LAYER, positions=AT, source=run)
        found = logits_of(model, edits=[edit])
        part = {"attn_out": model.anatomy.sites[LAYER].attn, "mlp_out": model.anatomy.sites[LAYER].mlp}.get(
            site
        )
        if part is None or (len(part.addends) == 1 and part.addends[0].scale == 1.0):
            assert torch.equal(found, plain), site
        else:  # a sum of several, or times a constant: taken apart again, it rounds
            torch.testing.assert_close(found, plain, rtol=0, atol=1e-5, msg=site)


def test_untouched_cells_are_bit_equal_and_the_others_are_not(model):
    base = model.run(IDS)
    for site in model.layers[LAYER].offered:
        n_layers = model.anatomy.n_layers
        edit = lw.Edit("zero", site=site, layers=[0, n_layers - 1], positions=[2, -2])
        run = model.run(IDS, edits=[edit])
        reached = reached_cells([edit], n_layers, 7, is_causal=True)
        cells = lw.Cells.all(run)
        same = (
            (
                run.states("resid_post", cells.layers, cells.positions)
                == base.states("resid_post", cells.layers, cells.positions)
            )
            .all(-1)
            .numpy()
            .reshape(reached.shape)
        )
        proof = prove(run, base)
        assert (proof.n_untouched, proof.n_equal) == (np.sum(~reached), np.sum(same & ~reached)), site
        assert proof.ok, proof
        # experts compute the tokens that they are given together, which moves the rounding of the others
        if not isinstance(model.hf_model, hf.MixtralForCausalLM):
            assert same[~reached].all(), site
        # the edited cells themselves, and what the last layer makes of the last token
        assert not same[1, 2], site
        assert not same[-1, -1], site


def test_every_later_forward_of_a_run_carries_its_edits(model):
    edit = lw.Edit("zero", layers=LAYER, positions=2)
    run = model.run(IDS, edits=[edit])
    for site in run.sites:
        with model.trace(IDS, use_cache=False, edits=[edit]):
            expected = getattr(model.layers[-1 + len(model.layers)], site)[0].clone()
        last = len(model.layers) - 1
        assert torch.equal(run.states(site, [last] * 7, range(7)), expected), site
    again = model.run(run.spec)
    assert torch.equal(again.states("resid_post", [last], [6]), run.states("resid_post", [last], [6]))
    assert run.fidelity.ok


def test_edits_at_one_place_are_made_in_the_order_given():
    model = tiny.language_model()
    first = lw.Edit("zero", layers=1, positions=2)
    then = lw.Edit("add", layers=1, positions=2, vector=torch.ones(32))
    with model.trace(IDS, edits=[first, then]):
        assert torch.equal(model.layers[1].resid_post[0, 2], torch.ones(32))
    with model.trace(IDS, edits=[then, first]):
        assert torch.equal(model.layers[1].resid_post[0, 2], torch.zeros(32))


def test_the_embedding_row_can_be_edited():
    model = tiny.language_model()
    below = lw.Edit("zero", layers=-1, positions=2)
    as_input = lw.Edit("zero", site="resid_pre", layers=0, positions=2)
    assert torch.equal(logits_of(model, edits=below), logits_of(model, edits=as_input))
    run = model.run(IDS, edits=[below])
    assert not run.states("resid_post", [-1], [2]).any()


def test_a_body_sees_what_was_edited_and_its_own_calls_are_not():
    model = tiny.language_model(tiny.llama)
    n_hooks = tiny.n_hooks(model.hf_model)
    edit = lw.Edit("zero", layers=1)
    with model.trace(IDS, use_cache=False, edits=[edit]):
        block = model.model.layers[1]
        assert not block.output[0].any()
        given, options = block.inputs
        alone = model.model.layers[1](*given, **options)  # a call out of order is the body's own
        assert (alone[0] if isinstance(alone, tuple) else alone).any()
        # passed by now: the forward is run again, with the edit
        assert not model.layers[2].resid_pre.any()
        assert not model.layers[1].resid_post.any()
    assert tiny.n_hooks(model.hf_model) == n_hooks

    def fail_inside():
        with model.trace(IDS, edits=[edit]):
            _ = model.layers[2].resid_post
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_inside()
    assert tiny.n_hooks(model.hf_model) == n_hooks


def test_a_generation_carries_edits_at_generated_positions_too():
    model = tiny.language_model(tiny.llama)
    vector = 3 * torch.linspace(-1, 1, 32)
    for positions, edited in ((None, range(12)), ("generated", range(7, 12)), ("prompt", range(7)), (3, [3])):
        edit = lw.Edit("add", layers=2, positions=positions, vector=vector)
        for use_cache in (True, False):
            with model.generate(
                IDS, edits=[edit], max_new_tokens=5, do_sample=False, use_cache=use_cache, eos_token_id=None
            ) as tracer:
                found = tracer.result[0].tolist()
            ids = IDS
            for _ in range(5):  # whole forwards, their blocks changed by a plain hook

                def hook(_module, _args, output, edited=edited):
                    states = (output[0] if isinstance(output, tuple) else output).clone()
                    states[:, [i for i in edited if i < states.shape[1]]] += vector
                    return (states, *output[1:]) if isinstance(output, tuple) else states

                handle = model.hf_model.model.layers[2].register_forward_hook(hook)
                logits = model.hf_model(input_ids=ids, use_cache=False).logits
                handle.remove()
                ids = torch.cat([ids, logits[:, -1:].argmax(-1)], dim=1)
            assert found == ids[0].tolist(), (positions, use_cache)


def test_positions_of_a_padded_batch_count_each_rows_own_tokens():
    model = tiny.language_model(tiny.llama)
    encoding = {
        "input_ids": torch.tensor([[0, 0, 5, 6, 7], [1, 2, 3, 4, 5]]),
        "attention_mask": torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]]),
    }
    with model.trace(encoding, edits=[lw.Edit("zero", layers=1, positions=[0, -1])]):
        zeros = (model.layers[1].resid_post == 0).all(-1)
    assert zeros.tolist() == [[False, False, True, False, True], [True, False, False, False, True]]
    with model.trace(encoding, edits=[lw.Edit("mean", layers=1, positions=0)]):
        states = model.layers[1].resid_post.clone()
    with model.trace(encoding):
        plain = model.layers[1].resid_post.clone()
    torch.testing.assert_close(states[0, 2], plain[0, 2:].mean(0), rtol=0, atol=1e-6)
    torch.testing.assert_close(states[1, 0], plain[1].mean(0), rtol=0, atol=1e-6)


def test_a_looped_block_is_edited_at_the_pass_that_was_named():
    config = tiny_config(hf.AlbertConfig)
    config.num_hidden_layers, config.num_hidden_groups = 4, 1
    model = lw.LanguageModel(tiny_model(config, hf.AlbertForMaskedLM))
    assert model.anatomy.is_looped
    with model.trace(IDS, edits=[lw.Edit("zero", layers=2, positions=3)]):
        zeros = [bool((layer.resid_post[0, 3] == 0).all()) for layer in model.layers]
    assert zeros == [False, False, True, False]


def test_the_mean_over_texts_is_that_of_all_their_positions():
    model = tiny.language_model()
    texts = ["The Eiffel Tower", "Paris is the heart of France"]
    states = []
    for text in texts:
        ids = tiny.tokenizer()(text, return_tensors="pt")["input_ids"]
        with model.trace(ids):
            states.append(model.layers[1].resid_post[0].clone())
    with model.trace(IDS, edits=[lw.Edit("mean", layers=1, positions=3, texts=texts)]):
        found = model.layers[1].resid_post[0, 3].clone()
    torch.testing.assert_close(found, torch.cat(states).mean(0), rtol=0, atol=1e-6)


def test_a_direction_is_the_gradient_of_the_tokens_logit_before_the_norm():
    model = tiny.language_model(tiny.llama)
    generator = torch.Generator().manual_seed(3)
    matrix = torch.randn(32, 32, generator=generator)
    weight = model.hf_model.lm_head.weight

    class Linear:
        name = "linear"

        def transport(self, layer, states):
            return states.float() @ matrix.T + 1.0

    found = token_directions(model, [5, 9], 1, Linear())
    torch.testing.assert_close(found, weight[[5, 9]] @ matrix, rtol=0, atol=1e-6)
    assert torch.equal(token_directions(model, [5], 1), weight[[5]])
    # the last layer needs no carrying
    assert torch.equal(token_directions(model, [5], 3, Linear()), weight[[5]])


def test_random_directions_keep_norms_and_angles():
    directions = torch.randn(3, 50, generator=torch.Generator().manual_seed(0))
    found = random_like(directions, 7)
    torch.testing.assert_close(found @ found.T, directions @ directions.T, rtol=0, atol=1e-4)
    assert torch.equal(found, random_like(directions, 7))
    cosines = torch.nn.functional.cosine_similarity(found, directions)
    assert float(cosines.abs().max()) < 0.6


def test_a_control_moves_the_states_by_as_much():
    model = tiny.language_model(tiny.llama)
    edit = lw.Edit("steer", layers=2, positions=3, tokens=5, strength=2.0)
    plain = model.run(IDS).states("resid_post", [2], [3])
    moved = [
        model.run(IDS, edits=[each]).states("resid_post", [2], [3]) - plain
        for each in (edit, edit.control(), edit.control(1))
    ]
    norms = [float(each.norm()) for each in moved]
    assert norms == pytest.approx([norms[0]] * 3, rel=1e-5)
    assert not torch.allclose(moved[1], moved[2])


def test_a_live_swap_in_two_layers_swaps_back_and_a_held_one_does_not():
    model = tiny.language_model(tiny.llama)
    # blocks that add nothing, so that only the swaps act
    for block in model.hf_model.model.layers:
        block.self_attn.o_proj.weight.zero_()
        block.mlp.down_proj.weight.zero_()
    plain = model.run(IDS).states("resid_post", [3], [2])
    options = {"layers": [1, 2], "positions": 2, "tokens": [5, 9]}
    live = model.run(IDS, edits=[lw.Edit("swap", is_live=True, **options)]).states("resid_post", [3], [2])
    held = model.run(IDS, edits=[lw.Edit("swap", **options)]).states("resid_post", [3], [2])
    once = model.run(IDS, edits=[lw.Edit("swap", **{**options, "layers": 1})]).states("resid_post", [3], [2])
    torch.testing.assert_close(live, plain, rtol=0, atol=1e-5)
    torch.testing.assert_close(held, once, rtol=0, atol=1e-5)
    assert not torch.allclose(held, plain, atol=1e-3)


def test_a_patch_from_a_recipe_equals_one_from_its_run():
    model = tiny.language_model()
    other = torch.tensor([[30, 31, 32, 33]])
    source = model.run(other, edits=[lw.Edit("scale", layers=0, strength=2.0)])
    results = [
        logits_of(model, edits=lw.Edit("patch", layers=2, positions=-1, from_positions=-1, source=given))
        for given in (source, source.spec)
    ]
    assert torch.equal(*results)
    assert not torch.equal(results[0], logits_of(model))


REFUSED = {
    "an op that is not known": (lambda: lw.Edit("remove"), EditError, "Asked for the edit 'remove'"),
    "a site that is not known": (lambda: lw.Edit("zero", site="head"), EditError, "Asked to edit 'head'"),
    "a field it does not take": (lambda: lw.Edit("zero", tokens=5), EditError, "tokens with the edit zero"),
    "a field it lacks": (lambda: lw.Edit("add"), EditError, "was given no vector"),
    "one token to swap": (lambda: lw.Edit("swap", tokens=5), EditError, "was given 1 tokens"),
    "the same token twice": (lambda: lw.Edit("swap", tokens=[5, 5]), EditError, "same token twice"),
    "a strength that is no number": (
        lambda: lw.Edit("zero", strength=float("nan")),
        EditError,
        "finite number",
    ),
    "layers that are none": (lambda: lw.Edit("zero", layers="all"), EditError, "layers are 'all'"),
    "a place named twice": (lambda: lw.Edit("zero", positions=[1, 1]), EditError, "twice"),
    "a control without direction": (lambda: lw.Edit("zero").control(), EditError, "has no direction"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_an_edit_that_is_wrong_is_refused_when_it_is_made(name):
    make, error, message = REFUSED[name]
    with pytest.raises(error, match=message):
        make()


def unfitting(model):
    other = tiny.language_model(n_embd=16)
    short = model.run(torch.tensor([[1, 2, 3]]))
    return {
        "a layer beyond": (lw.Edit("zero", layers=4), EditError, "layer 4 of 4"),
        "the embedding of a part": (lw.Edit("zero", site="mlp_out", layers=-1), EditError, "layer -1 of 4"),
        "a position beyond": (lw.Edit("zero", positions=7), EditError, "position 7 of 7"),
        "a position twice": (lw.Edit("zero", positions=[6, -1]), EditError, "twice"),
        "a vector of another width": (lw.Edit("add", vector=torch.ones(5)), EditError, "5 numbers"),
        "a token beyond": (lw.Edit("steer", tokens=300), CellError, "token 300"),
        "text of several tokens": (lw.Edit("steer", tokens="zqzq"), CellError, "tokens"),
        "a function for a lens": (
            lw.Edit("steer", tokens=5, layers=1, lens=lambda layer, x: x),
            EditError,
            "through the function",
        ),
        "a source of another width": (
            lw.Edit("patch", layers=1, positions=0, source=other.run(IDS)),
            EditError,
            "wide",
        ),
        "a source that is shorter": (
            lw.Edit("patch", layers=1, positions=5, source=short),
            EditError,
            "patch from position 5 of 3",
        ),
        "unlike numbers of positions": (
            lw.Edit("patch", layers=1, positions=[1, 2], from_positions=[1], source=short),
            EditError,
            "2 positions from 1",
        ),
    }


def test_an_edit_that_does_not_fit_is_refused_in_a_sentence():
    model = tiny.language_model()
    n_hooks = tiny.n_hooks(model.hf_model)
    for name, (edit, error, message) in unfitting(model).items():
        for act in (model.run, model.trace):
            with pytest.raises(error, match=message) as caught:
                act(IDS, edits=[edit])
            assert isinstance(caught.value, LensError), name
            assert "\n" not in str(caught.value), name
    assert tiny.n_hooks(model.hf_model) == n_hooks
    with pytest.raises(EditError, match=r"Pass a list of lw\.Edit"):
        model.run(IDS, edits=["zero"])
    with pytest.raises(EditError, match="no generated positions"):
        model.generate(IDS, edits=[lw.Edit("swap", layers=1, tokens=[5, 9])], max_new_tokens=2)


def test_a_site_that_the_model_does_not_offer_is_refused_with_its_reason():
    model = lw.LanguageModel(tiny_model(tiny_config(hf.GPTJConfig)))
    with pytest.raises(AnatomyError, match=r"resid_mid of layer 1.*parallel"):
        model.run(IDS, edits=[lw.Edit("zero", site="resid_mid", layers=1)])


def test_parallel_directions_are_refused():
    model = tiny.language_model(tiny.llama, tie_word_embeddings=False)
    model.hf_model.lm_head.weight[9] = 2 * model.hf_model.lm_head.weight[5]
    with pytest.raises(EditError, match="nearly parallel"):
        model.run(IDS, edits=[lw.Edit("swap", layers=1, positions=0, tokens=[5, 9])])


def test_a_patch_from_a_run_of_a_model_that_has_changed_is_refused():
    model = tiny.language_model()
    source = model.run(IDS)
    edit = lw.Edit("patch", layers=1, positions=0, source=source)
    model.hf_model.transformer.h[0].mlp.c_fc.weight.mul_(2)
    with pytest.raises(ModelError, match="model has changed since"):
        model.run(IDS, edits=[edit])


def test_reached_cells_of_a_model_that_looks_ahead_are_whole_layers():
    edit = lw.Edit("zero", site="mlp_out", layers=1, positions=3)
    causal = reached_cells([edit], 3, 5, is_causal=True)
    assert np.argwhere(causal).tolist() == [[2, 3], [2, 4], [3, 3], [3, 4]]
    assert reached_cells([edit], 3, 5, is_causal=False)[2:].all()
