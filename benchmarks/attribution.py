"""Attribution of one cell beside TransformerLens: `.venv-peers/bin/python benchmarks/attribution.py`.

All in one process, with torch's own number of threads, on SmolLM2 at 128 tokens, the last layer's last cell:

- by part: `model.run` and `lw.attribute`, beside `run_with_cache`, `decompose_resid` and `logit_attrs`;
- by head: the same with `by="head"`, beside `stack_head_results` and `logit_attrs`;
- extra memory at 512 tokens: the most that each holds above the loaded model, in a process of its own;
- term by term, on tiny GPT-2 and Llama shapes: the largest difference from theirs.

Ours gives beside each term what the logit loses without it; theirs does not. Prints seconds of CPU time,
which a busy machine moves less than the clock, and the median of each round's ratio; beside it, what share of
theirs our run alone takes, and the model's own forward that gives only the last logits: no attribution that
includes a run is faster.
"""

import argparse
import copy
import multiprocessing
import platform
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers as hf

import lenswidget as lw

TOKEN, N_ROUNDS = 400, 7


def seconds(tasks: dict[str, Callable[[], Any]]) -> dict[str, list[float]]:
    """The CPU time of each task in each round, in turns, after one round that is not counted."""
    times: dict[str, list[float]] = {name: [] for name in tasks}
    for turn in range(N_ROUNDS + 1):
        for name, task in tasks.items():
            start = time.process_time()
            task()
            if turn:
                times[name].append(time.process_time() - start)
    return times


def ids_of(n_tokens: int, d_vocab: int) -> torch.Tensor:
    return torch.tensor([[(7919 * i + 11) % (d_vocab - 8) + 4 for i in range(n_tokens)]])


def bridge(hf_model: Any, folder: str) -> Any:
    """TransformerLens on the same weights, its own products untouched."""
    from transformer_lens.model_bridge import TransformerBridge

    tokenizer = lw.demo_model().tokenizer
    hf_model = copy.deepcopy(hf_model)
    hf_model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    found = TransformerBridge.boot_transformers(folder, hf_model=hf_model, tokenizer=tokenizer, device="cpu")
    found.cfg.use_attn_result = True
    return found


def ours(model: Any, ids: torch.Tensor, by: str, *, is_measured: bool = True) -> Any:
    run = model.run(ids)
    return lw.attribute(run, run.n_layers - 1, run.seq - 1, token=TOKEN, by=by, is_measured=is_measured)


def theirs(model: Any, ids: torch.Tensor, by: str) -> np.ndarray:
    with torch.no_grad():
        _, cache = model.run_with_cache(ids)
        if by == "part":
            stack = cache.decompose_resid(layer=-1, pos_slice=-1)
        else:
            stack = cache.stack_head_results(layer=-1, pos_slice=-1)
        return cache.logit_attrs(stack, tokens=torch.tensor([TOKEN]), pos_slice=-1).squeeze().numpy()


def forward(model: Any, ids: torch.Tensor) -> Any:
    with torch.no_grad():
        return model.hf_model(input_ids=ids, use_cache=False, logits_to_keep=1)


def timings(n_tokens: int) -> None:
    demo = lw.demo_model()
    ids = ids_of(n_tokens, 49152)
    _ = demo.anatomy.units  # found once for a model
    with tempfile.TemporaryDirectory() as folder:
        peer = bridge(demo.hf_model, folder)
        for by in ("part", "head"):
            times = seconds(
                {
                    "ours": lambda by=by: ours(demo, ids, by),
                    "ours, unmeasured": lambda by=by: ours(demo, ids, by, is_measured=False),
                    "theirs": lambda by=by: theirs(peer, ids, by),
                    "our run": lambda: demo.run(ids),
                    "bare forward": lambda: forward(demo, ids),
                }
            )
            told = ", ".join(f"{name} {statistics.median(each):.3f} s" for name, each in times.items())
            ratios = {
                name: statistics.median(a / b for a, b in zip(times[name], times["theirs"], strict=True))
                for name in ("ours", "our run", "bare forward")
            }
            shares = ", ".join(f"{name} {ratio:.2f}" for name, ratio in ratios.items())
            print(f"by {by}, {n_tokens} tokens: {told}; of theirs: {shares}")


