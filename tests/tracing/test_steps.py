"""Generations step by step, and modules that are called several times."""

import pytest
import torch
from tiny import PROMPT, gpt2, language_model, llama, n_hooks
from torch import nn

import lenswidget as lw
from lenswidget.errors import NotReachedError, OutOfOrderError, TraceError

N_TOKENS = 4


@pytest.fixture(scope="module", params=[gpt2, llama], ids=["gpt2", "llama"])
def model(request):
    return language_model(request.param)


def blocks(model):
    return model.transformer.h if hasattr(model.hf_model, "transformer") else model.model.layers


def generated(model, prompt=PROMPT):
    return model.hf_model.generate(
        **model.tokenize(prompt), max_new_tokens=N_TOKENS, do_sample=False, pad_token_id=0
    )


def trace(model, prompt=PROMPT):
    return model.generate(prompt, max_new_tokens=N_TOKENS, do_sample=False, pad_token_id=0)


def test_the_result_is_the_generated_ids(model):
    with trace(model) as tracer:
        assert torch.equal(tracer.result, generated(model))
    assert torch.equal(tracer.result, generated(model))


def test_every_step_gives_its_own_values(model):
    chosen, shapes = [], []
    with trace(model) as tracer:
        for step in tracer.steps:
            shapes.append(tuple(blocks(model)[1].output.shape))
            chosen.append(model.lm_head.output[:, -1].argmax(-1))
            assert step.index == len(chosen) - 1
        assert torch.equal(tracer.result, generated(model))
    n_prompt = model.tokenize(PROMPT)["input_ids"].shape[1]
    assert shapes == [(1, n_prompt, 32), *[(1, 1, 32)] * (N_TOKENS - 1)]
    assert torch.equal(torch.stack(chosen, 1), generated(model)[:, n_prompt:])


def test_an_edit_in_one_step_changes_the_tokens_from_there_on(model):
    wanted = 7
    with trace(model) as tracer:
        for step in tracer.steps:
            if step.index == 2:
                logits = model.lm_head.output
                logits[..., wanted] = 1e3
    n_prompt = model.tokenize(PROMPT)["input_ids"].shape[1]
    with trace(model) as tracer:
        for step in tracer.steps:
            if step.index == 2:
                model.lm_head.output[..., wanted] = 1e3
        result = tracer.result
    plain = generated(model)
    assert torch.equal(result[:, : n_prompt + 2], plain[:, : n_prompt + 2])
    assert result[0, n_prompt + 2] == wanted


def test_a_skip_and_an_assignment_work_in_a_step(model):
    with trace(model) as tracer:
        for step in tracer.steps:
            block = blocks(model)[1]
            if step.index == 1:
                given = block.input
                block.skip(given)
                assert torch.equal(blocks(model)[2].input, given)
            if step.index == 2:
                blocks(model)[2].output = torch.zeros_like(blocks(model)[2].output)
                assert blocks(model)[3].input.abs().sum() == 0
        assert tracer.result.shape[1] > 4


def test_a_block_is_skipped_in_the_first_step_of_a_model_never_seen_before(model):
    fresh = language_model(gpt2 if hasattr(model.hf_model, "transformer") else llama)
    with trace(fresh) as tracer:
        for step in tracer.steps:
            if step.index == 0:
                given = blocks(fresh)[1].input
                blocks(fresh)[1].skip(given)
                assert torch.equal(blocks(fresh)[2].input, given)
        assert tracer.result.shape == generated(fresh).shape


def test_a_step_that_is_left_early_costs_nothing_more(model):
    runs = []
    handle = blocks(model)[3].wrapped.register_forward_pre_hook(lambda *_: runs.append(1))
    with trace(model) as tracer:
        for step in tracer.steps:
            _ = blocks(model)[1].output
            if step.index == 1:
                break
    handle.remove()
    assert len(runs) == 1  # the whole of step 0, and of step 1 only what was asked


