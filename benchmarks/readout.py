"""Readouts against the bare forward and matrix product, and against peers, in one process.

    make bench-peers            # all parts, in an environment of its own with the peers
    make bench-peers BENCH_ARGS="--only grid --tokens 11"

Contestants take turns on one set of weights, round after round, and the least time of each is kept, so that
a busy machine is busy for all. Ratios are of processor time with --clock cpu, else of time on the wall.
"""

import argparse
import contextlib
import ctypes
import gc
import io
import os
import tempfile
import time
import warnings
from pathlib import Path

import torch
from readout_peers import PEERS
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel

from lenswidget.demo import demo_folder
from lenswidget.language_model import LanguageModel
from lenswidget.readout.cells import Cells
from lenswidget.readout.local_engine import LocalEngine
from lenswidget.readout.reading import read

TILE = 128


def load(name):
    """A model's folder: SmolLM2, or GPT-2 small with random weights (and any tokenizer that loads)."""
    if name == "smollm2":
        return demo_folder()
    folder = Path(tempfile.mkdtemp(prefix="gpt2-random-"))
    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config(n_positions=4096)).save_pretrained(folder)
    AutoTokenizer.from_pretrained(demo_folder()).save_pretrained(folder)
    return folder


def fresh(folder):
    with contextlib.redirect_stderr(io.StringIO()):
        return AutoModelForCausalLM.from_pretrained(folder).eval()


def prompt_of(n_tokens):
    return torch.randint(1000, 40000, (n_tokens,), generator=torch.Generator().manual_seed(0))


class Bare:
    """What no readout can do without: the forward, and the unembed's float32 product for every cell."""

    def __init__(self, hf_model):
        self.hf_model = hf_model
        self.weight = hf_model.lm_head.weight.detach()
        self.buffer = torch.empty(TILE, len(self.weight))

    @torch.no_grad()
    def forward(self, ids):
        return self.hf_model(ids[None])

    def product(self, n_cells):
        states = torch.ones(min(TILE, n_cells), self.weight.shape[1])
        for start in range(0, n_cells, TILE):
            n = min(TILE, n_cells - start)
            torch.mm(states[:n], self.weight.T, out=self.buffer[:n])

    def row(self):
        return torch.mv(self.weight, self.weight[0])


def rounds(contestants, asked, most=40):
    """The least time of each, over rounds in which all take turns, in milliseconds."""
    best = dict.fromkeys(contestants, float("inf"))
    for function in contestants.values():
        function()  # once, unseen: caches fill, kernels are chosen
    began, n = time.perf_counter(), 0
    while n < asked.least or (n < most and time.perf_counter() - began < asked.seconds):
        for name, function in contestants.items():
            started = asked.clock()
            function()
            best[name] = min(best[name], asked.clock() - started)
        n += 1
    return {name: 1e3 * best[name] for name in best}


def grid(folder, name, asked):
    """Prompt to top-5, log-probs and entropy of every cell, beside the same from each peer."""
    hf_model = fresh(folder)
    engine, bare = LocalEngine(LanguageModel(hf_model)), Bare(hf_model)
    peers = {}
    for peer in asked.peers:
        try:
            peers[peer] = PEERS[peer](fresh(folder), folder)
        except ImportError:
            print(f"{peer}: not installed here")
    for n_tokens in asked.tokens:
        ids = prompt_of(n_tokens)
        n_cells = (engine.model.anatomy.n_layers + 1) * n_tokens
        contestants = {
            "forward": lambda ids=ids: bare.forward(ids),
            "product": lambda n=n_cells: bare.product(n),
            "lenswidget": lambda ids=ids: read(engine.run(ids), k=5),
        }
        for peer, function in peers.items():
            contestants[peer] = lambda ids=ids, function=function: function(ids)
        ms = rounds(contestants, asked)
        floor = ms["forward"] + ms["product"]
        cells = " | ".join(f"{ms[one]:.0f} ({ms['lenswidget'] / ms[one]:.2f})" for one in peers)
        print(
            f"| {name}, {n_tokens} | {ms['forward']:.0f} | {ms['product']:.0f} | {ms['lenswidget']:.0f} | "
            f"**{ms['lenswidget'] / floor:.2f}** | {cells} |",
            flush=True,
        )


