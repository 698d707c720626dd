"""Sites mean the same on every make of block: what they say adds up, and what is set there happens."""

import re
from pathlib import Path

import pytest
import torch
import transformers as hf
from tiny_models import tiny_config, tiny_model
from torch import Tensor

from lenswidget.errors import AnatomyError, CellError, OutOfOrderError, ShapeError
from lenswidget.language_model import LanguageModel

IDS = torch.tensor([[11, 12, 13, 14, 15, 16], [21, 22, 23, 24, 25, 26]])
RESIDUAL_MULTIPLIER = {"residual_multiplier": 0.3}
MAKES = {
    "sequential": (hf.LlamaConfig, {}),
    "post-norms inside": (hf.Gemma2Config, {}),
    "residual multiplier": (hf.GraniteConfig, RESIDUAL_MULTIPLIER),
    "outputs with the residual in them": (hf.BloomConfig, {}),
    "parallel": (hf.GPTJConfig, {}),
    "parallel, summed in place": (hf.FalconConfig, {}),
    "one mixer": (hf.MambaConfig, {}),
    "two mixers side by side": (hf.FalconH1Config, {}),
    "experts": (hf.MixtralConfig, {}),
}


@pytest.fixture(params=MAKES, scope="module")
def model(request: pytest.FixtureRequest) -> LanguageModel:
    config_class, changes = MAKES[request.param]
    config = tiny_config(config_class)
    for name, value in changes.items():
        setattr(config, name, value)
    lm = LanguageModel(tiny_model(config))
    _ = lm.anatomy
    return lm


@pytest.fixture(autouse=True)
def no_grad():
    with torch.no_grad():
        yield


def caught_by_hooks(model: LanguageModel, layer: int) -> tuple[Tensor, Tensor]:
    """The stream before and after a block, by plain hooks on the bare model."""
    found: list[Tensor] = []
    block = model.hf_model.get_submodule(model.anatomy.blocks[layer])

    def hook(_module, args, kwargs, output):
        found.extend([args[0] if args else kwargs["hidden_states"]])
        found.extend([output[0] if isinstance(output, tuple) else output])

    handle = block.register_forward_hook(hook, with_kwargs=True)
    model.hf_model(input_ids=IDS, use_cache=False)
    handle.remove()
    return found[0], found[1]


def parts_of(model: LanguageModel, layer: int) -> list[str]:
    return [name for name in ("attn_out", "mlp_out") if name in model.layers[layer].offered]


def test_the_ends_are_what_plain_hooks_catch(model):
    before, after = caught_by_hooks(model, 1)
    with model.trace(IDS, use_cache=False):
        pre, post = model.layers[1].resid_pre.clone(), model.layers[1].resid_post.clone()
    assert torch.equal(pre, before)
    assert torch.equal(post, after)


def test_what_the_parts_add_is_what_the_block_does(model):
    before, after = caught_by_hooks(model, 1)
    with model.trace(IDS, use_cache=False):
        added = [getattr(model.layers[1], name).clone() for name in parts_of(model, 1)]
    # float32 rounding of values around 1
    torch.testing.assert_close(before + sum(added), after, rtol=0, atol=2e-6)


def test_with_all_parts_set_to_zero_the_stream_passes_unchanged(model):
    with model.trace(IDS, use_cache=False):
        layer = model.layers[1]
        before = layer.resid_pre.clone()
        for name in parts_of(model, 1):
            setattr(layer, name, torch.zeros_like(before))
        after = layer.resid_post.clone()
    torch.testing.assert_close(after, before, rtol=0, atol=2e-6)


def test_each_part_set_moves_the_stream_by_as_much(model):
    change = torch.randn(2, 6, model.anatomy.d_model, generator=torch.Generator().manual_seed(1))
    for name in parts_of(model, 1):
        with model.trace(IDS, use_cache=False):
            layer = model.layers[1]
            before = layer.resid_pre.clone()
            others = torch.zeros_like(before)
            for other in ("attn_out", "mlp_out"):
                if other == name:
                    setattr(layer, name, getattr(layer, name) + change)
                    mine = change
                elif other in layer.offered:
                    others = others + getattr(layer, other)
            after = layer.resid_post.clone()
        with model.trace(IDS, use_cache=False):
            own = getattr(model.layers[1], name).clone()
        torch.testing.assert_close(after, before + own + mine + others, rtol=0, atol=4e-6)


