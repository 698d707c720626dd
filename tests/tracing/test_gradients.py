"""Gradients through a trace are those of plain autograd."""

import pytest
import torch
from tiny import PROMPT, Counted, gpt2, language_model
from torch.utils.checkpoint import checkpoint

import lenswidget as lw


@pytest.fixture(scope="module")
def model():
    return language_model(gpt2)


def by_hand(model, path, change=None):
    """The gradient of the summed logits at a module's hidden states, with plain hooks."""
    kept = {}

    def hook(module, args, output):
        states = output[0] if isinstance(output, tuple) else output
        kept["states"] = states = states if change is None else change(states)
        states.retain_grad()
        return (states, *output[1:]) if isinstance(output, tuple) else states

    handle = model.hf_model.get_submodule(path).register_forward_hook(hook)
    model.hf_model(**model.tokenize(PROMPT)).logits.sum().backward()
    handle.remove()
    model.hf_model.zero_grad()
    return kept["states"].grad


SITES = [
    "transformer.h.1",
    "transformer.h.1.mlp",
    "transformer.h.2.ln_2",
    "transformer.wte",
    "transformer.ln_f",
]


@pytest.mark.parametrize("path", SITES)
def test_autograd_grad_inside_the_body(model, path):
    with model.trace(PROMPT):
        states = model.get(path).output
        (gradient,) = torch.autograd.grad(model.lm_head.output.sum(), states)
    assert torch.equal(gradient, by_hand(model, path))


@pytest.mark.parametrize("path", SITES)
def test_backward_after_the_trace_fills_grad(model, path):
    with model.trace(PROMPT) as tracer:
        states = model.get(path).output
        states.retain_grad()
        logits = tracer.result.logits
    logits.sum().backward()
    model.hf_model.zero_grad()
    assert torch.equal(states.grad, by_hand(model, path))


def test_backward_inside_the_body_fills_grad_of_both_faces_of_a_block_output(model):
    with model.trace(PROMPT):
        output = model.transformer.h[1].output
        states = output[0]
        output.retain_grad()
        states.retain_grad()
        model.lm_head.output.sum().backward()
        model.hf_model.zero_grad()
        expected = by_hand(model, "transformer.h.1")
        assert torch.equal(output.grad, expected)
        assert torch.equal(states.grad, expected)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_reading_without_gradients_leaves_those_of_the_forward_whole(model, mode):
    by_hand(model, "transformer.h.1")
    model.hf_model(**model.tokenize(PROMPT)).logits.sum().backward()
    expected = model.hf_model.transformer.wte.weight.grad.clone()
    model.hf_model.zero_grad()
    with model.trace(PROMPT):
        with mode():
            for block in model.transformer.h:
                _ = block.output
        model.lm_head.output.sum().backward()
    assert torch.equal(model.hf_model.transformer.wte.weight.grad, expected)
    model.hf_model.zero_grad()


def test_an_edit_in_place_without_gradients_in_a_trace_with_them(model):
    with model.trace(PROMPT):
        with torch.no_grad():
            model.transformer.h[1].output[0][:, 0] = 0
        states = model.transformer.h[2].output
        (gradient,) = torch.autograd.grad(model.lm_head.output.sum(), states)
    assert gradient.abs().sum() > 0


def test_gradients_reach_an_edited_site(model):
    def change(states):
        return states * 2 + 1

    with model.trace(PROMPT):
        model.transformer.h[1].output = change(model.transformer.h[1].output)
        states = model.transformer.h[1].output
        (gradient,) = torch.autograd.grad(model.lm_head.output.sum(), states)
    assert torch.equal(gradient, by_hand(model, "transformer.h.1", change))


def test_gradients_pass_through_an_edit_made_in_place(model):
    with model.trace(PROMPT):
        before = model.transformer.h[1].mlp.output
        model.transformer.h[2].output[0].mul_(3)
        (gradient,) = torch.autograd.grad(model.lm_head.output.sum(), before)

    handle = model.hf_model.transformer.h[2].register_forward_hook(
        lambda module, args, output: (output[0] * 3, *output[1:]) if isinstance(output, tuple) else output * 3
    )
    expected = by_hand(model, "transformer.h.1.mlp")
    handle.remove()
    assert torch.equal(gradient, expected)


def test_a_value_of_ones_own_gets_gradients_through_the_model(model):
    steer = torch.zeros(32, requires_grad=True)
    with model.trace(PROMPT):
        model.transformer.h[1].output = model.transformer.h[1].output + steer
        model.lm_head.output.sum().backward()
    model.hf_model.zero_grad()
    assert torch.allclose(
        steer.grad, by_hand(model, "transformer.h.1").sum((0, 1)), atol=1e-5
    )  # one sum more


def test_gradients_reach_embeddings_given_as_the_prompt(model):
    embeds = model.hf_model.transformer.wte(model.tokenize(PROMPT)["input_ids"]).detach().requires_grad_()
    with model.trace(inputs_embeds=embeds):
        model.lm_head.output.sum().backward()
    model.hf_model.zero_grad()
    assert torch.equal(embeds.grad, by_hand(model, "transformer.wte"))


class Checkpointed(Counted):
    """Computes every block again in the backward pass, instead of keeping what it saved."""

    def forward(self, x):
        x = self.embed(x)
        for block in self.blocks:
            x = torch.tanh(checkpoint(block, x, use_reentrant=False))
        return self.head(x)


def test_checkpointed_blocks_give_the_same_gradients():
    found = []
    for make in (Counted, Checkpointed):
        model = lw.TracedModel(make())
        with model.trace(torch.ones(2, 8)):
            states = model.embed.output
            inside = model.blocks[1].output  # computed again in the backward pass, while hooks are set
            given = model.blocks[3].input
            (inside * 2).exp()  # saves a tensor of its own, which is not the checkpoint's
            found.append(torch.autograd.grad(model.head.output.sum(), (states, given)))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_ambient_grad_mode_is_honoured(model):
    with torch.no_grad(), model.trace(PROMPT):
        assert not model.lm_head.output.requires_grad
    with torch.inference_mode(), model.trace(PROMPT):
        assert model.lm_head.output.is_inference()
    with model.trace(PROMPT):
        with torch.no_grad():  # of the body alone
            logits = model.lm_head.output
        assert logits.requires_grad