def cell(folder, name, asked):
    """One cell again, k=50, with entropy and the ranks of 50 ids: against one row's product."""
    hf_model = fresh(folder)
    engine, bare = LocalEngine(LanguageModel(hf_model)), Bare(hf_model)
    run = engine.run(prompt_of(16))
    one, two = Cells([5], [7]), Cells([5, 4], [7, 7])
    ids = read(run, one, k=50).ids[0].tolist()
    contestants = {
        "row": bare.row,
        "k=50, entropy": lambda: read(run, one, k=50),
        "and 50 ranks": lambda: read(run, one, k=50, track=ids),
        "two cells": lambda: read(run, two, k=50, track=ids),
    }
    ms = rounds(contestants, asked, most=400)
    allowed = 1.3 * ms["row"] + 1
    found = " | ".join(f"{ms[one]:.2f}" for one in contestants)
    print(f"| {name} | {found} | {allowed:.2f} |", flush=True)


def memory(folder, name, asked):
    """Peak memory over the loaded model, MiB: streams, packed weight and results included."""
    hf_model = fresh(folder)
    ids = prompt_of(512)
    engine = LocalEngine(LanguageModel(hf_model))
    engine.model.tail  # noqa: B018 - watched once per model
    anatomy = engine.model.anatomy
    streams = (anatomy.n_layers + 1) * len(ids) * anatomy.d_model * 4 / 2**20
    found = {"lenswidget": peak(lambda: read(engine.run(ids), k=5))}
    for peer in asked.peers:
        with contextlib.suppress(ImportError):
            function = PEERS[peer](fresh(folder), folder)
            function(ids[:8])
            found[peer] = peak(lambda function=function: function(ids))
    print(f"| {name} | {streams:.0f} | {' | '.join(f'{found[one]:.0f}' for one in found)} |", flush=True)


def peak(function):
    """MiB that the process grows by at most while it runs, by the kernel's own high-water mark."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = status("VmRSS")
    function()
    return (status("VmHWM") - before) / 1024


def status(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))


def growth(folder, name, asked):
    """Cost by prompt length: per cell, it must not grow. The run apart, since attention is quadratic."""
    hf_model = fresh(folder)
    engine = LocalEngine(LanguageModel(hf_model))
    read(engine.run(prompt_of(16)))  # the weight is packed once
    for n_tokens in (128, 256, 512, 1024, 2048, 4096):
        run = engine.run(prompt_of(n_tokens))
        n_cells = (run.n_layers + 1) * n_tokens
        times = []

        def timed(run=run, times=times):
            started = asked.clock()
            read(run, k=5)
            times.append(asked.clock() - started)

        extra = peak(timed)
        for _ in range(max(1, 1024 // n_tokens)):
            timed()
        took = min(times)
        print(
            f"| {name}, {n_tokens} | {n_cells} | {took:.1f} | {1e6 * took / n_cells:.0f} | {extra:.0f} |",
            flush=True,
        )
        if took > asked.longest:
            break


HEADINGS = {
    "grid": "| model, tokens | forward ms | product ms | lenswidget ms | of both | {peers} |",
    "cell": "| model | row's product ms | k=50, entropy | and 50 ranks | two cells, 50 ranks | allowed |",
    "memory": "| model, 512 tokens | streams MiB | lenswidget | {peers} |",
    "growth": "| model, tokens | cells | s | us per cell | peak MiB over the run |",
}
PARTS = {"grid": grid, "cell": cell, "memory": memory, "growth": growth}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--models", nargs="+", choices=["smollm2", "gpt2"], default=["smollm2", "gpt2"])
    parser.add_argument("--tokens", type=int, nargs="+", default=[11, 128, 512])
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=list(PEERS))
    parser.add_argument("--seconds", type=float, default=20, help="of rounds for each row of a table")
    parser.add_argument("--least", type=int, default=3, help="rounds for each row of a table")
    parser.add_argument("--longest", type=float, default=60, help="seconds of a growth row to stop after")
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    asked = parser.parse_args()
    asked.clock = time.process_time if asked.clock == "cpu" else time.perf_counter
    warnings.simplefilter("ignore")
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    for part in asked.only:
        heading = HEADINGS[part].format(peers=" | ".join(asked.peers))
        print(f"\n{part}\n\n{heading}\n|{' --- |' * (heading.count('|') - 1)}", flush=True)
        for name in asked.models:
            PARTS[part](load(name), name, asked)


if __name__ == "__main__":
    main()
