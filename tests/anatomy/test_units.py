"""Heads and neurons: found by watching, and their shares sum to what the part adds."""

import copy
import functools

import pytest
import torch
import transformers as hf
from makes import MAKES, made
from tiny_models import tiny_config, tiny_model

import lenswidget as lw
from lenswidget.errors import AnatomyError, CellError

IDS = torch.tensor([[11, 12, 13, 14, 15, 16, 17]])
# More makes of attention, and the numbers that their configurations give.
OTHERS = {
    "latent": hf.DeepseekV2Config,
    "latent, dense": hf.DeepseekV3Config,
    "fused and split": hf.Phi3Config,
    "fused, one key head": hf.GPTBigCodeConfig,
    "its own softmax": hf.MptConfig,
    "sinks": hf.GptOssConfig,
    "gated": hf.Qwen3NextConfig,
    "flattened MLP": hf.OPTConfig,
    "post-norms alone": hf.Olmo2Config,
    "scaled logits": hf.CohereConfig,
}


@functools.cache
def model_of(name):
    if name in MAKES:
        return made(name)
    return lw.LanguageModel(tiny_model(tiny_config(OTHERS[name])))


@pytest.fixture(autouse=True)
def no_grad():
    with torch.no_grad():
        yield


def offering(kind):
    for name in (*MAKES, *OTHERS):
        for layer, units in enumerate(model_of(name).anatomy.units):
            if units.get(kind) is not None:
                yield name, layer, units.get(kind)
                break


def weight_of(module):
    """`[inputs, outputs]` float64: GPT-2's own linear layers are stored the other way round."""
    weight = module.weight.double()
    return weight if type(module).__name__ == "Conv1D" else weight.T


def test_heads_are_as_many_as_the_configuration_says():
    seen = 0
    for name, _, heads in offering("heads"):
        config = model_of(name).hf_model.config
        n_heads = getattr(config, "num_attention_heads", None) or config.n_heads
        width = weight_of(_projection(name, heads)[0]).shape[0]
        assert (heads.n, heads.d) == (n_heads, width // n_heads), name
        seen += 1
    assert seen >= 17


def test_units_say_where_they_are_and_whether_they_are_gated():
    said = {name: str(heads) for name, _, heads in offering("heads")}
    gated = {name for name, _, heads in offering("heads") if heads.is_gated}
    assert "gated" in gated
    assert {name for name, text in said.items() if text.endswith("gated") or ", gated, " in text} == gated
    for name, _, heads in offering("heads"):
        assert said[name].startswith(f"{heads.n} of {heads.d} in {heads.point}")


def _projection(name, units, layer=None):
    model = model_of(name)
    layer = layer if layer is not None else next(i for n, i, _ in offering("heads") if n == name)
    block = model.hf_model.get_submodule(model.anatomy.rows[layer].path)
    return block.get_submodule(units.point.path), block


@pytest.mark.parametrize("kind", ["heads", "neurons"])
def test_shares_by_the_plain_weight_sum_to_the_part(kind):
    """In float64, with the weight itself: `z_i W_i` over all units and the bias, times what is behind."""
    seen = set()
    for name, layer, units in offering(kind):
        model = model_of(name)
        projection, block = _projection(name, units, layer)
        with model.trace(IDS, use_cache=False):
            node = model.get(f"{model.anatomy.rows[layer].path}.{units.point.path}")
            taken = units.point.read(node.inputs, torch.Size(IDS.shape))[0, -1].clone()
            part = model.layers[layer].attn_out if kind == "heads" else model.layers[layer].mlp_out
            expected = part[0, -1].double().clone()
        split = units.split(block, taken)
        shares = split.added(range(units.n))
        torch.testing.assert_close(
            shares.sum(0) + split.constant, expected, rtol=0, atol=3e-6 * float(shares.abs().sum(0).max() + 1)
        )
        if units.norm is None:
            weight = weight_of(projection)
            for unit in (0, units.n - 1):
                at = units.slice(unit)
                plain = taken[at].double() @ weight[at] * units.before * units.after
                torch.testing.assert_close(shares[unit], plain, rtol=1e-4, atol=1e-5, msg=name)
        weights = split.weights(torch.linspace(-1, 1, len(expected)))
        along = (weights * taken.double()).view(units.n, units.d).sum(-1)
        torch.testing.assert_close(
            along, shares @ torch.linspace(-1, 1, len(expected)).double(), rtol=0, atol=1e-5
        )
        seen.add(name)
    assert {"sequential", "post-norms inside", "residual multiplier", "parallel", "learnt positions"} <= seen


def test_what_does_not_verify_is_not_offered_and_says_why():
    reasons = {
        "state space": ("heads", "no product of attention weights and values was seen"),
        "experts": ("neurons", "no affine map of one input gives mlp.output"),
    }
    for name, (kind, reason) in reasons.items():
        units = model_of(name).anatomy.units[1]
        assert units.get(kind) is None
        assert reason == units.refused[kind]
        assert f"{kind}" in str(model_of(name).anatomy)
        assert reason in str(model_of(name).anatomy)
    mixing = lw.LanguageModel(tiny_model(tiny_config(hf.BitNetConfig)))  # a norm over all heads at once
    assert "side by side" in mixing.anatomy.units[0].refused["heads"]
    two = lw.LanguageModel(tiny_model(tiny_config(hf.FalconH1Config)))
    assert "sum of several outputs" in two.anatomy.units[0].refused["heads"]
    refused = pytest.raises(AnatomyError, match=r"heads of layer 1 .* not offered: no product")
    with refused, model_of("state space").trace(IDS):
        _ = model_of("state space").layers[1].heads


@pytest.mark.parametrize(
    "name", ["sequential", "post-norms inside", "tuple outputs", "parallel", "learnt positions", "latent"]
)
def test_a_head_set_in_a_trace_is_what_a_plain_hook_does_in_float64(name):
    model, layer, head = model_of(name), 1, 2
    heads = model.anatomy.units[layer].heads
    with model.trace(IDS, use_cache=False) as tracer:
        shown = model.layers[layer].heads
        assert (len(shown), list(shown[head].shape)) == (heads.n, [1, 7, heads.d])
        shown[head] = -2 * shown[head]
        found = tracer.result.logits.clone()
    # the grouped product of experts takes no float64
    double = copy.deepcopy(model.hf_model).to(torch.float32 if name == "latent" else torch.float64)
    block = double.get_submodule(model.anatomy.rows[layer].path)

    def hook(_module, args):
        changed = args[0].clone()
        changed.unflatten(-1, (heads.n, heads.d))[..., head, :] *= -2
        return (changed,)

    handle = block.get_submodule(heads.point.path).register_forward_pre_hook(hook)
    expected = double(input_ids=IDS, use_cache=False).logits
    handle.remove()
    atol = 2e-5 * float(expected.abs().max() + 1)
    torch.testing.assert_close(found.double(), expected.double(), rtol=0, atol=atol)


def test_there_is_no_head_beyond_the_last():
    model = model_of("sequential")
    with model.trace(IDS):
        for head in (4, -1, True):
            with pytest.raises(CellError, match="Use 0 to 3"):
                _ = model.layers[0].heads[head]


def test_a_change_of_the_model_is_seen():
    model = made("sequential")
    assert model.anatomy.units[0].heads is not None
    model.hf_model.model.layers[0].self_attn.o_proj = torch.nn.Sequential(
        model.hf_model.model.layers[0].self_attn.o_proj, torch.nn.Tanh()
    )
    assert model.anatomy.units[0].heads is None
    assert model.anatomy.units[1].heads is not None
