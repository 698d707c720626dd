"""However a trace ends, nothing of it stays; and what went wrong is said where the user stands."""

import asyncio
import contextvars
import gc
import subprocess
import sys
import threading
import traceback
import weakref
from pathlib import Path

import greenlet
import pytest
import torch
from tiny import PROMPT, Counted, gpt2, language_model, n_hooks
from torch import nn

import lenswidget as lw
from lenswidget.errors import PromptError, TraceError
from lenswidget.models.hf_model import forward
from lenswidget.tracing import isolation
from lenswidget.tracing.open_traces import innermost_trace


@pytest.fixture
def counted():
    module = Counted()
    return lw.TracedModel(module), module, torch.ones(2, 8)


@pytest.fixture(scope="module")
def model():
    return language_model(gpt2)


def suspended():
    """The forwards that wait to go on, anywhere in this process."""
    gc.collect()
    alive = [thing for thing in gc.get_objects() if issubclass(type(thing), greenlet.greenlet)]
    # one whose thread has ended counts as dead: nobody can run it, not even to its `finally` blocks
    return [one for one in alive if one and not one.dead and is_forward(one.gr_frame)]


def is_forward(frame):
    """Whether a greenlet runs a forward: a browser's, in the same process, are its own."""
    while frame is not None and frame.f_code.co_filename != forward.__file__:
        frame = frame.f_back
    return frame is not None


# --- ways out


def leave_by_return(model, x):
    with model.trace(x):
        return model.blocks[1].output


def leave_by_break(model, x):
    for _ in range(3):
        with model.trace(x):
            _ = model.blocks[1].output
            break


def leave_by_exception(model, x):
    with pytest.raises(ZeroDivisionError), model.trace(x):
        _ = model.blocks[1].output / (1 // (x.ndim - 2))


def leave_by_interrupt(model, x):
    def body():
        with model.trace(x):
            _ = model.blocks[1].output
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        body()


def leave_by_interrupt_in_the_forward(model, x):
    def interrupt(*_):
        raise KeyboardInterrupt

    handle = model.blocks[2].wrapped.register_forward_pre_hook(interrupt)
    with pytest.raises(KeyboardInterrupt), model.trace(x):
        _ = model.blocks[3].output
    handle.remove()


def leave_by_error_in_the_forward(model, x):
    with pytest.raises(RuntimeError), model.trace(x[:, :3]):
        _ = model.blocks[3].output


def leave_by_generator_closed(model, x):
    def body():
        with model.trace(x):
            yield model.blocks[1].output
            yield model.blocks[2].output

    values = body()
    next(values)
    values.close()


def leave_by_generator_forgotten(model, x):
    def body():
        with model.trace(x):
            yield model.blocks[1].output

    next(body())
    gc.collect()


def leave_by_thread_ended(model, x):
    kept = []

    def body():
        with model.trace(x):
            yield model.blocks[1].output

    def run():
        values = body()
        next(values)
        kept.append(values)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    kept.clear()  # the trace is closed by a thread that did not open it, after that one has ended
    gc.collect()


def leave_by_stop(model, x):
    with model.trace(x) as tracer:
        model.blocks[1].input.add_(0)
        tracer.stop()


def leave_by_task_cancelled(model, x):
    async def body():
        with model.trace(x):
            _ = model.blocks[1].output
            await asyncio.sleep(10)

    async def main():
        task = asyncio.create_task(body())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())


WAYS = [value for name, value in list(globals().items()) if name.startswith("leave_by_")]


@pytest.mark.parametrize("leave", WAYS, ids=lambda way: way.__name__)
def test_nothing_stays_behind(counted, leave):
    model, module, x = counted
    state, hooks = isolation.take(), n_hooks(module)
    attributes = [set(part.__dict__) for part in module.modules()]
    leave(model, x)
    assert n_hooks(module) == hooks
    assert [set(part.__dict__) for part in module.modules()] == attributes
    assert isolation.take() == state
    assert suspended() == []
    assert not hasattr(torch.Tensor, "save")
    with pytest.raises(TraceError, match="none is open"):
        innermost_trace(module, "", "something")
    # and the next trace is clean, on this thread and on another
    with model.trace(x) as tracer:
        assert torch.equal(tracer.result, module(x))
    taken = []
    thread = threading.Thread(target=lambda: taken.append(model.lock.acquire(timeout=2.0)))
    thread.start()
    thread.join()
    assert taken == [True]


