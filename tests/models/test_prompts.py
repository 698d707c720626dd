"""Prompts given to a trace with a mask of their own, and encodings as a tokenizer makes them."""

import pytest
import torch
from tiny import gpt2, language_model

from lenswidget.errors import PromptError

BATCH = ["The city of", "Paris, the heart of France is"]


@pytest.fixture(scope="module")
def model():
    return language_model(gpt2)


@pytest.mark.parametrize("kind", ["ids", "embeddings"])
def test_a_mask_given_beside_the_prompt_sets_the_positions(model, kind):
    encoding = model.tokenize(BATCH, side="left")
    prompt, mask = encoding["input_ids"], encoding["attention_mask"]
    if kind == "embeddings":
        prompt = model.transformer.wte(prompt)
    with torch.no_grad():
        with model.trace(prompt, attention_mask=mask):
            together = model.lm_head.output
        for row, n_tokens, text in zip(together, mask.sum(1), BATCH, strict=True):
            with model.trace(text):
                # sums of another length add up in another order
                assert torch.allclose(row[-n_tokens:], model.lm_head.output[0], atol=1e-5)


def test_positions_go_on_from_a_cache_of_padded_prompts(model):
    encoding = model.tokenize(BATCH, side="left")
    with torch.no_grad():
        with model.trace(encoding, use_cache=True) as tracer:
            first = tracer.result
        chosen = first.logits[:, -1:].argmax(-1)
        mask = torch.cat([encoding["attention_mask"], torch.ones_like(chosen)], 1)
        with model.trace(chosen, attention_mask=mask, past_key_values=first.past_key_values):
            second = model.lm_head.output[0, -1]
        ids = torch.cat([model.tokenize(BATCH[0])["input_ids"], chosen[:1]], 1)
        with model.trace(ids):
            assert torch.allclose(second, model.lm_head.output[0, -1], atol=1e-5)


def test_an_encoding_may_hold_lists(model):
    with model.trace(BATCH[0]):
        expected = model.lm_head.output
    with model.trace(model.tokenizer(BATCH[0])):
        assert torch.equal(model.lm_head.output, expected)
    with pytest.raises(PromptError, match="Pad its rows"):
        model.trace(model.tokenizer(BATCH))


def test_embeddings_of_too_many_axes_are_refused(model):
    with pytest.raises(PromptError, match=r"a tensor \[1, 2, 3, 32\]"):
        model.trace(torch.zeros(1, 2, 3, 32))
