"""Prompts of every kind on a language model, and what the model hands on."""

import warnings

import pytest
import torch
import transformers
from tiny import PROMPT, gpt2, language_model, llama, seeded, tokenizer
from tiny_models import tiny_config, tiny_model

import lenswidget as lw
from lenswidget.errors import LensError, PromptError

BATCH = ["The city of", "Paris, the heart of France", "The"]


@pytest.fixture(scope="module")
def model():
    return language_model(gpt2)


SIZES = {"num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 2, "vocab_size": 300}


def opt():
    return seeded(transformers.OPTForCausalLM, **SIZES, ffn_dim=64, word_embed_proj_dim=32)


def bloom():
    return seeded(transformers.BloomForCausalLM, **SIZES)


def neox():
    return seeded(transformers.GPTNeoXForCausalLM, **SIZES, intermediate_size=64)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("make", [gpt2, llama, opt, bloom, neox])
def test_every_row_of_a_batch_is_what_its_prompt_is_alone(make, side):
    model = lw.LanguageModel(make(), tokenizer())
    with torch.no_grad():
        encoding = model.tokenize(BATCH, side=side)
        with model.trace(encoding) as tracer:
            together = tracer.result.logits
        for row, mask, prompt in zip(together, encoding["attention_mask"], BATCH, strict=True):
            alone = model.hf_model(**model.tokenize(prompt)).logits[0]
            # sums of another length add up in another order
            assert torch.allclose(row[mask.bool()], alone, atol=1e-5)


def test_a_model_knows_the_code_that_makes_it_again(tmp_path):
    folder = str(tmp_path)
    gpt2().save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    assert lw.LanguageModel(folder).source == f"lw.LanguageModel({folder!r})"
    dtype = "dtype" if int(transformers.__version__.split(".")[0]) > 4 else "torch_dtype"
    options = {"revision": "main", dtype: torch.bfloat16, "token": "hf_secret", "blocks": "transformer.h"}
    source = lw.LanguageModel(folder, **options).source
    assert (
        source
        == f"lw.LanguageModel({folder!r}, blocks='transformer.h', revision='main', {dtype}=torch.bfloat16)"
    )
    again = eval(source)
    assert again.source == source
    assert again.hf_model.dtype is torch.bfloat16
    assert lw.LanguageModel(folder, config=gpt2().config).source is None
    assert lw.LanguageModel(gpt2(), tokenizer()).source is None


def test_a_model_that_cannot_bear_padding_on_the_left_says_so_and_the_remedy_works():
    rwkv = seeded(transformers.RwkvForCausalLM, **SIZES, attention_hidden_size=32, context_length=64)
    model = lw.LanguageModel(rwkv, tokenizer())
    with pytest.raises(PromptError, match="padded on the left"):
        model.trace(model.tokenize(BATCH, side="left"))
    with torch.no_grad(), model.trace(model.tokenize(BATCH, side="right")) as tracer:
        n_tokens = len(model.tokenizer(BATCH[2])["input_ids"])
        alone = model.hf_model(**model.tokenize(BATCH[2])).logits
        assert torch.allclose(tracer.result.logits[2:, :n_tokens], alone, atol=1e-5)


def test_a_batch_is_padded_where_the_tokenizer_says(model):
    for side in ("left", "right"):
        padding = tokenizer().__class__(tokenizer_object=tokenizer().backend_tokenizer, padding_side=side)
        mask = lw.LanguageModel(model.hf_model, padding).tokenize(BATCH)["attention_mask"]
        assert mask[2].tolist() == sorted(mask[2].tolist(), reverse=side == "right")


def test_another_side_to_pad_on_is_refused(model):
    with pytest.raises(PromptError, match=r"the 'lft' side. Give side=\"left\" or side=\"right\""):
        model.tokenize(BATCH, side="lft")


def test_an_encoding_with_padding_on_the_left_gets_its_positions(model):
    ids = model.tokenize("The city")["input_ids"]
    padded = torch.cat([torch.zeros(1, 3, dtype=torch.long), ids], 1)
    mask = torch.tensor([[0, 0, 0] + [1] * ids.shape[1]])
    with torch.no_grad(), model.trace({"input_ids": padded, "attention_mask": mask}):
        together = model.lm_head.output[0, 3:]
    with torch.no_grad():
        assert torch.allclose(together, model.hf_model(ids).logits[0], atol=1e-5)


def test_prompts_of_every_kind_mean_the_same(model):
    ids = model.tokenizer(PROMPT)["input_ids"]
    embeds = model.hf_model.transformer.wte(torch.tensor([ids]))
    with torch.no_grad():
        expected = model.hf_model(torch.tensor([ids])).logits
        for prompt in (
            PROMPT,
            [PROMPT],
            ids,
            [ids],
            torch.tensor(ids),
            torch.tensor([ids]),
            embeds,
            embeds[0],
            model.tokenizer(PROMPT, return_tensors="pt"),
            model.tokenize(PROMPT),
        ):
            with model.trace(prompt):
                assert torch.equal(model.lm_head.output, expected)
        with model.trace(input_ids=torch.tensor([ids])):
            assert torch.equal(model.lm_head.output, expected)
        with model.trace(inputs_embeds=embeds):
            assert torch.equal(model.lm_head.output, expected)


def test_keywords_are_handed_on_to_the_forward(model):
    with torch.no_grad(), model.trace(PROMPT, use_cache=False, output_hidden_states=True) as tracer:
        assert tracer.result.past_key_values is None
        assert len(tracer.result.hidden_states) == 5


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ("", "empty"),
        ([], "empty"),
        ([[1], []], "empty"),
        (torch.zeros(1, 0, dtype=torch.long), "empty"),
        (None, "a NoneType"),
        (3.5, "a float"),
        ([1, "two"], "a list"),
        (torch.zeros(2, 2, 2, dtype=torch.long), r"\[2, 2, 2\]"),
        ([1, 300], "from 0 to 299"),
        ([-1], "-1"),
        ([1] * 65, "65 tokens, but the model takes 64"),
        ({"attention_mask": torch.ones(1, 2)}, "input_ids"),
    ],
)
def test_a_prompt_that_cannot_be_taken_is_refused_in_one_sentence(model, prompt, said):
    with pytest.raises(PromptError, match=said):
        model.trace(prompt)
    with model.trace(PROMPT):  # nothing is lost
        assert model.lm_head.output.ndim == 3


