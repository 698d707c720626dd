"""A prompt as a value: its columns, what came with it, and how it is made again."""

import json

import numpy as np
import pytest
import torch
from tiny import ENDS, IDS, PROMPT, gpt2, language_model, llama, seeded, tokenizer
from transformers import BartForConditionalGeneration, BertConfig, BertLMHeadModel, T5ForConditionalGeneration

import lenswidget as lw
from lenswidget.errors import PromptError
from lenswidget.models.encoded_prompt import encode_prompt, prompt_of_state


def t5(num_decoder_layers=3):
    sizes = {
        "d_model": 32,
        "d_ff": 64,
        "num_layers": 2,
        "num_heads": 2,
        "d_kv": 16,
    }
    return seeded(
        T5ForConditionalGeneration,
        **sizes,
        num_decoder_layers=num_decoder_layers,
        vocab_size=300,
        decoder_start_token_id=0,
        pad_token_id=0,
        eos_token_id=1,
    )


def bart():
    sizes = {"d_model": 32, "encoder_layers": 2, "decoder_layers": 3, "encoder_attention_heads": 2}
    more = {"decoder_attention_heads": 2, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64}
    ids = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 2}
    return seeded(
        BartForConditionalGeneration, **sizes, **more, **ids, vocab_size=300, max_position_embeddings=64
    )


def own_log_probs(hf_model, **inputs):
    """The model's own log-probs `[seq, d_vocab]` in float64, from a plain forward."""
    with torch.no_grad():
        return hf_model(**inputs).logits[0].double().log_softmax(-1)


def encoded(model, prompt, **options):
    return encode_prompt(prompt, model.tokenizer, model.hf_model, model.device, **options)


@pytest.fixture(scope="module")
def model():
    return language_model(gpt2)


def test_text_and_ids_bring_nothing_but_themselves(model):
    text, ids = encoded(model, PROMPT), encoded(model, IDS)
    assert (text.text, text.extras, ids.text, ids.extras) == (PROMPT, (), None, ())
    assert text.column_ids.tolist() == model.tokenizer(PROMPT)["input_ids"]
    assert ids.as_given == IDS
    assert text.code == repr(PROMPT)
    assert ids.code == repr(IDS)


def test_an_encoding_of_plain_ids_is_the_ids(model):
    found = encoded(model, model.tokenizer(PROMPT, return_tensors="pt"))
    assert found.extras == ()
    assert found.as_given == model.tokenizer(PROMPT)["input_ids"]


def test_positions_of_ones_own_are_kept_for_every_forward(model):
    encoding = {"input_ids": torch.tensor([IDS]), "position_ids": torch.arange(len(IDS))[None] * 3}
    run = model.run(encoding)
    assert run.spec.prompt.extras == ("position_ids",)
    expected = own_log_probs(model.hf_model, **encoding)
    found = lw.read(run, [(3, position) for position in range(len(IDS))], k=300)
    rows = torch.from_numpy(np.take_along_axis(expected.numpy(), found.ids.astype(int), 1))
    torch.testing.assert_close(torch.from_numpy(found.log_probs).double(), rows, atol=1e-5, rtol=0)
    # another site is another forward: the states that leave block 0 enter block 1
    after = run.states("resid_pre", [1] * len(IDS), range(len(IDS)))
    assert torch.equal(after, run.states("resid_post", [0] * len(IDS), range(len(IDS))))
    again = model.run(run.spec)
    assert torch.equal(again.states("resid_post", [2], [4]), run.states("resid_post", [2], [4]))


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("make", [gpt2, llama])
def test_the_mask_decides_which_columns_there_are(make, side):
    model = language_model(make)
    n, pads = len(IDS), 5
    ids, mask = IDS + [0] * pads, [1] * n + [0] * pads
    if side == "left":
        ids, mask = [0] * pads + IDS, [0] * pads + [1] * n
    encoding = {"input_ids": torch.tensor([ids]), "attention_mask": torch.tensor([mask])}
    run, alone = model.run(encoding), model.run(IDS)
    assert run.token_ids.tolist() == IDS
    assert run.fidelity.ok
    found, expected = lw.read(run, k=3), lw.read(alone, k=3)
    assert np.array_equal(found.ids, expected.ids)
    # sums of another length add up in another order
    np.testing.assert_allclose(found.log_probs, expected.log_probs, atol=2e-5)


