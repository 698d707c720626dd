"""A cell's logit taken apart: terms sum to the model's own number, each as a float64 loop has it."""

import copy
import functools

import numpy as np
import pytest
import torch
import transformers as hf
from looped_models import IDS as LOOPED_IDS
from looped_models import MODELS
from makes import MAKES, made
from tiny_models import tiny_config, tiny_model

import lenswidget as lw
from lenswidget.errors import AnatomyError, CellError, LensError, ModelError, UnknownLensError

IDS = torch.tensor([[11, 12, 13, 14, 15, 16, 17]])
TOKEN, FOIL = 5, 9
OTHERS = {
    "latent attention": hf.DeepseekV3Config,
    "sinks": hf.GptOssConfig,
    "gated attention": hf.Qwen3NextConfig,
    "flattened MLP": hf.OPTConfig,
    "parallel, one norm": hf.CohereConfig,
    "norms in place of pre-norms": hf.Olmo2Config,
    "sums of two parts": hf.FalconH1Config,
    "norms after sums": hf.OpenAIGPTConfig,
    "linear and full attention": hf.RecurrentGemmaConfig,
}
ALL = [*MAKES, *OTHERS]


@functools.cache
def model_of(name):
    return made(name) if name in MAKES else lw.LanguageModel(tiny_model(tiny_config(OTHERS[name])))


@functools.cache
def run_of(name):
    return model_of(name).run(IDS)


@pytest.fixture(autouse=True)
def no_grad():
    with torch.no_grad():
        yield


def can_be_taken_apart(name):
    return model_of(name).tail.is_fast


@pytest.mark.parametrize("by", ["part", "head", "neuron", "source"])
@pytest.mark.parametrize("name", ALL)
def test_terms_sum_to_the_cells_own_logit(name, by):
    run = run_of(name)
    if not can_be_taken_apart(name):
        with pytest.raises(AnatomyError, match="known to its own forward alone"):
            lw.attribute(run, 0, 0, token=TOKEN, by=by)
        return
    for layer, position in ((run.n_layers - 1, 6), (0, 3), (-1, 2)):
        found = lw.attribute(run, layer, position, token=TOKEN, foil=FOIL, by=by)
        size = np.abs(found.predicted).sum() + 1
        # float32 sums of the model beside float64 sums of what it summed
        assert abs(found.remainder) < 3e-6 * size, (layer, position)
        card = lw.decode(run, layer, position, track=[TOKEN, FOIL])
        (_, token, _), (_, foil, _) = card.tracked
        assert abs(found.logit - (token - foil)) < 1e-5 * (abs(found.logit) + size)
        assert len(found) == len(found.kinds) == len(found.layers) == len(found.units) == len(found.measured)


def test_the_last_row_is_taken_apart_to_the_models_own_logits():
    checked = 0
    for name in ALL:
        if not can_be_taken_apart(name):
            continue
        model, run = model_of(name), run_of(name)
        own = model.hf_model(input_ids=IDS, use_cache=False).logits[0, 4].double()
        found = lw.attribute(run, run.n_layers - 1, 4, token=TOKEN)
        bound = run.fidelity.tolerance + 1e-5
        assert abs(found.logit - float(own[TOKEN])) < bound, name
        expected = found.total if found.cap is None else found.cap * np.tanh(found.total / found.cap)
        assert abs(expected - float(own[TOKEN])) < bound, name
        checked += 1
    assert checked >= 14


def captured(double, paths, ids=IDS):
    """What modules give in a float64 forward with plain hooks."""
    seen, handles = {}, []
    for path in paths:

        def hook(_module, _args, output, path=path):
            seen[path] = (output[0] if isinstance(output, tuple) else output)[0].clone()

        handles.append(double.get_submodule(path).register_forward_hook(hook))
    logits = double(input_ids=ids, use_cache=False).logits[0]
    for handle in handles:
        handle.remove()
    return seen, logits


