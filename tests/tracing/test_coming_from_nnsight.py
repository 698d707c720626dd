"""What code written for nnsight asks for works, or is answered in a sentence that says what to write."""

import contextlib
import sys

import pytest
import torch
from tiny import PROMPT, Counted, gpt2, language_model, llama, n_hooks, tokenizer
from torch import nn

import lenswidget as lw
from lenswidget.errors import CellError, NotReachedError, OutOfOrderError, TraceError
from lenswidget.tracing.values import BlockOutput


@pytest.fixture(scope="module")
def model():
    return language_model(gpt2)


@pytest.fixture
def counted():
    module = Counted()
    return lw.TracedModel(module), module, torch.ones(2, 8)


def generate(model):
    return model.generate(PROMPT, max_new_tokens=4, do_sample=False, pad_token_id=0)


# --- stop


def test_stop_leaves_the_body_and_keeps_what_was_read(counted):
    model, module, x = counted
    reached = []
    with model.trace(x) as tracer:
        read = model.blocks[1].output
        tracer.stop()
        reached.append("the rest")
    assert reached == []
    assert torch.equal(read, module.blocks[1](torch.tanh(module.blocks[0](module.embed(x)))))
    assert n_hooks(module) == 0
    with model.trace(x) as tracer:
        assert torch.equal(tracer.result, module(x))


def test_stop_passes_except_clauses_loops_and_functions_of_the_body(counted):
    model, module, x = counted

    def stop_below(tracer):
        try:
            tracer.stop()
        except Exception:
            pytest.fail("stop is no error")

    rounds = []
    with contextlib.ExitStack() as stack:
        tracer = stack.enter_context(model.trace(x))
        for block in model.blocks:
            rounds.append(block.output)
            if len(rounds) == 2:
                stop_below(tracer)
    assert len(rounds) == 2
    assert module.runs[2:] == [0] * 4


def test_stop_of_an_outer_trace_leaves_the_inner_one_too(counted, model):
    plain, _, x = counted
    with plain.trace(x) as outer:
        with model.trace(PROMPT):
            outer.stop()
        pytest.fail("the outer body went on")
    assert n_hooks(plain.wrapped) == 0
    with pytest.raises(TraceError, match="none is open"):
        _ = model.lm_head.output


def test_a_generation_is_stopped_in_a_step(model):
    with generate(model) as tracer:
        for step in tracer.steps:
            last = step.index
            if step.index == 1:
                tracer.stop()
    assert last == 1


# --- steps


def test_a_slice_of_steps_is_gone_through(model):
    with generate(model) as tracer:
        seen = [(step.index, model.lm_head.output.clone()) for step in tracer.steps[1:3]]
        seen += [(step.index, model.lm_head.output.clone()) for step in tracer.steps[3:]]
        assert list(tracer.steps[7:]) == []
    with generate(model) as tracer:
        every = [model.lm_head.output.clone() for _ in tracer.steps]
    assert [index for index, _ in seen] == [1, 2, 3]
    assert all(torch.equal(logits, every[index]) for index, logits in seen)
    with generate(model) as tracer:
        assert [step.index for step in tracer.steps[::2]] == [0, 2]


def test_a_second_loop_over_the_steps_says_that_they_are_gone_through_once(model):
    with generate(model) as tracer:
        for _ in tracer.steps:
            pass
        with pytest.raises(OutOfOrderError, match=r"step 0, but the generation has ended.*one loop"):
            list(tracer.steps)
    with generate(model) as tracer:
        _ = tracer.steps[2]
        with pytest.raises(OutOfOrderError, match=r"step 0, but the generation is at step 2.*one loop"):
            list(tracer.steps)
        with pytest.raises(OutOfOrderError, match="step 1"):
            list(tracer.steps[1:])


@pytest.mark.parametrize("index", [-1, slice(-2, None), slice(None, -1), slice(None, None, -1)])
def test_steps_are_not_counted_from_the_end(model, index):
    with generate(model) as tracer, pytest.raises(CellError, match="Count from 0"):
        tracer.steps[index]


def test_the_one_step_of_a_plain_trace_is_gone_through_as_often_as_one_likes(model):
    with model.trace(PROMPT) as tracer:
        for _ in range(2):
            assert [step.index for step in tracer.steps] == [0]
        _ = tracer.result
        assert [step.index for step in tracer.steps[0:5]] == [0]


# --- gradients and .save()