def test_the_middle_can_be_set_and_all_that_follows_starts_from_it(model):
    if "resid_mid" not in model.layers[1].offered:
        reason = re.escape(model.anatomy.sites[1].refused["resid_mid"])
        said = pytest.raises(AnatomyError, match=rf"resid_mid.* not offered: {reason}\. Use one of")
        with model.trace(IDS, use_cache=False), said:
            _ = model.layers[1].resid_mid
        return
    new = torch.randn(2, 6, model.anatomy.d_model, generator=torch.Generator().manual_seed(2))
    with model.trace(IDS, use_cache=False):
        layer = model.layers[1]
        middle = layer.resid_mid.clone()
        layer.resid_mid = new
        after = new + layer.mlp_out
        post = layer.resid_post.clone()
    torch.testing.assert_close(post, after, rtol=0, atol=2e-6)
    with model.trace(IDS, use_cache=False):
        whole = model.layers[1].resid_pre + model.layers[1].attn_out
    torch.testing.assert_close(middle, whole, rtol=0, atol=2e-6)


def test_setting_every_site_to_itself_changes_no_bit_of_the_logits(model):
    own = model.hf_model(input_ids=IDS, use_cache=False).logits
    with model.trace(IDS, use_cache=False) as tracer:
        for layer in model.layers:
            for name in ("resid_pre", "resid_mid", "resid_post"):
                if name in layer.offered:
                    setattr(layer, name, getattr(layer, name))
        logits = tracer.result.logits
    assert torch.equal(logits, own)


def test_embed_is_the_stream_that_enters_layer_0(model):
    before, _ = caught_by_hooks(model, 0)
    with model.trace(IDS, use_cache=False):
        assert torch.equal(model.layers.embed, before)
    with model.trace(IDS, use_cache=False) as tracer:
        model.layers.embed = before.flip(0)
        logits = tracer.result.logits
    assert torch.equal(logits, model.hf_model(input_ids=IDS.flip(0), use_cache=False).logits)


def test_changes_in_place_count(model):
    with model.trace(IDS, use_cache=False):
        model.layers[0].resid_post[:, -1] = 0
        after = model.layers[1].resid_pre.clone()
    assert float(after[:, -1].abs().max()) == 0
    assert float(after[:, 0].abs().max()) > 0


def test_layers_are_counted_from_0_and_minus_1_is_refused(model):
    assert len(model.layers) == model.anatomy.n_layers == len(list(model.layers))
    assert [layer.index for layer in model.layers[1:]] == list(range(1, model.anatomy.n_layers))
    for wrong in (-1, model.anatomy.n_layers, slice(-2, None), slice(0, -1)):
        with pytest.raises(CellError, match=r"layers\.embed"):
            _ = model.layers[wrong]


def test_a_wrong_shape_and_a_passed_place_are_refused():
    model = LanguageModel(tiny_model(tiny_config(hf.LlamaConfig)))
    with model.trace(IDS):
        with pytest.raises(ShapeError, match="resid_mid of layer 0"):
            model.layers[0].resid_mid = torch.zeros(2, 6, 63)
        states = model.layers[2].resid_post.clone()
        with pytest.raises(OutOfOrderError):
            model.layers[0].resid_mid = states


def test_sites_of_an_encoder_decoder_are_the_decoders():
    model = LanguageModel(tiny_model(tiny_config(hf.T5Config), hf.T5ForConditionalGeneration))
    with model.trace(IDS, decoder_input_ids=IDS[:, :4]):
        layer = model.layers[0]
        before, attn, middle = layer.resid_pre.clone(), layer.attn_out.clone(), layer.resid_mid.clone()
        mlp, after = layer.mlp_out.clone(), layer.resid_post.clone()
    assert before.shape == (2, 4, 64)
    torch.testing.assert_close(middle + mlp, after, rtol=0, atol=2e-6)
    assert not torch.allclose(before + attn, middle, atol=1e-3)  # cross-attention lies between
    assert "EncDecAttention" in " ".join(model.anatomy.sites[0].notes)


def test_the_pages_trace_runs_as_it_stands(demo_model):
    page = (Path(__file__).parents[2] / "docs" / "models.md").read_text()
    snippets = [code for code in re.findall(r"```python\n(.*?)```", page, re.S) if "layer.mlp_out" in code]
    assert len(snippets) == 1
    found = {"model": demo_model}
    exec(snippets[0], found)
    assert found["after"].shape == found["added"].shape
    assert demo_model.layers[5].offered == ("resid_pre", "resid_mid", "attn_out", "mlp_out", "resid_post")


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_an_output_that_hands_the_stream_on_is_no_part_of_the_block():
    # its bottleneck gives the entering stream beside its own output: minus that and plus the leaving one fits
    config = tiny_config(hf.MobileBertConfig)
    config.is_decoder = False
    model = LanguageModel(tiny_model(config, hf.MobileBertForMaskedLM))
    for layer in model.layers:
        assert layer.offered == ("resid_pre", "resid_post")
        assert model.anatomy.sites[layer.index].parts == ()
