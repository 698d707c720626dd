"""Discovery: what one watched forward finds, what it refuses, and how to help it."""

import gc
import re
import weakref

import pytest
import torch
import transformers as hf
from tiny_models import tiny_config, tiny_model
from torch import nn

from lenswidget.anatomy.discovery import discover
from lenswidget.anatomy.recording import probe_ids
from lenswidget.anatomy.tail import Tail
from lenswidget.errors import AnatomyError
from lenswidget.language_model import LanguageModel
from lenswidget.models.hf_model import forward, logits_of


def tiny(name: str, model_class: str | None = None) -> nn.Module:
    return tiny_model(tiny_config(getattr(hf, name)), getattr(hf, model_class) if model_class else None)


@pytest.mark.parametrize(
    ("config", "blocks", "final_norm", "unembed"),
    [
        ("GPT2Config", "transformer.h", "transformer.ln_f", "lm_head"),
        ("LlamaConfig", "model.layers", "model.norm", "lm_head"),
        ("OPTConfig", "model.decoder.layers", "model.decoder.final_layer_norm", "lm_head"),
        ("GPTNeoXConfig", "gpt_neox.layers", "gpt_neox.final_layer_norm", "lm_head"),
        ("BertConfig", "bert.encoder.layer", None, "cls.predictions.decoder"),
        ("MambaConfig", "backbone.layers", "backbone.norm_f", "lm_head"),
    ],
)
def test_finds_blocks_final_norm_and_unembed(config, blocks, final_norm, unembed):
    anatomy = discover(tiny(config))
    assert anatomy.blocks == tuple(f"{blocks}.{i}" for i in range(anatomy.n_layers))
    assert (anatomy.unembed, anatomy.d_vocab) == (unembed, 512)
    assert anatomy.final_norm == (final_norm or anatomy.final_norm)


@pytest.mark.parametrize(
    ("config", "model_class", "blocks"),
    [
        ("Gemma3Config", "Gemma3ForConditionalGeneration", "model.language_model.layers"),
        ("LlavaConfig", "LlavaForConditionalGeneration", "model.language_model.layers"),
        ("Qwen2_5_VLConfig", "Qwen2_5_VLForConditionalGeneration", "model.language_model.layers"),
    ],
)
def test_finds_the_text_decoder_of_a_multimodal_model(config, model_class, blocks):
    model = LanguageModel(tiny(config, model_class))
    assert model.anatomy.blocks[0] == f"{blocks}.0"
    assert model.tail.fidelity.ok
    ids = probe_ids(model.hf_model, shift=3)
    with torch.no_grad(), model.trace(ids) as tracer:
        states = model.layers[model.anatomy.n_layers - 1].resid_post.clone()
        own = tracer.result.logits
    torch.testing.assert_close(model.tail(states).log_softmax(-1), own.log_softmax(-1), rtol=0, atol=4e-6)


@pytest.mark.parametrize(
    ("config", "model_class", "blocks"),
    [
        ("T5Config", "T5ForConditionalGeneration", "decoder.block"),
        ("BartConfig", "BartForConditionalGeneration", "model.decoder.layers"),
    ],
)
def test_finds_the_decoder_of_an_encoder_decoder(config, model_class, blocks):
    model = LanguageModel(tiny(config, model_class))
    assert model.anatomy.blocks[0] == f"{blocks}.0"
    ids = probe_ids(model.hf_model, shift=3)
    with torch.no_grad(), model.trace(ids, decoder_input_ids=ids[:, :5]) as tracer:
        states = model.layers[model.anatomy.n_layers - 1].resid_post.clone()
        own = tracer.result.logits
    torch.testing.assert_close(model.tail(states).log_softmax(-1), own.log_softmax(-1), rtol=0, atol=4e-6)


def test_prints_what_was_found_and_what_was_refused():
    text = str(discover(tiny("GPTJConfig")))
    assert "2 blocks, d_model 64, d_vocab 512" in text or "4 blocks, d_model 64, d_vocab 512" in text
    assert "attn_out  = attn.output[0]" in text
    assert "not offered: resid_mid (attention and MLP read the same stream (parallel block))" in text


def test_several_streams_are_one_wide_state():
    model = tiny("Gemma3nTextConfig")
    anatomy = discover(model)
    assert anatomy.d_model == 4 * 64
    assert anatomy.fidelity.ok


def test_costs_one_forward_and_a_few_calls_of_each_block():
    model = tiny("LlamaConfig")
    calls: list[int] = []
    mlp = model.get_submodule("model.layers.2.mlp")
    mlp.register_forward_hook(lambda _module, _args, output: calls.append(output.shape[0] * output.shape[1]))
    Tail(model, discover(model))
    assert len(calls) <= 6
    assert sum(calls) <= 6 * 21  # a few tokens