def test_gradients_of_inner_values_come_after_a_plain_backward(model):
    with model.trace(PROMPT):
        states = model.transformer.h[1].output
        states.retain_grad()
        model.lm_head.output.sum().backward()
        gradient = states.grad
    model.hf_model.zero_grad()
    with model.trace(PROMPT):
        states = model.transformer.h[1].output
        (expected,) = torch.autograd.grad(model.lm_head.output.sum(), states)
    assert torch.equal(gradient, expected)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 prints no notes")
def test_a_block_around_backward_says_what_to_write(model):
    def body():
        with model.trace(PROMPT), model.lm_head.output.sum().backward():
            pass

    with pytest.raises(TypeError) as caught:
        body()
    model.hf_model.zero_grad()
    assert "retain_grad()" in caught.value.__notes__[0]


@pytest.mark.parametrize("made", [[], {}, (), 3])
def test_save_on_what_the_body_makes_says_that_it_is_not_needed(counted, made):
    model, _, x = counted
    with pytest.raises(AttributeError) as caught, model.trace(x):
        made.save()
    assert caught.value.__notes__ == [
        "`.save()` is not needed: whatever the body makes is real and stays. Leave it out."
    ]


@pytest.mark.parametrize("name", ["invoke", "iter", "all", "next", "barrier"])
def test_what_a_trace_does_not_offer_is_answered_with_what_to_write(counted, name):
    model, _, x = counted
    with model.trace(x) as tracer, pytest.raises(AttributeError, match=f"'{name}': .*\\.$") as caught:
        getattr(tracer, name)
    if name == "invoke":
        assert "`model.trace([a, b])`" in str(caught.value)
    with model.trace(x) as tracer, pytest.raises(AttributeError, match=r"no attribute 'nonsense'\.$"):
        _ = tracer.nonsense


def test_source_of_a_module_is_answered_and_that_of_a_model_is_a_string_or_none(model):
    with pytest.raises(AttributeError, match=r"cannot be read\. Read the inputs and outputs"):
        _ = model.transformer.h[0].source
    assert model.source is None


# --- cache


def outputs_by_hooks(hf_model, call):
    """What every module returned in each of its calls, by plain hooks."""
    seen, handles = {}, []
    for path, module in hf_model.named_modules():
        handles.append(
            module.register_forward_hook(
                lambda module, args, output, path=path: seen.setdefault(path, []).append(output)
            )
        )
    call()
    for handle in handles:
        handle.remove()
    return seen


def is_equal(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, (tuple, list)):
        return len(a) == len(b) and all(map(is_equal, a, b))
    if isinstance(a, dict):
        return list(a) == list(b) and all(map(is_equal, a.values(), b.values()))
    return type(a) is type(b)


@pytest.mark.parametrize("make", [gpt2, llama])
def test_a_cache_holds_what_every_module_returned(make):
    model = language_model(make)
    with torch.no_grad():
        expected = outputs_by_hooks(model.hf_model, lambda: model.hf_model(**model.tokenize(PROMPT)))
        for _ in range(2):  # never seen before, and known
            with model.trace(PROMPT) as tracer:
                cache = tracer.cache(device="cpu")
            assert set(cache) == set(expected) - {""}
            for path in cache:
                (value,) = expected[path]
                found = cache[path]
                if isinstance(found, BlockOutput):  # the hidden states, which the block may give in a tuple
                    found, value = found[0], value[0] if isinstance(value, tuple) else value
                assert is_equal(found, value)
    assert "lm_head" in cache
    assert cache.get("nonsense") is None
    assert not n_hooks(model.hf_model) - n_hooks(make())


def test_a_cache_sees_the_edits_of_the_body(counted):
    model, module, x = counted
    with torch.no_grad():
        with model.trace(x) as tracer:
            cache = tracer.cache(modules=[model.blocks[0], "blocks.1", "head"])
            model.blocks[0].output = model.blocks[0].output * 2
            model.blocks[1].output.mul_(0)
            with pytest.raises(NotReachedError, match=r"complete when the trace has closed"):
                _ = cache["head"]
        assert list(cache) == ["blocks.0", "blocks.1", "head"]
        assert torch.equal(cache["blocks.0"], module.blocks[0](module.embed(x)) * 2)
        assert torch.equal(cache["blocks.1"], torch.zeros(2, 8))
        changed = torch.zeros(2, 8)
        for block in module.blocks[2:]:
            changed = torch.tanh(block(changed))
        assert torch.equal(cache["head"], module.head(changed))
        assert not cache["head"].requires_grad
    with pytest.raises(NotReachedError, match=r"'embed', which it does not keep"):
        _ = cache["embed"]