def agreement() -> None:
    """Term by term on tiny models. Theirs leaves biases out and, as ours, holds the norm at its scale."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 600}
    gpt2 = hf.GPT2Config(n_layer=4, n_embd=64, n_head=4, n_positions=64, **sizes)
    llama = hf.LlamaConfig(
        num_hidden_layers=4,
        hidden_size=64,
        intermediate_size=128,
        num_attention_heads=4,
        num_key_value_heads=2,
        **sizes,
    )
    for name, make, config in (
        ("GPT-2", hf.GPT2LMHeadModel, gpt2),
        ("Llama", hf.LlamaForCausalLM, llama),
    ):
        hf_model = make(config).eval()
        with torch.no_grad():
            for parameter in hf_model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.05)
            # theirs leaves the final norm's weight out of the terms unless it is folded into the unembed
            norm = hf_model.transformer.ln_f if name == "GPT-2" else hf_model.model.norm
            norm.weight.fill_(1.0)
        ids = ids_of(9, 600)
        with tempfile.TemporaryDirectory() as folder:
            peer = bridge(hf_model, folder)
            by_part, by_head = theirs(peer, ids, "part"), theirs(peer, ids, "head")
        model = lw.LanguageModel(hf_model)
        parts, heads = ours(model, ids, "part"), ours(model, ids, "head")
        # theirs tells token and position embeddings apart
        mine = [p for p, kind in zip(parts.predicted, parts.kinds, strict=True) if kind in ("attn", "mlp")]
        gap = np.abs(np.array(mine) - by_part[-len(mine) :]).max()
        mine = [p for p, kind in zip(heads.predicted, heads.kinds, strict=True) if kind == "head"]
        gap_heads = np.abs(np.array(mine) - by_head[: len(mine)]).max()
        print(f"tiny {name}: largest difference of a part {gap:.1e}, of a head {gap_heads:.1e}")


def _memory(who: str, by: str, n_tokens: int, queue: Any) -> None:
    demo = lw.demo_model()
    ids = ids_of(n_tokens, 49152)
    with tempfile.TemporaryDirectory() as folder:
        task: Callable[[], Any] = lambda: ours(demo, ids, by)  # noqa: E731
        if who == "theirs":
            peer = bridge(demo.hf_model, folder)
            task = lambda: theirs(peer, ids, by)  # noqa: E731
        else:
            _ = demo.anatomy.units
            demo.run(ids[:, :8])
        status = Path("/proc/self/status")
        most, done = [0], threading.Event()

        def watch() -> None:
            while not done.is_set():
                resident = next(line for line in status.read_text().splitlines() if line.startswith("VmRSS"))
                most[0] = max(most[0], int(resident.split()[1]))
                time.sleep(0.005)

        before = int(
            next(line for line in status.read_text().splitlines() if line.startswith("VmRSS")).split()[1]
        )
        thread = threading.Thread(target=watch)
        thread.start()
        task()
        done.set()
        thread.join()
        queue.put((most[0] - before) / 1024)


def memory(n_tokens: int) -> None:
    context = multiprocessing.get_context("spawn")
    for by in ("part", "head"):
        told: list[str] = []
        for who in ("ours", "theirs"):
            queue = context.Queue()
            process = context.Process(target=_memory, args=(who, by, n_tokens, queue))
            process.start()
            told.append(f"{who} {queue.get():.0f} MiB")
            process.join()
        print(f"extra memory by {by} at {n_tokens} tokens: {', '.join(told)}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=("agreement", "timings", "memory"))
    only = parser.parse_args().only
    print(platform.processor() or platform.machine(), torch.get_num_threads(), "threads")
    if only in (None, "agreement"):
        agreement()
    if only in (None, "timings"):
        timings(128)
    if only in (None, "memory"):
        memory(512)