@pytest.mark.parametrize("leave", [leave_by_return, leave_by_exception, leave_by_generator_closed])
def test_values_live_no_longer_than_their_user_wants(counted, leave):
    model, module, x = counted
    alive = []
    handle = module.blocks[1].register_forward_hook(lambda m, a, output: alive.append(weakref.ref(output)))
    leave(model, x)
    handle.remove()
    gc.collect()
    assert [ref() for ref in alive] == [None]


def test_values_are_freed_without_the_garbage_collector(counted):
    model, module, x = counted
    alive = []
    handle = module.blocks[1].register_forward_hook(lambda m, a, output: alive.append(weakref.ref(output)))
    gc.collect()
    gc.disable()
    try:
        with torch.no_grad(), model.trace(x):
            _ = model.blocks[4].output
            _ = model.blocks[2].output
        del _
        assert [ref() for ref in alive] == [None, None]
    finally:
        gc.enable()
        handle.remove()


def test_a_trace_that_is_kept_keeps_its_result_and_no_other_value(counted):
    model, module, x = counted
    with torch.no_grad(), model.trace(x) as tracer:
        read = model.blocks[1].output
        model.blocks[2].output = edit = read * 2
        result = tracer.result
    gone = [weakref.ref(value) for value in (read, edit)]
    del read, edit
    assert [value() for value in gone] == [None, None]
    assert tracer.result is result
    assert module not in gc.get_referents(tracer, *gc.get_referents(tracer))


def test_a_trace_that_is_closed_in_another_context_is_not_asked_again(counted):
    model, _, x = counted

    def body():
        with model.trace(x * 2):
            yield model.blocks[0].output

    with model.trace(x):
        inner = body()
        other = next(inner)
        contextvars.copy_context().run(inner.close)
        assert not torch.equal(model.blocks[0].output, other)
    with pytest.raises(TraceError, match="none is open"):
        _ = model.blocks[0].output


def test_an_interrupt_while_a_trace_is_closed_leaves_nothing_behind(counted):
    model, module, x = counted
    before, state = n_hooks(module), isolation.take()
    closing = {"_close", "close", "remove", "forget", "_resume", "to_forward", "to_body"}
    n_lines = 0

    def interrupt_at_line(number):
        nonlocal n_lines
        n_lines = 0

        def on_line(frame, event, _):
            nonlocal n_lines
            if event == "line":
                n_lines += 1
                if n_lines == number:
                    raise KeyboardInterrupt
            return on_line

        def on_call(frame, *_):
            is_ours = Path(frame.f_code.co_filename).parent.name == "tracing"
            return on_line if is_ours and frame.f_code.co_name in closing else None

        with model.trace(x):
            _ = model.blocks[3].output
            model.blocks[4].skip(model.blocks[4].input)
            sys.settrace(on_call)

    last = 0
    while last == 0 or n_lines == last:
        last += 1
        try:
            interrupt_at_line(last)
        except KeyboardInterrupt:
            pass
        finally:
            sys.settrace(None)
        assert n_hooks(module) == before
        assert isolation.take() == state
        assert not hasattr(torch.Tensor, "save")
        with pytest.raises(TraceError, match="none is open"):
            innermost_trace(module, "", "anything")
        is_free = []
        on_a_thread(lambda: is_free.append(model.lock.acquire(timeout=0.01)))  # noqa: B023
        assert is_free == [True]
    assert last > 30
    assert not suspended()


def test_a_model_is_freed_with_its_last_name():
    model = language_model(gpt2)
    with model.trace(PROMPT):
        _ = model.transformer.h[1].output
    module = weakref.ref(model.hf_model.transformer.h[0])
    del model, _
    gc.collect()
    assert module() is None


# --- what is said


