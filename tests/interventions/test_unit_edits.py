"""Edits of heads and neurons do what their formulas say, in float64 with plain hooks."""

import copy

import pytest
import tiny
import torch
import transformers as hf
from makes import made
from tiny_models import tiny_config, tiny_model

import lenswidget as lw
from lenswidget.errors import AnatomyError, EditError
from lenswidget.interventions.recipe_code import edits_code
from lenswidget.interventions.recipe_state import edits_of_state, edits_to_state

IDS = torch.tensor([[11, 12, 13, 14, 15, 16, 17]])
OTHER = torch.tensor([[21, 22, 23, 24, 25, 26, 27]])
LAYER, AT, HEADS = 1, [1, 4], [1, 3]
NAMES = [
    "sequential",
    "post-norms inside",
    "residual multiplier",
    "tuple outputs",
    "parallel",
    "learnt positions",
]


@pytest.fixture(params=NAMES, scope="module")
def model(request):
    return made(request.param)


@pytest.fixture(autouse=True)
def no_grad():
    with torch.no_grad():
        yield


def logits_of(model, ids=IDS, **kwargs):
    with model.trace(ids, use_cache=False, **kwargs) as tracer:
        return tracer.result.logits.clone()


def taken(model, kind, ids=IDS, layer=LAYER):
    """What the projection takes in a plain float64 forward, `[seq, n, d]`."""
    return by_plain_hook(model, kind, None, ids, layer)[1]


def by_plain_hook(model, kind, rule, ids=IDS, layer=LAYER):
    units = model.anatomy.units[layer].get(kind)
    double = copy.deepcopy(model.hf_model).double()
    block = double.get_submodule(model.anatomy.blocks[layer])
    seen = []

    def hook(_module, args):
        states = args[0].clone().view(1, -1, units.n, units.d)
        seen.append(states[0].clone())
        if rule is not None:
            states[0] = rule(states[0])
        return (states.view(args[0].shape),)

    handle = block.get_submodule(units.point.path).register_forward_pre_hook(hook)
    logits = double(input_ids=ids, use_cache=False).logits
    handle.remove()
    return logits, seen[0]


def at_units(change):
    def rule(states):
        for unit in HEADS:
            states[AT, unit] = change(states, unit)
        return states

    return rule


@pytest.mark.parametrize("kind", ["heads", "neurons"])
def test_each_op_is_its_formula(model, kind):
    site = {"heads": "attn_out", "neurons": "mlp_out"}[kind]
    other = taken(model, kind, OTHER)
    earlier = taken(model, kind, OTHER, LAYER - 1)
    both = torch.cat([taken(model, kind), other])
    cases = {
        "zero": ({}, lambda states, unit: 0 * states[AT, unit]),
        "mean": ({"strength": 0.5}, lambda s, u: 0.5 * s[AT, u] + 0.5 * s[:, u].mean(0)),
        "scale": ({"strength": -1.5}, lambda s, u: -1.5 * s[AT, u]),
        "patch": ({"source": model.run(OTHER)}, lambda s, u: other[AT, u]),
        "patch from another place": (
            {"source": model.run(OTHER).spec, "from_layer": LAYER - 1, "from_positions": [0, 6]},
            lambda s, u: earlier[[0, 6], u],
        ),
    }
    plain = logits_of(model)
    for name, (options, change) in cases.items():
        op = name.split()[0]
        edit = lw.Edit(op, site=site, layers=LAYER, positions=AT, **{kind: HEADS}, **options)
        found = logits_of(model, edits=[edit])
        expected, _ = by_plain_hook(model, kind, at_units(change))
        size = max(float(expected.abs().max()), 1)
        torch.testing.assert_close(found.double(), expected, rtol=0, atol=3e-5 * size, msg=name)
        assert not torch.equal(found, plain), name
    assert both.shape[1:] == other.shape[1:]


def test_nothing_changes_where_nothing_is_asked(model):
    plain = logits_of(model)
    options = {"site": "attn_out", "layers": LAYER, "heads": HEADS}
    for edit in (
        lw.Edit("zero", strength=0, **options),
        lw.Edit("zero", is_on=False, **options),
        lw.Edit("scale", strength=1, **options),
        lw.Edit("patch", source=model.run(IDS), **options),
    ):
        assert torch.equal(logits_of(model, edits=[edit]), plain), edit


