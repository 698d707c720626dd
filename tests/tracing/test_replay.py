"""A replay makes every edit again and draws the same random numbers, however the forward came to need one."""

import pytest
import torch
from tiny import ENDS, PROMPT, gpt2, language_model, seeded
from torch import nn
from transformers import BloomForCausalLM, GPTNeoForCausalLM

import lenswidget as lw
from lenswidget.errors import NotReachedError


class Chain(nn.Module):
    """Four linear layers that add to a stream, and one that never runs."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.parts = nn.ModuleList(nn.Linear(4, 4) for _ in range(4))
        self.unused = nn.Linear(4, 4)

    def forward(self, x):
        for part in self.parts:
            x = x + torch.tanh(part(x))
        return x


X = torch.ones(2, 4)


def by_hand(module, edits):
    """The result, and what each part returned, where `edits[i]` is made to the output of part `i`."""
    x, returned = X, []
    for index, part in enumerate(module.parts):
        returned.append(edits.get(index, lambda states: states)(part(x)))
        x = x + torch.tanh(returned[-1])
    return x, returned


# --- edits after a forward that was lost: it ran to its end in search of a module that never runs


def assign(model, index):
    model.parts[index].output = model.parts[index].output * 3


def change_in_place(model, index):
    model.parts[index].output.mul_(3)


def skip(model, index):
    part = model.parts[index]
    part.skip(part.wrapped(part.input) * 3)


@pytest.mark.parametrize("n_traces", [1, 2])  # of a model never seen before, and of a known one
@pytest.mark.parametrize("edit", [assign, change_in_place, skip])
@pytest.mark.parametrize("edited", [(0,), (1,), (0, 1)])
def test_edits_outlive_a_module_that_is_not_reached(n_traces, edit, edited):
    module = Chain()
    model = lw.TracedModel(module)
    with torch.no_grad():
        expected, _ = by_hand(module, dict.fromkeys(edited, lambda states: states * 3))
        for _ in range(n_traces):
            with model.trace(X) as tracer:
                for index in edited:
                    edit(model, index)
                if edited == (0,):
                    _ = model.parts[1].input  # the forward waits beyond the edit
                with pytest.raises(NotReachedError):
                    _ = model.unused.output
                assert torch.equal(tracer.result, expected)


def test_an_edit_after_a_module_that_is_not_reached_joins_those_before():
    module = Chain()
    model = lw.TracedModel(module)
    with torch.no_grad(), model.trace(X) as tracer:
        assign(model, 0)
        with pytest.raises(NotReachedError):
            _ = model.unused.output
        assign(model, 1)
        late = model.parts[3].output
        expected, returned = by_hand(module, dict.fromkeys((0, 1), lambda states: states * 3))
        assert torch.equal(late, returned[3])
        assert torch.equal(model.parts[2].output, returned[2])  # a replay
        assert torch.equal(tracer.result, expected)


# --- edits under inference mode, where tensors have no version counter


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_a_replay_makes_edits_in_place_again_in_every_grad_mode(mode):
    module = Chain()
    model = lw.TracedModel(module)
    with mode():
        _, returned = by_hand(module, {1: lambda states: states * 3})
        with model.trace(X):
            change_in_place(model, 1)
            late = model.parts[3].output
            assert torch.equal(late, returned[3])
            assert torch.equal(model.parts[2].output, returned[2])  # a replay
            assert torch.equal(module.parts[3](model.parts[3].input), late)


# --- random numbers drawn by a model in eval mode


class Noisy(nn.Module):
    """Adds noise between its layers, in eval mode too, if its input is positive."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.parts = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))

    def forward(self, x):
        is_noisy = bool(x.sum() > 0)
        for part in self.parts:
            x = part(x)
            x = x + torch.rand_like(x) if is_noisy else x
        return x


def check_replays_fit(model, module):
    with torch.no_grad(), model.trace(X):
        _ = model.parts[0].output
        torch.rand(3)  # the body draws while the forward waits
        late = model.parts[2].output.clone()
        assert torch.equal(module.parts[2](model.parts[2].input), late)
        given = model.parts[1].input  # passed before the body drew
        assert torch.equal(module.parts[1](given), model.parts[1].output)


@pytest.mark.parametrize("n_traces", [0, 1, 2])
def test_a_model_that_draws_in_eval_mode_draws_the_same_in_a_replay(n_traces):
    module = Noisy().eval()
    model = lw.TracedModel(module)
    for _ in range(n_traces):
        with torch.no_grad(), model.trace(X) as tracer:
            _ = tracer.result
    check_replays_fit(model, module)


def test_a_model_that_draws_for_some_inputs_only_is_noticed_by_its_first_replay():
    module = Noisy().eval()
    model = lw.TracedModel(module)
    with torch.no_grad(), model.trace(-X) as tracer:
        _ = tracer.result  # draws nothing
    with torch.no_grad(), model.trace(X):
        _ = model.parts[2].output
        _ = model.parts[1].output  # a replay
    check_replays_fit(model, module)


# --- skipped blocks


def gpt_neo():
    sizes = {"hidden_size": 32, "num_heads": 2, "vocab_size": 300, "max_position_embeddings": 64}
    return seeded(
        GPTNeoForCausalLM, **sizes, **ENDS, num_layers=4, attention_types=[[["global", "local"], 2]]
    )


def bloom():
    return seeded(BloomForCausalLM, hidden_size=32, n_head=2, vocab_size=300, n_layer=4, **ENDS)


@pytest.mark.parametrize("n_traces", [1, 2])
@pytest.mark.parametrize("make", [gpt2, gpt_neo, bloom])
def test_a_block_skipped_with_a_tensor_returns_as_many_parts_as_it_does_itself(make, n_traces):
    model = language_model(make)
    block = model.hf_model.transformer.h[1]
    seen = []
    handle = block.register_forward_hook(lambda module, args, output: seen.append(output))
    with torch.no_grad():
        model.hf_model(**model.tokenize(PROMPT))
        native = seen[-1]
        for _ in range(n_traces):
            with model.trace(PROMPT):
                given = model.transformer.h[1].input
                model.transformer.h[1].skip(given)
                assert torch.equal(model.transformer.h[2].input, given)
                logits = model.lm_head.output
            skipped = seen[-1]
            assert type(skipped) is type(native)
            if isinstance(native, tuple):
                assert len(skipped) == len(native)
                assert skipped[1:] == (None,) * (len(native) - 1)
            assert logits.shape[-1] == 300
    handle.remove()
