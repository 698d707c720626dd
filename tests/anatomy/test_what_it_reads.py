"""Encoder-decoders, models that look ahead, models in train mode, and models that cannot run."""

import warnings

import pytest
import torch
import transformers as hf
from tiny import gpt2, llama, seeded
from torch import nn

import lenswidget as lw
from lenswidget.anatomy.tail import Tail
from lenswidget.errors import AnatomyError
from lenswidget.models.hf_model import forward, logits_of, takes

SOURCE = torch.tensor([[5, 17, 99, 3, 42, 1]])
DECODER = torch.tensor([[0, 20, 30, 40, 50, 60, 70, 80, 9]])
T5 = {"vocab_size": 211, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_decoder_layers": 3}
T5 |= {"num_heads": 4, "decoder_start_token_id": 0, "pad_token_id": 0, "initializer_factor": 3.0}
BART = {"vocab_size": 211, "d_model": 32, "encoder_layers": 4, "decoder_layers": 3, "init_std": 0.3}
BART |= {"encoder_attention_heads": 4, "decoder_attention_heads": 4, "max_position_embeddings": 64}
BART |= {"encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "pad_token_id": 0, "eos_token_id": 1}
BART |= {"bos_token_id": 2, "decoder_start_token_id": 0}
WHISPER = {**BART, "num_mel_bins": 8, "max_source_positions": 16, "max_target_positions": 64}
WHISPER |= {"begin_suppress_tokens": None}
MARIAN = {**BART, "decoder_vocab_size": 211}

ENCODER_DECODERS = {
    "T5": (lambda: seeded(hf.T5ForConditionalGeneration, **T5), "decoder.block"),
    "BART": (lambda: seeded(hf.BartForConditionalGeneration, **BART), "model.decoder.layers"),
    "Marian": (lambda: seeded(hf.MarianMTModel, **MARIAN), "model.decoder.layers"),
    "Whisper": (lambda: seeded(hf.WhisperForConditionalGeneration, **WHISPER), "model.decoder.layers"),
}


def source_of(hf_model):
    if hf_model.main_input_name == "input_features":
        generator = torch.Generator().manual_seed(2)
        return {"input_features": torch.randn(1, 8, 32, generator=generator)}
    return {"input_ids": SOURCE}


@pytest.mark.parametrize(("make", "blocks"), ENCODER_DECODERS.values(), ids=ENCODER_DECODERS)
def test_the_blocks_of_an_encoder_decoder_are_its_decoders(make, blocks):
    hf_model = make()
    model = lw.LanguageModel(hf_model)
    anatomy = model.anatomy
    assert anatomy.is_encoder_decoder
    assert anatomy.columns_from == "decoder_input_ids"
    assert anatomy.is_causal
    assert anatomy.predicts == "next"
    assert anatomy.blocks == tuple(f"{blocks}.{i}" for i in range(3))
    assert "columns     the decoder's tokens" in str(anatomy)


@pytest.mark.parametrize(("make", "_blocks"), ENCODER_DECODERS.values(), ids=ENCODER_DECODERS)
@pytest.mark.parametrize("n_decoder", [1, 3, 6, 9])
def test_decoders_of_every_length_beside_their_source_decode_exactly(make, _blocks, n_decoder):
    hf_model = make()
    model = lw.LanguageModel(hf_model)
    inputs = {**source_of(hf_model), "decoder_input_ids": DECODER[:, :n_decoder]}
    with torch.no_grad():
        own = hf_model(**inputs).logits.log_softmax(-1)
        with model.trace(**inputs) if "input_ids" in inputs else traced(model, inputs):
            states = model.layers[2].resid_post.clone()
        decoded = model.tail(states).log_softmax(-1)
    assert states.shape == (1, n_decoder, 32)
    # float32 rounding of logits up to some tens
    torch.testing.assert_close(decoded, own, rtol=0, atol=2e-5)


def traced(model, inputs):
    """A trace of the bare module, for inputs without token ids."""
    return lw.TracedModel.trace(model, **inputs)


def test_the_sites_of_a_decoder_leave_cross_attention_apart():
    model = lw.LanguageModel(ENCODER_DECODERS["Whisper"][0]())
    sites = model.anatomy.sites[0]
    assert str(sites.attn) == "self_attn.output[0]"
    assert str(sites.mlp) == "fc2.output"
    assert "encoder_attn" in " ".join(sites.notes)


# --- what sees later tokens ---------------------------------------------------------------------------

SMALL = {"vocab_size": 211, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3}
SMALL |= {"num_attention_heads": 4, "max_position_embeddings": 64, "initializer_range": 0.3}
SMALL |= {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}
LOOKS = [
    (hf.BertForMaskedLM, {}, False, "same"),
    (hf.BertLMHeadModel, {}, False, "same"),
    (hf.BertLMHeadModel, {"is_decoder": True}, True, "next"),
    (hf.ModernBertForMaskedLM, {}, False, "same"),
    (hf.EsmForMaskedLM, {"position_embedding_type": "rotary", "mask_token_id": 4}, False, "same"),
    (hf.LlamaForCausalLM, {}, True, "next"),
    (hf.MistralForCausalLM, {"sliding_window": 2, "num_key_value_heads": 2}, True, "next"),
]


@pytest.mark.parametrize(("model_class", "fields", "is_causal", "predicts"), LOOKS)
def test_whether_positions_see_later_tokens_is_found_by_trying(model_class, fields, is_causal, predicts):
    hf_model = seeded(model_class, **SMALL, **fields)
    anatomy = lw.LanguageModel(hf_model).anatomy
    assert (anatomy.is_causal, anatomy.predicts) == (is_causal, predicts)
    assert ("sees later tokens" in str(anatomy)) is not is_causal
    # independently: with another last token, does what is said at the first move?
    ids = torch.tensor([[5, 17, 99, 3]])
    other = torch.tensor([[5, 17, 99, 8]])
    with torch.no_grad():
        moved = (hf_model(input_ids=ids).logits - hf_model(input_ids=other).logits)[0, 0].abs().max()
    assert (float(moved) == 0) is is_causal


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_looking_ahead_is_found_in_16_bits(dtype):
    assert lw.LanguageModel(seeded(hf.LlamaForCausalLM, **SMALL).to(dtype)).anatomy.is_causal
    assert not lw.LanguageModel(seeded(hf.BertForMaskedLM, **SMALL).to(dtype)).anatomy.is_causal


# --- train mode ---------------------------------------------------------------------------------------


def dropping(make, **fields):
    hf_model = make(**fields).train()
    assert any(isinstance(module, nn.Dropout) and module.p > 0 for module in hf_model.modules())
    return hf_model


DROPPING = {
    "GPT-2": lambda: dropping(gpt2, embd_pdrop=0.5, resid_pdrop=0.5),
    "T5": lambda: dropping(lambda **f: seeded(hf.T5ForConditionalGeneration, **T5, **f), dropout_rate=0.5),
    "BERT": lambda: dropping(lambda **f: seeded(hf.BertForMaskedLM, **SMALL, **f), hidden_dropout_prob=0.5),
}


@pytest.mark.parametrize("make", DROPPING.values(), ids=DROPPING)
def test_a_model_in_train_mode_is_found_to_be_what_it_is_in_evaluation(make):
    training, resting = make(), make().eval()
    model = lw.LanguageModel(training)
    anatomy, tail = model.anatomy, model.tail
    assert anatomy == lw.LanguageModel(resting).anatomy
    assert tail.fidelity.ok
    states = torch.randn(4, anatomy.d_model, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = Tail(resting, lw.LanguageModel(resting).anatomy)(states)
        assert torch.equal(tail(states), expected)
        assert torch.equal(anatomy.bypass.logits(training, states).float(), expected)
    assert all(module.training for module in training.modules())


def test_each_module_keeps_its_own_mode():
    hf_model = gpt2(embd_pdrop=0.5).eval()
    hf_model.transformer.drop.train()
    hf_model.transformer.ln_f.train()
    model = lw.LanguageModel(hf_model)
    model.tail(torch.zeros(2, 32))
    training = {name for name, module in hf_model.named_modules() if module.training}
    assert training == {"transformer.drop", "transformer.ln_f"}


# --- models that cannot run ---------------------------------------------------------------------------


def test_a_model_on_the_meta_device_is_refused_as_such():
    with torch.device("meta"):
        hf_model = hf.LlamaForCausalLM(hf.LlamaConfig(**SMALL))
    with pytest.raises(AnatomyError, match=r"meta device.*Load the model with its weights"):
        _ = lw.LanguageModel(hf_model).anatomy


def test_an_error_of_the_models_own_forward_is_told_as_that():
    hf_model = llama()
    hf_model.config.return_dict = False
    model = lw.LanguageModel(hf_model)
    for name in ("anatomy", "tail", "layers"):
        with pytest.raises(AnatomyError, match=r"its own forward fails with .*config\.return_dict = True"):
            len(getattr(model, name).blocks) if name == "anatomy" else list(getattr(model, name))
    hf_model.config.return_dict = True
    assert model.anatomy.n_layers == 4


def test_an_attribute_that_discovery_misses_is_not_taken_for_one_of_the_wrapper():
    hf_model = llama()

    def broken(*args, **kwargs):
        raise AttributeError("'NoneType' object has no attribute 'shape'")

    hf_model.get_output_embeddings = broken
    with pytest.raises(AnatomyError, match="'NoneType' object has no attribute 'shape'"):
        _ = lw.LanguageModel(hf_model).anatomy


def test_the_made_up_source_has_another_length_than_the_columns():
    hf_model = ENCODER_DECODERS["T5"][0]()
    sizes = []
    hook = (
        hf_model.decoder.block[0]
        .layer[1]
        .EncDecAttention.register_forward_pre_hook(
            lambda _module, args, kwargs: sizes.append(
                (args[0].shape[1], kwargs["key_value_states"].shape[1])
            ),
            with_kwargs=True,
        )
    )
    with torch.no_grad():
        logits = logits_of(forward(hf_model, DECODER[:, :7]))
    hook.remove()
    assert logits.shape == (1, 7, 211)
    assert sizes == [(7, 5)]


# --- adapters -----------------------------------------------------------------------------------------


def adapted(hf_model, config):
    import peft

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of peft's own use of transformers
        return peft.get_peft_model(hf_model, config(peft)).eval()


def test_an_adapters_forward_takes_what_the_models_own_does():
    plain = gpt2()
    with_lora = adapted(
        gpt2(),
        lambda peft: peft.LoraConfig(
            task_type="CAUSAL_LM", r=4, target_modules=["c_attn"], fan_in_fan_out=True
        ),
    )
    for name in ("position_ids", "use_cache", "logits_to_keep", "nonsense"):
        assert takes(with_lora, name) == takes(plain, name)
    inner = plain.forward
    plain.forward = lambda *args, **kwargs: inner(*args, **kwargs)
    assert takes(plain, "position_ids")
    assert not takes(plain, "nonsense")


def test_a_learnt_prompt_is_refused_with_what_it_is():
    model = adapted(
        llama(), lambda peft: peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=5)
    )
    with pytest.raises(AnatomyError, match=r"7 tokens, found logits of 12 positions.*virtual tokens"):
        _ = lw.LanguageModel(model).anatomy
    with lw.LanguageModel(model).trace([5, 17, 99]) as tracer:
        assert tracer.result.logits.shape[1] == 8
