"""Where a trace works: wherever Python does."""

import asyncio
import code
import contextlib
import functools
import io
import pdb
import sys
import warnings

import pytest
import torch
from IPython.core.interactiveshell import InteractiveShell
from tiny import PROMPT, Counted, gpt2, language_model, n_hooks

import lenswidget as lw

X = torch.ones(2, 8)
BODY = """
with model.trace(x) as tracer:
    a = model.blocks[1].output
    b = model.head.output
"""


@pytest.fixture
def names():
    module = Counted()
    return {"model": lw.TracedModel(module), "x": X, "expected": module(X)}


def is_right(names):
    return torch.equal(names["b"], names["expected"]) and names["a"].shape == (2, 8)


def test_in_exec_of_a_string(names):
    exec(BODY, names)
    assert is_right(names)


def test_in_a_function_and_a_class_body(names):
    model, x = names["model"], names["x"]

    def function():
        with model.trace(x):
            return model.head.output

    class Body:
        with model.trace(x):
            b = model.head.output

    assert torch.equal(function(), names["expected"])
    assert torch.equal(Body.b, names["expected"])


def test_in_a_comprehension_and_a_lambda(names):
    model = names["model"]
    with model.trace(X):
        read = [module.output for module in model.blocks]
        last = (lambda: model.head.output)()
    assert len(read) == 6
    assert torch.equal(last, names["expected"])


@pytest.mark.parametrize("magic", ["", "%%time\n", "%%capture\n"])
def test_in_a_notebook_cell(names, magic):
    shell = InteractiveShell()
    shell.user_ns.update(names)
    result = shell.run_cell(magic + BODY)
    result.raise_error()
    assert is_right(shell.user_ns)


def test_in_a_repl(names):
    """`python -c` is what `test_tracing_cleanup` runs its script with."""
    repl = code.InteractiveConsole(names)
    for line in [*BODY.splitlines(), ""]:
        repl.push(line)
    assert is_right(names)


def test_in_tasks_that_take_turns():
    model = lw.TracedModel(Counted())
    inputs = [torch.full((1, 8), float(i)) for i in range(3)]

    async def one(x):
        with model.trace(x):
            early = model.blocks[0].output
            await asyncio.sleep(0)
            late = model.head.output
            await asyncio.sleep(0)
            return early, late

    async def main():
        return await asyncio.gather(*[one(x) for x in inputs])

    for x, (early, late) in zip(inputs, asyncio.run(main()), strict=True):
        assert torch.equal(late, model.wrapped(x))
        assert torch.equal(early, model.wrapped.blocks[0](model.wrapped.embed(x)))
    assert n_hooks(model.wrapped) == 0


def test_under_pdb(names):
    commands = io.StringIO("next\nnext\nnext\np a.shape\ncontinue\n")
    printed = io.StringIO()
    debugger = pdb.Pdb(stdin=commands, stdout=printed, nosigint=True, readrc=False)
    debugger.use_rawinput = False
    debugger.run(BODY, names)
    sys.settrace(None)
    assert is_right(names)
    assert "torch.Size([2, 8])" in printed.getvalue()


def test_inside_a_generator_that_hands_values_out(names):
    model = names["model"]

    def values():
        with model.trace(X):
            for block in model.blocks:
                yield block.output
            yield model.head.output

    assert torch.equal(list(values())[-1], names["expected"])


def test_under_functools_cache_and_an_exit_stack(names):
    model = names["model"]

    @functools.cache
    def read(index):
        with contextlib.ExitStack() as stack:
            stack.enter_context(model.trace(X))
            return model.blocks[index].output

    assert read(2) is read(2)


# --- compiled models


@pytest.fixture(scope="module")
def eager():
    """Compiles without a compiler: what matters here is that dynamo runs the frames."""
    yield "eager"
    torch.compiler.reset()


@pytest.mark.parametrize("how", ["the whole", "in place", "its parts", "its forward"])
def test_a_compiled_model_gives_its_own_values(how, eager):
    hf_model = gpt2(n_layer=2)
    plain = language_model(lambda: hf_model)
    with torch.no_grad():
        with plain.trace(PROMPT):
            expected = plain.transformer.h[0].output.clone(), plain.lm_head.output
        if how == "the whole":
            model = lw.LanguageModel(torch.compile(hf_model, backend=eager), plain.tokenizer)
        else:
            model = plain
            if how == "in place":
                hf_model.compile(backend=eager)
            elif how == "its parts":
                for block in hf_model.transformer.h:
                    block.compile(backend=eager)
            else:
                hf_model.forward = torch.compile(hf_model.forward, backend=eager)
        for _ in range(2):
            model.hf_model(**plain.tokenize(PROMPT))  # compiled before it is traced
            with model.trace(PROMPT) as tracer:
                states = model.transformer.h[0].output
                logits = model.lm_head.output
                compiled = torch.compile(lambda x: x + 1, backend=eager)(
                    states
                )  # the body compiles as it likes
                _ = tracer.result
            assert torch.allclose(states, expected[0], atol=1e-5)
            assert torch.allclose(logits, expected[1], atol=1e-5)
            assert torch.equal(compiled, states + 1)
            with model.trace(PROMPT):
                model.transformer.h[0].output = torch.zeros_like(states)
                assert not torch.allclose(model.lm_head.output, expected[1], atol=1e-3)


# --- models spread by accelerate


@pytest.mark.parametrize("where", ["cpu", "disk"])
def test_an_offloaded_model_gives_what_it_gives_in_memory(where, tmp_path):
    from accelerate import cpu_offload, disk_offload

    plain, offloaded = language_model(gpt2), language_model(gpt2)
    if where == "cpu":
        cpu_offload(offloaded.hf_model, execution_device="cpu")
    else:
        disk_offload(offloaded.hf_model, offload_dir=str(tmp_path), execution_device="cpu")
    read = []
    for model in (plain, offloaded):
        before = n_hooks(model.hf_model)
        with torch.no_grad():
            with model.trace(PROMPT):
                inside = model.transformer.h[1].mlp.c_fc.output
                late = model.transformer.h[2].output
                lens = model.lm_head(model.transformer.ln_f(late))  # out of order, while the forward waits
                again = model.transformer.h[1].mlp(inside[..., :32])
                logits = model.lm_head.output
                early = model.transformer.h[0].output  # a replay
            with model.trace(PROMPT):
                block = model.transformer.h[1]
                block.skip(block.input)
                skipped = model.lm_head.output
            with warnings.catch_warnings():
                # before 5.0, transformers is surprised that an offloaded model's weights are on no device
                warnings.filterwarnings("ignore", "You are calling .generate", UserWarning)
                with model.generate(PROMPT, max_new_tokens=2, do_sample=False, pad_token_id=0) as tracer:
                    ids = tracer.result
        assert n_hooks(model.hf_model) == before
        read.append((inside, late, lens, again, logits, early, skipped, ids))
    assert all(torch.equal(a, b) for a, b in zip(*read, strict=True))
