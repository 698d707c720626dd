"""The attention of one cell: the model's own weights, whatever computes them."""

import copy
import functools

import numpy as np
import pytest
import tiny
import torch
import transformers as hf
from makes import MAKES, made
from tiny_models import tiny_config, tiny_model

import lenswidget as lw
from lenswidget.errors import AnatomyError, CellError

IDS = torch.tensor([[11, 12, 13, 14, 15, 16, 17]])
OTHERS = {
    "latent attention": hf.DeepseekV3Config,
    "one key head": hf.GPTBigCodeConfig,
    "its own softmax": hf.MptConfig,
    "flattened MLP": hf.OPTConfig,
    "gated": hf.Qwen3NextConfig,
    "sinks": hf.GptOssConfig,
    "windows": hf.MistralConfig,
}
WITH_HEADS = [*(name for name in MAKES if name != "state space"), *OTHERS]


@functools.cache
def model_of(name):
    if name in MAKES:
        return made(name)
    config = tiny_config(OTHERS[name])
    if name == "windows":
        config.sliding_window = 3
    return lw.LanguageModel(tiny_model(config))


@functools.cache
def run_of(name):
    return model_of(name).run(IDS)


def layer_of(name):
    """The last layer that has heads."""
    return max(i for i, units in enumerate(model_of(name).anatomy.units) if units.heads is not None)


@pytest.fixture(autouse=True)
def no_grad():
    with torch.no_grad():
        yield


@pytest.mark.parametrize("name", WITH_HEADS)
def test_weights_are_those_that_the_eager_model_returns(name):
    layer = layer_of(name)
    own = model_of(name).hf_model
    # made anew: Falcon cannot be told later, and with the fused operator's mask its weights look ahead
    config = copy.deepcopy(own.config)
    config._attn_implementation = "eager"
    eager = type(own)(config).eval()
    eager.load_state_dict(own.state_dict())
    own = eager(input_ids=IDS, use_cache=False, output_attentions=True).attentions
    own = [each for each in own if each is not None]
    # models of linear and full attention return the weights of the latter alone
    at = layer if len(own) == model_of(name).anatomy.n_layers else -1
    for position in (0, 3, 6):
        found = lw.attention(run_of(name), layer, position)
        np.testing.assert_allclose(found.weights, own[at][0, :, position], atol=2e-6)
        if name != "sinks":
            np.testing.assert_allclose(found.weights.sum(-1), 1, atol=1e-5)
        np.testing.assert_allclose(found.weights.sum(-1) + found.elsewhere, 1, atol=1e-5)
        assert (found.weights[:, position + 1 :] == 0).all()
    if name == "windows":
        assert (found.weights[:, :4] == 0).all()
    if name == "sinks":
        assert (found.elsewhere > 0.01).all()


@pytest.mark.parametrize("name", WITH_HEADS)
def test_weights_times_values_through_the_projection_are_what_attention_adds(name):
    layer, position = layer_of(name), 5
    run = run_of(name)
    found = lw.attention(run, layer, position)
    if name == "gated":
        assert found.value_weighted is None
        return
    assert found.value_weighted.shape == found.weights.shape
    assert (found.value_weighted[found.weights == 0] == 0).all()
    # the sum over sources is a term of the logit, as attn_out is
    by_source = lw.attribute(run, layer, position, token=5, by="source")
    whole = lw.attribute(run, layer, position, token=5)
    mine = [
        i
        for i, kind in enumerate(by_source.kinds)
        if by_source.layers[i] == layer and kind in ("source", "attn")
    ]
    assert by_source.notes == ()
    one = whole.names.index(f"L{layer} attn")
    assert by_source.predicted[mine].sum() == pytest.approx(whole.predicted[one], abs=2e-5)
    attn_out = run.states("attn_out", [layer], [position])[0].double()
    assert attn_out.norm() <= found.value_weighted.sum() * 1.001 + 1e3 * ("norms" in name) + 5


def test_value_weighting_is_the_norm_by_the_plain_weight():
    model, run, layer, position = model_of("sequential"), run_of("sequential"), 2, 6
    double = copy.deepcopy(model.hf_model).double()
    attn = double.model.layers[layer].self_attn
    values = []
    handle = attn.v_proj.register_forward_hook(lambda m, a, out: values.append(out[0].view(7, -1, 16)))
    double(input_ids=IDS, use_cache=False)
    handle.remove()
    found = lw.attention(run, layer, position)
    for head in range(4):
        out_rows = attn.o_proj.weight[:, head * 16 : (head + 1) * 16]
        norms = (values[0][:, head // attn.num_key_value_groups] @ out_rows.T).norm(dim=-1)
        np.testing.assert_allclose(found.value_weighted[head], found.weights[head] * norms.numpy(), atol=1e-5)


def test_it_is_the_edited_runs_attention():
    model = model_of("sequential")
    edit = lw.Edit("scale", layers=0, positions=2, strength=5.0)
    plain, edited = lw.attention(run_of("sequential"), 2, 6), lw.attention(model.run(IDS, edits=[edit]), 2, 6)
    assert np.abs(plain.weights - edited.weights).max() > 1e-3
    before = lw.attention(model.run(IDS, edits=[edit]), 0, 6)
    np.testing.assert_array_equal(before.weights, lw.attention(run_of("sequential"), 0, 6).weights)


def test_the_model_is_left_bit_for_bit_as_it_was():
    model = made("sequential")
    plain, n_hooks = model.hf_model(input_ids=IDS, use_cache=False).logits, tiny.n_hooks(model.hf_model)
    way = model.hf_model.config._attn_implementation
    assert way == "sdpa"
    run = model.run(IDS)
    lw.attention(run, 1, 4)
    assert model.hf_model.config._attn_implementation == way
    assert tiny.n_hooks(model.hf_model) == n_hooks
    assert torch.equal(model.hf_model(input_ids=IDS, use_cache=False).logits, plain)
    assert run.is_current
    # an error inside the watched block leaves nothing behind either
    block = model.hf_model.model.layers[1].self_attn.o_proj

    def fail(_module, _args):
        raise RuntimeError("inside")

    handle = block.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="inside"):
        lw.attention(run, 1, 4)
    handle.remove()
    assert not torch.overrides._get_current_function_mode_stack()
    assert tiny.n_hooks(model.hf_model) == n_hooks


def test_a_long_prompt_takes_the_memory_of_one_row():
    model = tiny.language_model(tiny.llama, max_position_embeddings=2048)
    ids = [(7 * i) % 299 + 1 for i in range(1500)]
    found = lw.attention(model.run(torch.tensor([ids])), 3, 1499)
    assert found.weights.shape == (2, 1500)
    assert sum(value.nbytes for value in (found.weights, found.value_weighted)) < 100_000


def test_sinks_tables_and_words():
    found = lw.attention(lw.demo_model().run("The Eiffel Tower is in the city of"), 23, 8)
    assert found.sinks == [0]
    frame = found.to_dataframe()
    assert len(frame) == 9 * 9
    assert frame.weight.sum() == pytest.approx(9, abs=1e-5)
    assert frame.token[2] == "iffel"
    assert "head 5: 'iffel' at 2" in repr(found)


def test_models_without_attention_say_so():
    with pytest.raises(AnatomyError, match="cannot be seen: no product of attention weights and values"):
        lw.attention(run_of("state space") if "state space" in OTHERS else made("state space").run(IDS), 1, 3)
    with pytest.raises(AnatomyError, match="embedding, which has none"):
        lw.attention(run_of("sequential"), -1, 3)
    with pytest.raises(CellError, match="layer 9"):
        lw.attention(run_of("sequential"), 9, 3)