def test_a_mask_that_leaves_everything_out_is_refused(model):
    encoding = {
        "input_ids": torch.tensor([IDS]),
        "attention_mask": torch.zeros(1, len(IDS), dtype=torch.long),
    }
    with pytest.raises(PromptError, match="leaves every token out"):
        model.run(encoding)


@pytest.mark.parametrize("make", [t5, bart], ids=["t5", "bart"])
@pytest.mark.parametrize(("n_source", "n_target"), [(4, 4), (3, 6), (7, 2)])
def test_the_columns_of_an_encoder_decoder_are_the_decoders(make, n_source, n_target):
    model = lw.LanguageModel(make(), tokenizer())
    start = model.hf_model.config.decoder_start_token_id
    source, target = list(range(5, 5 + n_source)), [start, *range(50, 49 + n_target)]
    encoding = {"input_ids": torch.tensor([source]), "decoder_input_ids": torch.tensor([target])}
    expected = own_log_probs(model.hf_model, **encoding)
    for run in (
        model.run(encoding),
        model.run(source, decoder=target[1:]),
        model.run(source, decoder=target),
    ):
        assert run.token_ids.tolist() == target
        last = lw.read(run, [(run.n_layers - 1, position) for position in range(n_target)], k=300)
        rows = torch.from_numpy(np.take_along_axis(expected.numpy(), last.ids.astype(int), 1))
        torch.testing.assert_close(torch.from_numpy(last.log_probs).double(), rows, atol=1e-5, rtol=0)


def test_an_encoder_decoder_begins_with_its_start_token_and_goes_on_greedily():
    # transformers 5.23's own generate fails where the decoder is deeper than the encoder
    model = lw.LanguageModel(t5(num_decoder_layers=2), tokenizer())
    assert model.run("The city").token_ids.tolist() == [0]
    source = model.tokenizer("The city", return_tensors="pt")["input_ids"]
    greedy = model.hf_model.generate(input_ids=source, max_new_tokens=4, do_sample=False)
    assert model.run("The city", decoder=4).token_ids.tolist() == greedy[0].tolist()
    with pytest.raises(PromptError, match="has no decoder"):
        language_model(gpt2).run("The city", decoder=4)
    with pytest.raises(PromptError, match="Give text, token ids, or a number"):
        model.run("The city", decoder=["a"])


def test_a_bos_that_the_text_has_is_not_put_there_twice():
    bos = tokenizer().__class__(
        tokenizer_object=tokenizer().backend_tokenizer, bos_token="!", eos_token="!", add_bos_token=True
    )

    class Adding:
        bos_token, bos_token_id, padding_side = "!", bos.bos_token_id, "right"

        def __call__(self, text, add_special_tokens=True, **_):
            ids = bos(text, add_special_tokens=False)["input_ids"]
            return {"input_ids": [self.bos_token_id, *ids] if add_special_tokens else ids}

        def __len__(self):
            return 300

        def decode(self, ids, **options):
            return bos.decode(ids, **options)

    model = lw.LanguageModel(gpt2(), Adding())
    once = encoded(model, "!The city")
    assert once.column_ids.tolist().count(bos.bos_token_id) == 1
    assert once.notes == ("The text begins with !, which the tokenizer adds: one is used.",)
    assert encoded(model, "The city").notes == ()
    without = encoded(model, "The city", add_special_tokens=False)
    assert without.column_ids.tolist() == bos("The city", add_special_tokens=False)["input_ids"]
    with model.trace("The city", add_special_tokens=False):
        assert model.lm_head.output.shape[1] == without.seq


@pytest.mark.parametrize("kind", ["text", "ids", "positions", "mask"])
def test_a_prompt_survives_json(model, kind):
    prompt = {
        "text": PROMPT,
        "ids": IDS,
        "positions": {"input_ids": [IDS], "position_ids": [[3 * i for i in range(len(IDS))]]},
        "mask": {"input_ids": [IDS], "attention_mask": [[0, 0, *[1] * (len(IDS) - 2)]]},
    }[kind]
    first = encoded(model, prompt)
    given, options = prompt_of_state(json.loads(json.dumps(first.to_state())))
    second = encoded(model, given, **options)
    assert second.column_ids.tolist() == first.column_ids.tolist()
    assert second.extras == first.extras
    for name, value in first.model_inputs.items():
        assert torch.equal(second.model_inputs[name], value), name