def test_what_a_generation_has_passed_is_an_error_and_not_a_replay(model):
    with trace(model) as tracer:
        _ = blocks(model)[2].output
        with pytest.raises(OutOfOrderError, match="not run again"):
            _ = blocks(model)[1].output
        with pytest.raises(OutOfOrderError, match="step 0"):
            blocks(model)[1].output = torch.zeros(1)
        assert tracer.steps[2].index == 2
        with pytest.raises(OutOfOrderError, match="step 1"):
            tracer.steps[1]
        with pytest.raises(IndexError, match="step 9"):
            tracer.steps[9]
        assert torch.equal(tracer.result, generated(model))


def test_a_step_that_a_generation_is_at_may_be_asked_for_again(model):
    with trace(model) as tracer:
        for index in (0, 2):
            assert tracer.steps[index].index == index
            output = blocks(model)[1].output
            assert tracer.steps[index].index == index
            assert blocks(model)[1].output is output
            _ = blocks(model)[3].output  # and it goes on from there
        assert torch.equal(tracer.result, generated(model))


def test_a_module_that_does_not_run_in_a_step_is_named(model):
    model.hf_model.spare = nn.Linear(2, 2)
    try:
        with trace(model) as tracer:
            with pytest.raises(NotReachedError, match=r"spare\.output in step 0"):
                _ = model.spare.output
            assert torch.equal(tracer.result, generated(model))
    finally:
        del model.hf_model.spare


def test_modules_are_called_between_steps_without_disturbing_them(model):
    with trace(model) as tracer:
        for _ in tracer.steps:
            model.lm_head(blocks(model)[0].output)
        assert torch.equal(tracer.result, generated(model))


def test_a_padded_batch_generates_what_each_prompt_generates_alone(model):
    prompts = ["The city of", "Paris, the heart of France", "The"]
    with trace(model, prompts) as tracer:
        together = tracer.result
    for row, prompt in zip(together, prompts, strict=True):
        alone = generated(model, prompt)[0]
        assert torch.equal(row[-N_TOKENS:], alone[-N_TOKENS:])


def test_nothing_stays_behind_after_a_generation(model):
    before = n_hooks(model.hf_model)
    with trace(model) as tracer:
        for _ in tracer.steps:
            break
    tracer = trace(model)

    def fail_in_a_step():
        with tracer:
            for _ in tracer.steps:
                _ = 1 / 0

    with pytest.raises(ZeroDivisionError):
        fail_in_a_step()
    assert n_hooks(model.hf_model) == before
    with pytest.raises(TraceError):
        _ = tracer.result


def test_a_plain_trace_is_one_step(model):
    with model.trace(PROMPT) as tracer:
        seen = [blocks(model)[step.index].output.shape for step in tracer.steps]
    assert len(seen) == 1


# --- modules that run several times in one forward


class Shares(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.shared = nn.Linear(4, 4)
        self.other = nn.Linear(4, 4)

    def forward(self, x):
        for _ in range(3):
            x = torch.tanh(self.shared(x))
        return self.other(x)


def expected_calls(module, x):
    values = []
    for _ in range(3):
        values.append(module.shared(x))
        x = torch.tanh(values[-1])
    return values


@pytest.mark.parametrize("known", [False, True])
def test_calls_of_a_shared_module_are_told_apart(known):
    module = Shares()
    model = lw.TracedModel(module)
    x = torch.ones(1, 4)
    if known:
        with model.trace(x) as tracer:
            _ = tracer.result
    with model.trace(x):
        read = [call.output for call in model.shared.calls]
        assert model.shared.output is read[0]
        assert model.shared.calls[1].output is read[1]
        with pytest.raises(NotReachedError, match="not called that often"):
            _ = model.shared.calls[3].output
        _ = model.other.output
    assert all(torch.equal(a, b) for a, b in zip(read, expected_calls(module, x), strict=True))


def test_one_call_of_a_shared_module_is_edited_or_skipped():
    module = Shares()
    model = lw.TracedModel(module)
    x = torch.ones(1, 4)
    with torch.no_grad(), model.trace(x):
        model.shared.calls[1].output = torch.zeros(1, 4)
        assert torch.equal(model.shared.calls[2].input, torch.zeros(1, 4))
    with torch.no_grad(), model.trace(x):
        model.shared.calls[2].skip(torch.ones(1, 4))
        assert torch.equal(model.other.input, torch.tanh(torch.ones(1, 4)))