def test_a_cache_is_right_after_a_forward_that_was_lost(counted):
    model, module, x = counted
    module.unused = nn.Linear(2, 2)
    with torch.no_grad(), model.trace(x) as tracer:
        cache = tracer.cache()
        _ = model.blocks[0].output
        with pytest.raises(NotReachedError):
            _ = model.unused.output
        model.blocks[1].output = torch.zeros(2, 8)
    assert [len(cache.calls(path)) for path in cache] == [1] * len(cache)
    assert torch.equal(cache["blocks.1"], torch.zeros(2, 8))


def test_a_cache_of_a_generation_holds_every_step(model):
    with generate(model) as tracer:
        cache = tracer.cache(modules=["lm_head"])
        every = [model.lm_head.output.clone() for _ in tracer.steps]
    assert all(torch.equal(a, b) for a, b in zip(cache.calls("lm_head"), every, strict=True))


def test_a_cache_is_bounded_and_asked_for_first(counted):
    model, module, x = counted
    with model.trace(x) as tracer:
        tracer.cache(max_bytes=100)
        with pytest.raises(TraceError, match=r"more than max_bytes=100, after 1 modules"):
            _ = tracer.result
        tracer.stop()
    with model.trace(x) as tracer:
        with pytest.raises(TraceError, match="'nonsense', which Counted does not have"):
            tracer.cache(modules=["nonsense"])
        tracer.cache()
        with pytest.raises(OutOfOrderError, match="first in the body"):
            tracer.cache()
        tracer.stop()
    with model.trace(x) as tracer:
        _ = model.embed.output
        with pytest.raises(OutOfOrderError, match="first in the body"):
            tracer.cache()
    assert n_hooks(module) == 0


# --- rename


def test_a_renamed_module_is_reached_by_both_names():
    model = lw.LanguageModel(gpt2(), tokenizer(), rename={"transformer.h": "blocks", "attn": "mixer"})
    assert model.blocks[1].mixer == model.transformer.h[1].attn
    assert model.get("blocks.1.mixer.c_attn").wrapped is model.hf_model.transformer.h[1].attn.c_attn
    assert model.blocks[1].path == "transformer.h.1"
    assert "blocks" in dir(model)
    assert "mixer" in dir(model.blocks[0])
    assert "mixer" not in dir(model)
    with torch.no_grad(), model.trace(PROMPT) as tracer:
        cache = tracer.cache(modules=["blocks.1", model.blocks[2]])
        output = model.blocks[1].output
        assert output[0].shape == output.shape  # still a block
        assert model.transformer.h[1].output is output
        model.blocks[2].mixer.output = model.blocks[2].mixer.output
    assert list(cache) == ["transformer.h.1", "transformer.h.2"]


def test_errors_name_a_renamed_module_as_the_user_did():
    model = lw.TracedModel(gpt2(), rename={"transformer.h": "blocks"})
    with model.trace(torch.tensor([[1, 2, 3]])):
        _ = model.blocks[2].output
        with pytest.raises(
            OutOfOrderError, match=r"change blocks\.1\.output, .* stands at blocks\.2\.output"
        ):
            model.blocks[1].output = torch.zeros(1, 3, 32)
        with pytest.raises(AttributeError, match="Did you mean 'blocks'"):
            _ = model.block
        with pytest.raises(AttributeError, match=r"Asked to set the model\.blocks"):
            model.blocks = 1
    with pytest.raises(TraceError, match=r"Asked for blocks\.1\.output.*none is open"):
        _ = model.blocks[1].output


@pytest.mark.parametrize(
    ("rename", "said"),
    [
        ({"transformer.hh": "blocks"}, r"no module of that path. Did you mean 'transformer\.h'"),
        ({"transformer.h": "the blocks"}, "no attribute name"),
        ({"transformer.h": "layers"}, "'layers', but that name is taken"),
        ({"attn": "mlp"}, "'mlp', but that name is taken"),
        ({"attn": "part", "mlp": "part"}, "several modules alike"),
    ],
)
def test_a_name_that_cannot_be_given_is_refused(rename, said):
    with pytest.raises(TraceError, match=said):
        lw.LanguageModel(gpt2(), tokenizer(), rename=rename)
