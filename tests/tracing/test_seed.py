"""The founding document: both of its fragments, word for word, give what the model itself gives."""

import textwrap

import pytest
import torch
from seed import CALL_A_MODULE, LOGIT_LENS, run
from tiny import PROMPT, gpt2, language_model, llama, n_hooks


@pytest.fixture
def model():
    return language_model(gpt2)


@pytest.fixture
def expected(model):
    return model.hf_model(**model.tokenizer(PROMPT, return_tensors="pt")).logits


@pytest.mark.parametrize("layer", [0, 2, 3])
def test_calling_a_module_gives_what_the_model_gives(model, expected, layer):
    names = run(CALL_A_MODULE, model=model, prompt=PROMPT, l=layer)
    assert torch.equal(names["logits"], expected)
    states = model.hf_model(
        **model.tokenizer(PROMPT, return_tensors="pt"), output_hidden_states=True
    ).hidden_states
    if layer < 3:  # the last of transformers' hidden states is normed already
        assert torch.equal(names["hs"][0], states[layer + 1])
        assert torch.equal(names["out"], model.hf_model.transformer.ln_f(states[layer + 1]))
    else:
        assert torch.equal(names["out"], states[-1])


def test_the_logit_lens_of_the_last_layer_is_the_model_itself(model, expected):
    names = run(LOGIT_LENS, model=model, prompt=PROMPT, torch=torch)
    assert torch.equal(names["hidden_states"], expected)
    assert names["hidden_states"].shape == (1, expected.shape[1], 300)
    assert torch.equal(names["tokens"], expected.argmax(-1))
    assert isinstance(model.tokenizer.decode(names["tokens"][0]), str)


def test_results_carry_gradients_when_grad_mode_is_on(model):
    assert run(LOGIT_LENS, model=model, prompt=PROMPT, torch=torch)["hidden_states"].grad_fn is not None
    with torch.no_grad():
        assert run(LOGIT_LENS, model=model, prompt=PROMPT, torch=torch)["hidden_states"].grad_fn is None


@pytest.mark.parametrize("fragment", [CALL_A_MODULE, LOGIT_LENS])
def test_nothing_stays_behind(model, fragment):
    before = n_hooks(model.hf_model)
    run(fragment, model=model, prompt=PROMPT, torch=torch, l=1)
    assert n_hooks(model.hf_model) == before
    assert not hasattr(torch.Tensor, "save")


@pytest.mark.parametrize("fragment", [CALL_A_MODULE, LOGIT_LENS])
def test_the_fragments_run_inside_a_function(model, fragment):
    names = {"model": model, "prompt": PROMPT, "torch": torch, "l": 1}
    exec("def body():\n" + textwrap.indent(fragment, "    ") + "\n    return locals()", names)
    assert {"out", "tokens"} & set(names["body"]())


def test_the_fragments_mean_the_same_on_a_llama():
    model = language_model(llama)
    expected = model.hf_model(**model.tokenizer(PROMPT, return_tensors="pt")).logits
    fragment = LOGIT_LENS.replace("transformer.h", "model.layers").replace("transformer.ln_f", "model.norm")
    assert torch.equal(run(fragment, model=model, prompt=PROMPT, torch=torch)["hidden_states"], expected)