# run in a process of its own, without the checks that the tests wrap around every function of the package
SCRIPT = """
import gc, sys, traceback
sys.path.insert(0, "tests/support")
import torch
import lenswidget as lw
from tiny import Counted

model, x = lw.TracedModel(Counted()), torch.ones(2, 8)

def show(body):
    try:
        with model.trace(x):
            body()
    except Exception:
        print(traceback.format_exc(), "=====")

def own():
    _ = 1 / 0

def missing():
    _ = model.blocks[9].output

def late():
    _ = model.blocks[3].output
    model.blocks[1].output = 0

for body in (own, missing, late):
    show(body)

def trace_once(fails):
    try:
        with model.trace(x):
            model.blocks[0].output = model.blocks[0].output * 2
            _ = model.blocks[3].output
            _ = model.blocks[1].output
            if fails:
                raise ValueError
    except ValueError:
        pass

def objects():
    gc.collect()
    return len(gc.get_objects())

for fails in (False, True):
    trace_once(fails)
    before = objects()
    for _ in range(1000):
        trace_once(fails)
    print(objects() - before, "=====")

x = torch.ones(2, 3)
def wrong_in_the_forward():
    _ = model.blocks[2].output
show(wrong_in_the_forward)
"""


@pytest.fixture(scope="module")
def script():
    """What each part of the script printed."""
    ended = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    return dict(
        zip(
            ["own", "missing", "late", "flat", "flat with errors", "forward"],
            ended.stdout.split("====="),
            strict=False,
        )
    )


def frames(text):
    return [line.strip() for line in text.splitlines() if line.strip().startswith("File ")]


def test_a_traceback_shows_the_users_lines_and_none_of_the_kernel(script):
    for name, error in {
        "own": "ZeroDivisionError",
        "missing": "IndexError",
        "late": "OutOfOrderError",
    }.items():
        assert [frame.rpartition(" ")[2] for frame in frames(script[name])] == ["show", name]
        assert error in script[name]


def test_an_error_of_the_forward_shows_the_users_line_then_the_models(script):
    found = frames(script["forward"])
    assert found[1].endswith("in wrong_in_the_forward")
    assert not any("lenswidget" in frame for frame in found)
    assert any("tiny.py" in frame for frame in found[2:])
    assert "in the forward of embed (Linear)" in script["forward"]


@pytest.mark.parametrize("name", ["flat", "flat with errors"])
def test_a_thousand_traces_hold_memory_flat(script, name):
    assert abs(int(script[name])) < 50


def wrong_shape(model):
    model.transformer.h[1].output = torch.zeros(1, 2)


def wrong_shape_of_a_site(model):
    model.layers[1].resid_post = torch.zeros(1, 2)


def wrong_shape_between_attention_and_mlp(model):
    model.layers[1].resid_mid = torch.zeros(1, 2)


def wrong_shape_of_a_part(model):
    model.layers[1].mlp_out = torch.zeros(1, 2)


def wrong_shape_of_the_embedding(model):
    model.layers.embed = torch.zeros(1, 2)


def late_write(model):
    _ = model.lm_head.output
    model.layers[0].resid_post = torch.zeros(1, 2)


def misspelt_write(model):
    model.lm_head.outptu = 0


def misspelt_read(model):
    _ = model.transformer.hh


def no_such_layer(model):
    _ = model.layers[99].resid_post


def no_such_part(model):
    _ = model.transformer.h[1].output[7]


def never_called(model):
    _ = model.transformer.h[1].mlp.calls[3].output


MISTAKES = [
    wrong_shape,
    wrong_shape_of_a_site,
    wrong_shape_between_attention_and_mlp,
    wrong_shape_of_a_part,
    wrong_shape_of_the_embedding,
    late_write,
    misspelt_write,
    misspelt_read,
    no_such_layer,
    no_such_part,
    never_called,
]


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.__name__)
def test_the_traceback_of_a_mistake_ends_at_the_users_own_line(model, mistake):
    with pytest.raises((lw.errors.LensError, AttributeError, IndexError)) as caught, model.trace(PROMPT):
        mistake(model)
    frames = traceback.extract_tb(caught.value.__traceback__)
    assert [frame.filename for frame in frames] == [__file__, __file__]
    assert frames[-1].name == mistake.__name__


def test_an_error_in_the_forward_names_the_innermost_module(model):
    def fail(*_):
        raise ValueError("wrong")

    mlp = model.hf_model.transformer.h[2].mlp
    mlp.act.forward = fail
    with pytest.raises(ValueError, match="wrong") as caught, model.trace(PROMPT):
        _ = model.lm_head.output
    del mlp.act.forward
    assert caught.value.__notes__ == [
        "in the forward of transformer.h.2.mlp.act (" + type(mlp.act).__name__ + ")"
    ]