def llama_by_hand(layer, position):
    """The terms of tiny Llama's cell in float64, by its norm's formula; and what taking each out does."""
    model = model_of("sequential")
    double = copy.deepcopy(model.hf_model).double()
    inner = double.model
    parts = [f"model.layers.{i}.{m}" for i in range(layer + 1) for m in ("self_attn", "mlp")]
    seen, _ = captured(double, ["model.embed_tokens", *parts])
    terms = torch.stack([seen[path][position] for path in ("model.embed_tokens", *parts)])
    x = terms.sum(0)
    weight = (double.lm_head.weight[TOKEN] - double.lm_head.weight[FOIL]) * inner.norm.weight

    def logit(states):
        return (states * weight).sum(-1) / (states.pow(2).mean(-1) + inner.norm.variance_epsilon).sqrt()

    frozen = terms @ weight / (x.pow(2).mean() + inner.norm.variance_epsilon).sqrt()
    return frozen, logit(x) - logit(x - terms), logit(x)


@pytest.mark.parametrize("layer", [0, 2, 3])
def test_each_part_is_what_a_float64_loop_gives(layer):
    predicted, measured, logit = llama_by_hand(layer, 5)
    found = lw.attribute(run_of("sequential"), layer, 5, token=TOKEN, foil=FOIL)
    assert found.kinds == ("embed", *("attn", "mlp") * (layer + 1))
    np.testing.assert_allclose(found.predicted, predicted, atol=2e-5)
    np.testing.assert_allclose(found.measured, measured, atol=2e-5)
    assert abs(found.logit - float(logit)) < 2e-5


def test_a_layer_norm_takes_the_mean_off_each_part_and_its_bias_is_a_term():
    model = model_of("learnt positions")
    double = copy.deepcopy(model.hf_model).double()
    inner, n = double.transformer, model.anatomy.n_layers
    parts = [f"transformer.h.{i}.{m}" for i in range(n) for m in ("attn", "mlp")]
    seen, logits = captured(double, ["transformer.drop", *parts])
    terms = torch.stack([seen[path][6] for path in ("transformer.drop", *parts)])
    x, w = terms.sum(0), double.lm_head.weight[TOKEN]
    size = (x.var(unbiased=False) + inner.ln_f.eps).sqrt()
    predicted = ((terms - terms.mean(-1, keepdim=True)) * inner.ln_f.weight) @ w / size
    found = lw.attribute(run_of("learnt positions"), n - 1, 6, token=TOKEN)
    np.testing.assert_allclose(found.predicted[:-1], predicted, atol=2e-5)
    assert found.kinds[-1] == "bias"
    assert found.names[-1] == "final norm bias"
    assert abs(found.predicted[-1] - float(inner.ln_f.bias @ w)) < 1e-5
    assert np.isnan(found.measured[-1])
    assert abs(found.total - float(logits[6, TOKEN])) < 1e-4