def test_leaves_neither_mode_nor_grads_changed():
    model = tiny("LlamaConfig").train()
    with torch.enable_grad():
        discover(model)
        assert torch.is_grad_enabled()
    assert all(module.training for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_language_model_looks_once():
    model = LanguageModel(tiny("LlamaConfig"))
    assert model.anatomy is model.anatomy
    assert model.tail is model.tail


# --- what discovery cannot find ---------------------------------------------------------------------


class Odd(nn.Module):
    """A decoder whose blocks are plain attributes, and whose head nobody says is one."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(32, 16)
        self.stack = nn.Module()
        for name in ("first", "second", "third"):
            self.stack.add_module(name, nn.Linear(16, 16))
        self.norm, self.out = nn.LayerNorm(16), nn.Linear(16, 32)

    def get_input_embeddings(self) -> nn.Module:
        return self.embed

    def forward(self, input_ids):
        x = self.embed(input_ids)
        for block in self.stack.children():
            x = x + torch.tanh(block(x))
        return self.out(self.norm(x))


class Chained(Odd):
    def forward(self, input_ids):
        x = self.embed(input_ids)
        for block in self.stack.children():
            x = block(x)
        return self.out(self.norm(x))


def test_a_second_wrapper_of_the_same_model_does_not_look_again():
    model = tiny("LlamaConfig")
    first = LanguageModel(model).anatomy
    assert LanguageModel(model).anatomy is first
    assert LanguageModel(model, unembed="lm_head").anatomy is not first


@pytest.mark.parametrize(
    "change",
    [
        lambda model: model.model.layers[0].mlp.down_proj.weight.data.mul_(2),
        lambda model: setattr(model.model.layers, "1", tiny("LlamaConfig").model.layers[0]),
        lambda model: model.double(),
    ],
    ids=["weights", "modules", "dtype"],
)
def test_a_model_that_has_changed_is_looked_at_again(change):
    model = tiny("LlamaConfig")
    first = LanguageModel(model).anatomy
    change(model)
    again = LanguageModel(model).anatomy
    assert again is not first
    assert again.fidelity.ok
    assert again.bypass.blocks == tuple(model.model.layers)


def test_what_was_found_does_not_keep_the_model_alive():
    model = tiny("GPT2Config")
    discover(model)
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


def test_the_remedy_that_a_refusal_names_works():
    model = Chained()
    with pytest.raises(AnatomyError, match=r"No decoder blocks found in Chained\.") as refusal:
        discover(model)
    remedy = re.search(r'blocks="([^"]+)"', str(refusal.value))
    assert remedy is not None
    anatomy = discover(model, blocks=remedy[1])
    assert anatomy.blocks == ("stack.first", "stack.second", "stack.third")
    assert anatomy.fidelity.ok
    assert (anatomy.final_norm, anatomy.unembed) == ("norm", "out")


def test_blocks_that_do_not_carry_the_stream_are_known_as_such():
    # in Odd the sum is made outside of the blocks: their output alone does not give the logits
    model = Odd()
    anatomy = discover(model, blocks="stack")
    assert not anatomy.fidelity.ok
    assert not Tail(model, anatomy).fidelity.ok
    assert "does NOT reproduce" in anatomy.fidelity.text


def test_given_paths_are_verified_like_found_ones():
    model = tiny("LlamaConfig")
    given = discover(model, blocks="model.layers", final_norm="model.norm", unembed="lm_head")
    found = discover(model)
    assert (given.blocks, given.final_norm, given.unembed) == (found.blocks, found.final_norm, found.unembed)
    for wrong in ({"blocks": "model.nowhere"}, {"final_norm": "model.nowhere"}, {"unembed": "head"}):
        with pytest.raises(AnatomyError, match=r"Asked for \w+=.*Pass"):
            discover(model, **wrong)


def test_a_model_without_a_head_is_refused_with_what_to_load():
    headless = tiny("LlamaConfig").get_submodule("model")
    with pytest.raises(AnatomyError, match=r"language-modelling head"):
        discover(headless)


# --- storage ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("config", ["LlamaConfig", "Gemma2Config", "GPT2Config"])
def test_16_bit_models_decode_to_float32_as_they_would_themselves(config, dtype):
    model = tiny(config).to(dtype)
    anatomy = discover(model)
    tail = Tail(model, anatomy)
    assert tail.fidelity.ok
    with torch.no_grad():
        own = logits_of(forward(model, probe_ids(model)))
    states = anatomy.streams[-1].leaving(anatomy.probe.by_path()[anatomy.blocks[-1]][-1].output)
    assert states.dtype is dtype
    decoded = tail(states.float())
    assert decoded.dtype is torch.float32
    # the model rounds to 16 bits after the unembed and after each of its post-ops, we after the unembed
    torch.testing.assert_close(decoded, own.float(), rtol=4 * torch.finfo(dtype).eps, atol=1e-6)
    assert {"attn_out", "mlp_out"} <= set(anatomy.sites[0].offered)


def test_offloaded_weights_are_never_read_but_called(tmp_path):
    from accelerate import dispatch_model

    model = tiny("LlamaConfig")
    ids = probe_ids(model, shift=4)
    assert Tail(model, discover(model)).linear() is not None
    with torch.no_grad():
        own = logits_of(forward(model, ids))
    places = {"model.embed_tokens": "cpu", "model.layers": "disk", "model.norm": "disk", "lm_head": "disk"}
    places["model.rotary_emb"] = "cpu"
    spread = dispatch_model(model, places, main_device="cpu", offload_dir=tmp_path)
    tail = Tail(spread, discover(spread))
    assert tail.linear() is None
    assert tail.fidelity.ok
    lm = LanguageModel(spread)
    with torch.no_grad(), lm.trace(ids):
        states = lm.layers[lm.anatomy.n_layers - 1].resid_post.clone()
    assert torch.equal(tail(states), own)
