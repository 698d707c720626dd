"""Gradients that go through packed weights are those of torch's own, and nothing of it stays in the model."""

import pytest
import torch
from tiny import llama
from torch import nn

from lenswidget.lenses import packed_gradients as under_test
from lenswidget.models.product import Timing

PACKED, PLAIN = Timing(1, packed_ms=1.0, plain_ms=2.0), Timing(1, packed_ms=2.0, plain_ms=1.0)
IDS = torch.tensor([[5, 17, 40, 3, 99, 12]])


@pytest.fixture
def hf_model(monkeypatch):
    monkeypatch.setattr(under_test, "timing", lambda: PACKED)
    return llama().eval().requires_grad_(False)


def gradients(hf_model, cotangents, *, is_batched):
    """Of the last state, at the embeddings; and the values of the forward."""
    states = hf_model.get_input_embeddings()(IDS).requires_grad_()
    target = hf_model.base_model(inputs_embeds=states, use_cache=False).last_hidden_state
    cotangents = cotangents if is_batched else cotangents[0]
    (found,) = torch.autograd.grad(target, states, cotangents, is_grads_batched=is_batched)
    return found, target.detach()


@pytest.mark.parametrize("is_batched", [True, False])
@pytest.mark.filterwarnings("error")
def test_gradients_and_values_are_those_of_torch(hf_model, monkeypatch, is_batched):
    source = torch.Generator().manual_seed(0)
    cotangents = torch.randn(3, 1, IDS.shape[1], hf_model.config.hidden_size, generator=source)
    expected = gradients(hf_model, cotangents, is_batched=is_batched)
    n_taken, apply = [], under_test._Linear.apply
    monkeypatch.setattr(under_test._Linear, "apply", lambda *args: n_taken.append(1) or apply(*args))
    with under_test.packed_gradients(hf_model):
        found = gradients(hf_model, cotangents, is_batched=is_batched)
    n_linears = sum(isinstance(each, nn.Linear) for each in hf_model.modules())
    assert len(n_taken) == n_linears - 1  # all but the vocabulary's
    torch.testing.assert_close(found[0], expected[0], atol=1e-5, rtol=1e-5)
    assert torch.equal(found[1], expected[1])


@pytest.mark.parametrize("why", ["plain is faster", "bfloat16", "too large"])
def test_else_torchs_own_way_is_taken(hf_model, monkeypatch, why):
    if why == "plain is faster":
        monkeypatch.setattr(under_test, "timing", lambda: PLAIN)
    elif why == "bfloat16":
        hf_model.bfloat16()
    else:
        monkeypatch.setattr(under_test, "PACK_BYTES", 1000)
    with under_test.packed_gradients(hf_model):
        assert torch.overrides._get_current_function_mode_stack() == []