def test_heads_and_sources_are_what_a_float64_loop_over_weights_and_values_gives():
    model, run, at = model_of("sequential"), run_of("sequential"), 5
    eager = copy.deepcopy(model.hf_model).double()
    eager.set_attn_implementation("eager")
    out = eager(input_ids=IDS, use_cache=False, output_attentions=True)
    n_layers = model.anatomy.n_layers
    normed, _ = captured(eager, [f"model.layers.{i}.input_layernorm" for i in range(n_layers)])
    states = run.states("resid_post", [n_layers - 1], [at])[0].double()
    norm = eager.model.norm
    weight = eager.lm_head.weight[TOKEN] * norm.weight
    weight = weight / (states.pow(2).mean() + norm.variance_epsilon).sqrt()
    by_head = lw.attribute(run, n_layers - 1, at, token=TOKEN, by="head")
    by_source = lw.attribute(run, n_layers - 1, at, token=TOKEN, by="source")
    for layer in range(n_layers):
        attn = eager.model.layers[layer].self_attn
        values = attn.v_proj(normed[f"model.layers.{layer}.input_layernorm"]).view(7, -1, attn.head_dim)
        expected = torch.zeros(4, 7, dtype=torch.float64)
        for head in range(4):
            out_rows = attn.o_proj.weight[:, head * 16 : (head + 1) * 16]
            for source in range(7):
                value = values[source, head // attn.num_key_value_groups]
                alpha = out.attentions[layer][0, head, at, source]
                expected[head, source] = alpha * (out_rows @ value) @ weight
        mine = [i for i, kind in enumerate(by_head.kinds) if kind == "head" and by_head.layers[i] == layer]
        assert by_head.units[mine].tolist() == [0, 1, 2, 3]
        np.testing.assert_allclose(by_head.predicted[mine], expected.sum(1), atol=2e-5)
        mine = [
            i for i, kind in enumerate(by_source.kinds) if kind == "source" and by_source.layers[i] == layer
        ]
        assert by_source.units[mine].tolist() == list(range(at + 1))  # what lies after is not read
        np.testing.assert_allclose(by_source.predicted[mine], expected.sum(0)[: at + 1], atol=2e-5)


@pytest.mark.parametrize("name", ["sequential", "post-norms inside", "residual multiplier", "parallel"])
def test_pieces_sum_to_their_part(name):
    run = run_of(name)
    layer = run.n_layers - 1
    whole = lw.attribute(run, layer, 6, token=TOKEN)
    for by, part, pieces in (
        ("head", "attn", {"head", "attn"}),
        ("source", "attn", {"source", "attn"}),
        ("neuron", "mlp", {"neuron", "mlp"}),
    ):
        found = lw.attribute(run, layer, 6, token=TOKEN, by=by)
        assert found.notes == ()
        for at in range(run.n_layers):
            parts = [i for i, kind in enumerate(whole.kinds) if kind == part and whole.layers[i] == at]
            mine = [i for i, kind in enumerate(found.kinds) if kind in pieces and found.layers[i] == at]
            assert abs(found.predicted[mine].sum() - whole.predicted[parts].sum()) < 1e-5
    assert sum(kind == "neuron" for kind in found.kinds) == 32


def test_through_an_affine_lens_a_part_counts_what_the_lens_makes_of_it():
    run = run_of("sequential")
    matrix = torch.randn(64, 64, generator=torch.Generator().manual_seed(3)) / 8
    shift = torch.linspace(-1, 1, 64)

    def affine(layer, states):
        return states @ matrix.T + shift

    found = lw.attribute(run, 1, 4, token=TOKEN, lens=affine)
    card = lw.decode(run, 1, 4, lens=affine, track=[TOKEN])
    assert abs(found.logit - card.tracked[0][1]) < 1e-4 or card.tracked
    assert "lens bias" in found.names
    assert abs(found.remainder) < 1e-5 * (np.abs(found.predicted).sum() + 1)
    model = model_of("sequential")
    double = copy.deepcopy(model.hf_model).double()
    seen, _ = captured(double, ["model.layers.1.mlp"])
    x = run.states("resid_post", [1], [4])[0].double() @ matrix.double().T + shift.double()
    norm = double.model.norm
    weight = double.lm_head.weight[TOKEN] * norm.weight / (x.pow(2).mean() + norm.variance_epsilon).sqrt()
    expected = seen["model.layers.1.mlp"][4] @ matrix.double().T @ weight
    assert abs(found.predicted[found.names.index("L1 mlp")] - float(expected)) < 2e-5

    def bent(layer, states):
        return states.abs()

    with pytest.raises(UnknownLensError, match="not affine at layer 1"):
        lw.attribute(run, 1, 4, token=TOKEN, lens=bent)


def test_a_foil_is_a_difference_and_the_best_token_is_the_default():
    run = run_of("sequential")
    one, two = (lw.attribute(run, 2, 6, token=token) for token in (TOKEN, FOIL))
    both = lw.attribute(run, 2, 6, token=TOKEN, foil=FOIL)
    np.testing.assert_allclose(both.predicted, one.predicted - two.predicted, atol=1e-9)
    np.testing.assert_allclose(both.measured, one.measured - two.measured, atol=1e-9)
    assert lw.attribute(run, 2, 6).token_id == lw.decode(run, 2, 6, k=1).ids[0]


def test_a_soft_cap_is_told_and_comes_after_the_sum():
    found = lw.attribute(run_of("post-norms inside"), 3, 6, token=TOKEN)
    assert found.cap == pytest.approx(30.0, rel=1e-5)
    assert found.logit == pytest.approx(30 * np.tanh(found.before_cap / 30), rel=1e-6)
    assert "soft-capped at 30" in repr(found)


def test_an_edited_run_is_taken_apart_as_it_is():
    model = model_of("sequential")
    edit = lw.Edit("zero", site="attn_out", layers=1, positions=6, heads=[2])
    run = model.run(IDS, edits=[edit])
    found = lw.attribute(run, 3, 6, token=TOKEN, by="head")
    head = found.names.index("L1 head 2")
    assert abs(found.predicted[head]) < 1e-12
    assert abs(found.measured[head]) < 1e-12
    assert abs(found.remainder) < 1e-4
    # what is taken out of the run is what taking it out of the cell says, but for what comes after it
    plain = lw.attribute(run_of("sequential"), 1, 6, token=TOKEN, by="head")
    edited = lw.attribute(run, 1, 6, token=TOKEN, by="head")
    assert plain.names[head] == "L1 head 2"
    no_mlp_after = model.run(
        IDS, edits=[edit, lw.Edit("patch", site="mlp_out", layers=1, source=run_of("sequential"))]
    )
    after = lw.attribute(no_mlp_after, 1, 6, token=TOKEN).logit
    assert plain.logit - after == pytest.approx(plain.measured[head], abs=1e-5)
    assert edited.logit != plain.logit


def test_where_parts_are_not_known_the_block_is_one_term():
    found = lw.attribute(run_of("norms after sums"), 3, 6, token=TOKEN)
    assert set(found.kinds) <= {"embed", "rest", "bias"}
    assert found.names[1] == "L0 block"


def test_an_activation_before_the_unembed_is_no_affine_map():
    model = lw.LanguageModel(tiny_model(tiny_config(hf.BertConfig)))
    with pytest.raises(AnatomyError, match="neither a norm nor an affine map"):
        lw.attribute(model.run(IDS), 3, 6, token=TOKEN)


def test_blocks_in_a_loop_count_once_per_pass():
    n_taken_apart = 0
    for make in MODELS.values():
        model = lw.LanguageModel(make())
        if not model.tail.is_fast:
            continue
        run = model.run(LOOPED_IDS)
        try:
            found = lw.attribute(run, run.n_layers - 1, 6, token=TOKEN)
        except AnatomyError as error:
            assert "neither a norm nor an affine map" in str(error)  # noqa: PT017
            continue
        assert abs(found.remainder) < 3e-6 * (np.abs(found.predicted).sum() + 1)
        assert lw.attribute(run, run.n_layers - 1, 6, token=TOKEN, by="head").total == found.total
        n_taken_apart += 1
    assert n_taken_apart


def test_the_model_is_left_as_it_was():
    import tiny

    model = made("sequential")
    plain = model.hf_model(input_ids=IDS, use_cache=False).logits
    before = tiny.n_hooks(model.hf_model)
    run = model.run(IDS)
    for by in ("part", "head", "neuron", "source"):
        lw.attribute(run, 2, 4, token=TOKEN, by=by)
    assert tiny.n_hooks(model.hf_model) == before
    assert torch.equal(model.hf_model(input_ids=IDS, use_cache=False).logits, plain)
    with torch.inference_mode():
        found = lw.attribute(run, 2, 4, token=TOKEN, by="neuron")
    np.testing.assert_array_equal(
        found.predicted, lw.attribute(run, 2, 4, token=TOKEN, by="neuron").predicted
    )


def test_in_sixteen_bits_the_remainder_is_rounding():
    model = lw.LanguageModel(copy.deepcopy(model_of("sequential").hf_model).bfloat16())
    found = lw.attribute(model.run(IDS), 3, 6, token=TOKEN, by="head")
    # each of 8 additions rounds at 8 significant bits
    assert 0 < abs(found.remainder) < 0.05 * np.abs(found.predicted).sum()


def test_tables_and_words():
    found = lw.attribute(run_of("sequential"), 3, 6, token=TOKEN, by="head")
    frame = found.to_dataframe()
    assert len(frame) == len(found) + 1
    assert frame.predicted.sum() == pytest.approx(found.before_cap, abs=1e-12)
    assert list(frame.name[:2]) == ["embedding", "L0 head 0"]
    text = repr(found)
    for word in ("sum", "remainder", "logit", "by head", found.names[found.strongest(1)[0]]):
        assert word in text


def test_what_cannot_be_is_refused():
    run = run_of("sequential")
    for error, says, change in (
        (LensError, "Use one of part, head", {"by": "layer"}),
        (CellError, "position 7", {"position": 7}),
        (CellError, "layer 4", {"layer": 4}),
        (CellError, "are the same", {"foil": TOKEN}),
        (CellError, "vocab|0 to", {"token": 99999}),
    ):
        with pytest.raises(error, match=says):
            lw.attribute(run, **{"layer": 2, "position": 3, "token": TOKEN, **change})
    model = made("sequential")
    stale = model.run(IDS)
    model.hf_model.lm_head = torch.nn.Linear(64, 512, bias=False)
    with pytest.raises(ModelError, match="changed since this run"):
        lw.attribute(stale, 2, 3, token=TOKEN)