@pytest.mark.parametrize("state", [None, 3, {}, {"text": 3}, {"inputs": {"input_ids": "x"}}, {"ids": "abc"}])
def test_a_state_without_a_recipe_is_refused(model, state):
    def again():
        given, options = prompt_of_state(state)
        return encoded(model, given, **options)

    with pytest.raises(PromptError, match=r"Pass w\.state of another widget as it is|The prompt is a"):
        again()


@pytest.mark.parametrize("make", [np.array, torch.tensor, lambda ids: np.array([ids]), list, tuple])
def test_ids_come_in_many_containers(model, make):
    assert encoded(model, make(IDS)).as_given == IDS


def test_an_encoding_of_numpy_arrays_and_a_numpy_string_are_taken(model):
    assert (
        encoded(model, model.tokenizer(PROMPT, return_tensors="np")).as_given
        == encoded(model, model.tokenizer(PROMPT)["input_ids"]).as_given
    )
    found = encoded(model, np.str_(PROMPT))
    assert (type(found.text), found.text) == (str, PROMPT)


def test_what_a_model_takes_by_its_own_names_is_printed_as_code():
    config = BertConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, vocab_size=300,
        is_decoder=True, **ENDS,
    )  # fmt: skip
    torch.manual_seed(0)
    model = lw.LanguageModel(BertLMHeadModel(config).eval(), None)
    encoding = {"input_ids": torch.tensor([IDS]), "token_type_ids": torch.tensor([[0, 1] * 5 + [1]])}
    found = encoded(model, encoding)
    assert found.extras == ("token_type_ids",)
    with torch.no_grad(), model.trace(eval(found.code)) as tracer:
        assert torch.equal(tracer.result.logits, model.hf_model(**encoding).logits)


def test_going_on_from_a_cache_gives_what_the_whole_prompt_gives():
    for make in (gpt2, llama):
        model = language_model(make)
        whole = own_log_probs(model.hf_model, input_ids=torch.tensor([IDS]))
        for rest in (IDS[7:], torch.tensor(IDS[7:]), torch.tensor([IDS[7:]]), {"input_ids": [IDS[7:]]}):
            with torch.no_grad():
                cache = model.hf_model(torch.tensor([IDS[:7]]), use_cache=True).past_key_values
                with model.trace(rest, past_key_values=cache):
                    found = model.lm_head.output[0].double().log_softmax(-1)
            torch.testing.assert_close(found, whole[7:], atol=1e-5, rtol=0)
    with pytest.raises(PromptError, match="past_key_values for a readout"):
        model.run({"input_ids": [IDS], "past_key_values": cache})


def test_a_keyword_that_no_module_takes_is_refused(model):
    with pytest.raises(PromptError, match="Did you mean 'attention_mask'"):
        model.trace(PROMPT, atention_mask=torch.ones(1, 8))
    with model.trace(PROMPT, use_cache=False, output_hidden_states=True) as tracer:
        assert tracer.result.hidden_states is not None


def test_a_model_in_train_mode_is_read_in_eval_mode_and_put_back():
    model = language_model(gpt2, resid_pdrop=0.5, embd_pdrop=0.5, attn_pdrop=0.5)
    expected = lw.read(model.run(IDS), k=3)
    model.hf_model.train()
    model.hf_model.transformer.h[1].eval()
    modes = [module.training for module in model.hf_model.modules()]
    run = model.run(IDS)
    found = lw.read(run, k=3)
    assert [module.training for module in model.hf_model.modules()] == modes
    assert np.array_equal(found.ids, expected.ids)
    assert np.array_equal(found.log_probs, expected.log_probs)
    assert torch.equal(run.states("resid_pre", [2], [3]), run.states("resid_post", [1], [3]))
    assert lw.decode(run, 2, 3).ids == lw.decode(model.run(IDS), 2, 3).ids
