"""What a trace costs over the bare forward, beside plain hooks and nnsight, in one process.

    pip install nnsight==0.8.1   # optional: without it, its column is left out
    OMP_NUM_THREADS=1 python benchmarks/tracing.py

Each figure is the median over rounds in which every contender runs once, in an order that changes from
round to round, so that a slow moment of the machine falls on all of them alike.
"""

import argparse
import random
import statistics
import time
from collections.abc import Callable

import torch
from greenlet import GreenletExit, getcurrent, greenlet
from transformers import GPT2Config, GPT2LMHeadModel

import lenswidget as lw

try:
    import nnsight
except ImportError:
    nnsight = None


def medians(contenders: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each contender over interleaved rounds."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    names = list(contenders)
    for index in range(rounds + 3):
        random.shuffle(names)
        for name in names:
            start = time.process_time()
            contenders[name]()
            if index >= 3:  # the first rounds warm caches and learn the order of the modules
                times[name].append(time.process_time() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def hooked(module, blocks, ids):
    """One forward with a plain hook on each of some blocks; what they returned."""
    kept = []
    handles = [block.register_forward_hook(lambda m, args, output: kept.append(output)) for block in blocks]
    try:
        module(ids)
    finally:
        for handle in handles:
            handle.remove()
    return kept


def traced(model, blocks, ids, *, whole):
    """One trace that reads some blocks, and the model's own output where the whole forward is wanted."""
    with model.trace(ids) as tracer:
        kept = [block.output for block in blocks]
        if whole:
            _ = tracer.result
    return kept


def nnsight_traced(model, blocks, ids):
    with model.trace(ids):
        kept = nnsight.save([block.output for block in blocks])
    return kept  # noqa: RET504  (nnsight takes the body's source: a return in it would never run)


def coroutine(module, part, ids, *, whole):
    """The least that a forward beside the body can cost: a bare greenlet and one plain hook that switches."""
    body = getcurrent()
    handle = part.register_forward_hook(lambda m, args, output: body.switch(output))
    forward = greenlet(module)
    try:
        kept = forward.switch(ids)
        if whole:
            forward.switch()
    finally:
        handle.remove()
        forward.throw(GreenletExit)
    return kept


def report(title: str, times: dict[str, float], bare: str = "bare forward") -> None:
    print(f"\n{title}")
    for name, seconds in times.items():
        added_us = (seconds - times[bare]) * 1e6
        print(
            f"  {name:34s} {seconds * 1e3:9.3f} ms  {seconds / times[bare]:6.3f} x bare  {added_us:+9.0f} us"
        )


def overhead(rounds: int) -> None:
    """A tiny GPT-2 of 12 layers, where the forward is a few milliseconds and the overhead shows."""
    torch.manual_seed(0)
    hf_model = GPT2LMHeadModel(GPT2Config(n_layer=12, n_embd=64, n_head=4, vocab_size=1000)).eval()
    ids = torch.arange(8)[None]
    ours = lw.TracedModel(hf_model)
    last = hf_model.transformer.h[-1]
    one, every = [ours.transformer.h[-1]], list(ours.transformer.h)
    contenders = {
        "bare forward": lambda: hf_model(ids),
        "plain hook, one block": lambda: hooked(hf_model, [last], ids),
        "trace, one block, to the end": lambda: traced(ours, one, ids, whole=True),
        "plain hooks, 12 blocks": lambda: hooked(hf_model, list(hf_model.transformer.h), ids),
        "trace, 12 blocks, to the end": lambda: traced(ours, every, ids, whole=True),
        "trace, last block, no further": lambda: traced(ours, one, ids, whole=False),
        "trace, first block, no further": lambda: traced(ours, every[:1], ids, whole=False),
    }
    report("Tiny GPT-2, 12 layers, 8 tokens", medians(contenders, rounds))
    one_value(hf_model, ours, ids, rounds)


def one_value(hf_model, ours, ids, rounds: int) -> None:
    """What reading one value adds: the output of the last module, so that none stops short of the others."""
    head = hf_model.lm_head
    contenders = {
        "bare forward": lambda: hf_model(ids),
        "plain hook": lambda: hooked(hf_model, [head], ids),
        "bare coroutine, to the end": lambda: coroutine(hf_model, head, ids, whole=True),
        "bare coroutine, no further": lambda: coroutine(hf_model, head, ids, whole=False),
        "trace, to the end": lambda: traced(ours, [ours.lm_head], ids, whole=True),
        "trace, no further": lambda: traced(ours, [ours.lm_head], ids, whole=False),
    }
    if nnsight is not None:
        # a second copy: wrapping slows a model's forward for everyone
        theirs = nnsight.NNsight(GPT2LMHeadModel(hf_model.config).eval())
        contenders["nnsight"] = lambda: nnsight_traced(theirs, [theirs.lm_head], ids)
        contenders["nnsight, 12 blocks"] = lambda: nnsight_traced(theirs, list(theirs.transformer.h), ids)
    times = medians(contenders, rounds)
    report("One value, of the last module, from the same model", times)
    added = {name: seconds - times["bare forward"] for name, seconds in times.items()}
    for name in list(contenders)[2:6]:
        to_hook = f"{added[name] / added['plain hook']:.1f} x a plain hook's (target for a trace: at most 2)"
        to_nnsight = f", {added[name] / added['nnsight']:.2f} x nnsight's (at most 0.25)" if nnsight else ""
        print(f"  {name} adds {to_hook}{to_nnsight}")


def real_model(rounds: int) -> None:
    """SmolLM2 at 128 tokens: reading every block, and only the first."""
    model = lw.demo_model()
    hf_model = model.hf_model
    ids = torch.randint(0, 49152, (1, 128), generator=torch.Generator().manual_seed(0))
    blocks = list(model.model.layers)
    contenders = {
        "bare forward": lambda: hf_model(ids),
        "plain hooks, 30 blocks": lambda: hooked(hf_model, list(hf_model.model.layers), ids),
        "trace, 30 blocks, to the end": lambda: traced(model, blocks, ids, whole=True),
        "trace, 30 blocks, no further": lambda: traced(model, blocks, ids, whole=False),
        "trace, block 0, no further": lambda: traced(model, blocks[:1], ids, whole=False),
    }
    times = medians(contenders, rounds)
    report("SmolLM2-135M, 30 layers, 128 tokens", times)
    bare = times["bare forward"]
    print(f"  every block: {times['trace, 30 blocks, to the end'] / bare:.3f} x bare (target: at most 1.03)")
    print(f"  block 0:     {times['trace, block 0, no further'] / bare:.3f} x bare (target: at most 0.10)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=300, help="of the tiny model; the real one has a tenth")
    parser.add_argument("--no-real-model", action="store_true")
    options = parser.parse_args()
    version = getattr(nnsight, "__version__", "absent")
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, nnsight {version}")
    with torch.no_grad():
        overhead(options.rounds)
        if not options.no_real_model:
            real_model(max(5, options.rounds // 10))


if __name__ == "__main__":
    main()