def test_the_body_may_catch_an_error_of_the_forward_and_go_on(counted):
    model, module, x = counted
    fails = [True]

    def fail_once(*_):
        if fails:
            fails.pop()
            raise ValueError("once")

    module.blocks[3].register_forward_pre_hook(fail_once)
    with model.trace(x) as tracer:
        _ = model.blocks[1].output
        with pytest.raises(ValueError, match="once"):
            _ = model.blocks[4].output
        assert torch.equal(tracer.result, module(x))


def test_mistakes_are_said_in_one_sentence(counted, model):
    plain, _, x = counted
    with pytest.raises(TraceError, match="no input"):
        plain.trace()
    with pytest.raises(PromptError, match="No prompt"):
        model.trace()
    with pytest.raises(PromptError, match="Give a list"):
        model.trace("one", "two")
    tracer = plain.trace(x)
    with tracer, pytest.raises(TraceError, match="entered before"):
        tracer.__enter__()
    with pytest.raises(TraceError, match="entered before"), tracer:
        pass
    with pytest.raises(TraceError, match="none is open"):
        _ = plain.blocks[0].output
    with plain.trace(x), pytest.raises(TraceError, match=r"of another model \(Counted\)"):
        _ = model.transformer.output
    with pytest.raises(TraceError, match="is not open"):
        _ = tracer.result
    with plain.trace(x), pytest.raises(AttributeError, match="Did you mean 'blocks'"):
        _ = plain.block
    with pytest.raises(AttributeError):
        plain.blocks[0].outputs = x


# --- threads


def test_two_threads_on_one_model_do_not_cross(model):
    prompts = ["The city of", "Paris, the heart of France", "The Eiffel", "is in"]
    expected = [model.hf_model(**model.tokenize(prompt)).logits for prompt in prompts]
    found = {}

    def run(index):
        with model.trace(prompts[index]):
            states = model.transformer.h[1].output
            other = model.transformer.h[2].output
            found[index] = (model.lm_head.output, states.shape, other.shape)

    threads = [threading.Thread(target=run, args=(index,)) for index in range(4) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(found[index][0], expected[index]) for index in range(4))


def test_a_second_thread_waits_for_the_trace_that_is_open(counted):
    model, _, x = counted
    order = []

    def other():
        with model.trace(x):
            order.append("second")

    thread = threading.Thread(target=other)
    with model.trace(x):
        thread.start()
        thread.join(0.2)
        assert thread.is_alive()
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


def on_a_thread(function):
    caught = []

    def run():
        try:
            function()
        except Exception as error:
            caught.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return caught


def test_a_read_on_another_thread_than_the_traces_is_refused(counted):
    model, _, x = counted
    with model.trace(x):
        context = contextvars.copy_context()
        (error,) = on_a_thread(lambda: context.run(lambda: model.blocks[1].output))
        assert isinstance(error, TraceError)
        assert "opened on another" in str(error)
        assert model.blocks[1].output.shape == (2, 8)


def test_a_module_that_runs_on_another_thread_than_the_forward_says_so():
    class Threaded(nn.Module):
        def __init__(self):
            super().__init__()
            self.part = nn.Linear(2, 2)
            self.errors = []

        def forward(self, x):
            self.errors = on_a_thread(lambda: self.part(x))
            return x

    model = lw.TracedModel(Threaded())
    with model.trace(torch.ones(1, 2)) as tracer:
        with pytest.raises(TraceError, match="does not run in this forward"):
            _ = model.part.output
        _ = tracer.result
    assert model.wrapped.errors == []
    with model.trace(torch.ones(1, 2)):
        caught = on_a_thread(lambda: model.wrapped.part(torch.ones(1, 2)))
    assert caught == []  # nothing was asked of it


def test_the_traceback_of_a_body_error_is_not_lengthened(counted):
    model, _, x = counted

    def body():
        with model.trace(x):
            _ = model.blocks[1].output
            return {}["missing"]

    with pytest.raises(KeyError) as caught:
        body()
    assert len(traceback.extract_tb(caught.value.__traceback__)) == 2  # this test, and body