def test_all_heads_at_zero_leave_the_constant(model):
    heads = model.anatomy.units[LAYER].heads
    edit = lw.Edit("zero", site="attn_out", layers=LAYER, heads=range(heads.n))
    with model.trace(IDS, use_cache=False, edits=[edit]):
        left = model.layers[LAYER].attn_out[0].clone()
    # a bias at most, and so the same at each position
    torch.testing.assert_close(left, left[:1].expand_as(left), rtol=0, atol=1e-6)


def test_with_an_edit_of_the_whole_part_after_it(model):
    options = {"site": "attn_out", "layers": LAYER, "positions": AT}
    found = logits_of(
        model, edits=[lw.Edit("zero", heads=HEADS, **options), lw.Edit("scale", strength=2.0, **options)]
    )
    with model.trace(IDS, use_cache=False) as tracer:
        layer = model.layers[LAYER]
        for head in HEADS:
            states = layer.heads[head].clone()
            states[:, AT] = 0
            layer.heads[head] = states
        added = layer.attn_out.clone()
        added[:, AT] *= 2
        layer.attn_out = added
        expected = tracer.result.logits.clone()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * max(1, float(expected.abs().max())))


def test_a_generation_carries_an_edit_of_heads():
    model = tiny.language_model(tiny.llama)
    edit = lw.Edit("zero", site="attn_out", layers=1, heads=0)
    with model.generate("The Eiffel", edits=[edit], max_new_tokens=4, do_sample=False) as tracer:
        found = tracer.result[0].tolist()
    ids = model.tokenizer("The Eiffel").input_ids
    while len(ids) < len(found):
        ids.append(int(logits_of(model, torch.tensor([ids]), edits=[edit])[0, -1].argmax()))
    assert found == ids


def test_mean_over_texts_is_of_all_their_positions():
    model = tiny.language_model(tiny.llama)
    texts = ["The Eiffel Tower is", "in the city of Paris"]
    edit = lw.Edit("mean", site="attn_out", layers=LAYER, positions=AT, heads=[1], texts=texts)
    states = torch.cat([taken(model, "heads", torch.tensor([model.tokenizer(t).input_ids])) for t in texts])

    def rule(s):
        s[AT, 1] = states[:, 1].mean(0)
        return s

    expected, _ = by_plain_hook(model, "heads", rule)
    torch.testing.assert_close(logits_of(model, edits=[edit]).double(), expected, rtol=0, atol=3e-5)


def test_as_state_and_as_code():
    model = tiny.language_model(tiny.llama)
    edits = (
        lw.Edit("zero", site="attn_out", layers=1, heads=[1, 0]),
        lw.Edit("scale", site="mlp_out", layers=[1, 2], neurons=5, strength=3.0),
    )
    assert edits[0].heads == (0, 1)
    again = edits_of_state({"edits": edits_to_state(edits, {})}, lambda name: None, lambda p, **o: p)
    written = eval(edits_code(edits, {}), {"lw": lw})
    plain = logits_of(model, edits=edits)
    for each in (again, written):
        assert [repr(e) for e in each] == [repr(e) for e in edits]
        assert torch.equal(logits_of(model, edits=list(each)), plain)
    assert "heads=(0, 1)" in repr(edits[0])


def test_what_does_not_fit_is_refused_in_a_sentence():
    model = made("sequential")
    of_heads = {"site": "attn_out", "layers": 1}
    for make, says in (
        (lambda: lw.Edit("zero", heads=[1]), "pass site='attn_out'"),
        (lambda: lw.Edit("zero", site="attn_out", neurons=[1]), "pass site='mlp_out'"),
        (
            lambda: lw.Edit("add", vector=torch.ones(3), heads=1, **of_heads),
            "Asked for heads with the edit add",
        ),
        (lambda: lw.Edit("zero", heads=[], **of_heads), "edit's heads are"),
        (lambda: lw.Edit("zero", heads=[-1], **of_heads), "integers from 0"),
        (lambda: lw.Edit("zero", heads=[1, 1], **of_heads), "twice"),
        (lambda: logits_of(model, edits=[lw.Edit("zero", heads=[4], **of_heads)]), "heads 4 of 4 .* 0 to 3"),
    ):
        with pytest.raises(EditError, match=says):
            make()
    mamba = made("state space")
    with pytest.raises(AnatomyError, match="not offered"):
        logits_of(mamba, edits=[lw.Edit("zero", heads=[0], **of_heads)])
    falcon = lw.LanguageModel(tiny_model(tiny_config(hf.FalconH1Config)))
    with pytest.raises(AnatomyError, match=r"Asked to edit heads of layer 1 .* sum of several outputs"):
        logits_of(falcon, edits=[lw.Edit("zero", heads=[0], **of_heads)])