# the oldest transformers has no Gemma 3
@pytest.mark.parametrize(
    "family", [name for name in ("Llava", "Gemma3") if hasattr(transformers, f"{name}Config")]
)
def test_ids_are_checked_where_the_text_decoder_is_inside_another_model(family):
    config = tiny_config(getattr(transformers, f"{family}Config"))
    model_class = getattr(transformers, f"{family}ForConditionalGeneration")
    inside = lw.LanguageModel(tiny_model(config, model_class))
    with pytest.raises(PromptError, match="token id 512, but ids run from 0 to 511"):
        inside.trace([1, 512])
    with pytest.raises(PromptError, match="129 tokens, but the model takes 128"):
        inside.trace([1] * 129)


def test_a_tokenizer_is_needed_for_strings_only():
    model = lw.LanguageModel(gpt2(), None)
    with model.trace([1, 2]):
        assert model.lm_head.output.shape == (1, 2, 300)
    with pytest.raises(PromptError, match="without a tokenizer"):
        model.trace(PROMPT)


def test_a_model_is_loaded_by_its_folder(model, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the files' format
        model.hf_model.save_pretrained(tmp_path)
        model.tokenizer.save_pretrained(tmp_path)
    loaded = lw.LanguageModel(str(tmp_path))
    with torch.no_grad(), loaded.trace(PROMPT):
        logits = loaded.lm_head.output
    with torch.no_grad():
        assert torch.equal(logits, model.hf_model(**model.tokenize(PROMPT)).logits)
    assert not loaded.hf_model.training


def test_options_of_loading_are_refused_for_a_loaded_model(model):
    with pytest.raises(LensError, match="Asked for dtype, block with a model that is loaded already"):
        lw.LanguageModel(model.hf_model, None, dtype="bfloat16", block="transformer.h")


def test_one_lock_serves_every_wrapping_of_a_model(model):
    assert lw.LanguageModel(model.hf_model).lock is model.lock
    assert lw.TracedModel(model.hf_model).lock is model.lock
    assert lw.LanguageModel(gpt2()).lock is not model.lock


def test_what_is_not_a_module_is_the_wrapped_models_own(model):
    assert model.config is model.hf_model.config
    assert model.lm_head.weight is model.hf_model.lm_head.weight
    assert model.device == torch.device("cpu")


def test_the_blocks_are_those_that_the_anatomy_found(model):
    assert model.anatomy.blocks == tuple(f"transformer.h.{i}" for i in range(4))
    assert model.anatomy is model.anatomy
    assert model.tail is model.tail
