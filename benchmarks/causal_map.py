"""A causal map beside TransformerLens and bare forwards: `.venv-peers/bin/python benchmarks/causal_map.py`.

All in one process, with torch's own number of threads:

- SmolLM2 and random GPT-2 small at 9 tokens: the map of `resid_pre`, every layer and position, denoising
  alone, beside `get_act_patch_resid_pre` of TransformerLens 4.3 and beside as many bare forwards. Both of
  these do the same work for each cell, so they are timed on a sample of cells and scaled up.
- The same at 128 tokens, on every third layer of a sample of positions, beside as many bare forwards.
- Cell by cell: those cells of TransformerLens, and whole grids on tiny GPT-2 and Llama shapes.

The two prompts differ in their first token, so no cell is for nothing. A bare forward is the model's own on
one prompt, without a cache, all logits. Prints seconds of CPU time, which a busy machine moves less than the
clock, ratios of these, and the largest difference of a cell.
"""

import argparse
import copy
import functools
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import transformers as hf

import lenswidget as lw

ANSWER, FOIL = 400, 500
N_BARE, N_CELLS, N_ROUNDS = 5, 8, 2


def seconds(task: Callable[[], Any], n: int) -> float:
    """The median CPU time of `n` calls, after one that is not counted."""
    task()
    times: list[float] = []
    for _ in range(n):
        start = time.process_time()
        task()
        times.append(time.process_time() - start)
    return statistics.median(times)


def real_models() -> dict[str, Any]:
    torch.manual_seed(0)
    return {"SmolLM2": lw.demo_model().hf_model, "GPT-2": hf.GPT2LMHeadModel(hf.GPT2Config()).eval()}


def tiny_models() -> dict[str, Any]:
    torch.manual_seed(0)
    gpt2 = hf.GPT2Config(n_layer=4, n_embd=64, n_head=4, vocab_size=600, n_positions=64)
    llama = hf.LlamaConfig(
        num_hidden_layers=4,
        hidden_size=64,
        intermediate_size=128,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=600,
    )
    return {
        "tiny GPT-2": hf.GPT2LMHeadModel(gpt2).eval(),
        "tiny Llama": hf.LlamaForCausalLM(llama).eval(),
    }


def prompts(n_tokens: int) -> list[torch.Tensor]:
    """A clean and a corrupt prompt, `[1, n_tokens]`, that differ in every third token, the first included."""
    generator = torch.Generator().manual_seed(0)
    clean = torch.randint(10, 600, (1, n_tokens), generator=generator)
    corrupt = clean.clone()
    corrupt[0, ::3] = torch.randint(10, 600, corrupt[0, ::3].shape, generator=generator)
    return [clean, corrupt]


def peer(hf_model: Any) -> Any:
    """The very same module in TransformerLens."""
    from transformer_lens.model_bridge import TransformerBridge

    tokenizer = lw.demo_model().tokenizer
    with tempfile.TemporaryDirectory() as folder:
        hf_model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return TransformerBridge.boot_transformers(
            folder, hf_model=hf_model, tokenizer=tokenizer, device="cpu"
        )


@torch.no_grad()
def peers_cells(hf_model: Any, pair: list[torch.Tensor], cells: Any) -> tuple[float, Any]:
    """CPU seconds per cell of `get_act_patch_resid_pre`, and what it gives for cells `[n, 2]`."""
    import pandas as pd
    from transformer_lens import patching

    bridge = peer(copy.deepcopy(hf_model))
    clean, corrupt = pair
    _, cache = bridge.run_with_cache(clean)

    def metric(logits: torch.Tensor) -> torch.Tensor:
        return logits[0, -1, ANSWER] - logits[0, -1, FOIL]

    index = pd.DataFrame(cells, columns=["layer", "pos"])
    ask = functools.partial(
        patching.get_act_patch_resid_pre,
        bridge,
        corrupt,
        cache,
        metric,
        index_df=index,
        index_axis_names=None,
    )
    ask()
    start = time.process_time()
    found = ask()
    return (time.process_time() - start) / len(cells), found.double().numpy()


def asked(hf_model: Any, pair: list[torch.Tensor], **some: Any) -> Callable[[], lw.CausalMap]:
    model = lw.LanguageModel(hf_model)
    return functools.partial(
        lw.causal_map,
        model,
        *pair,
        answer=ANSWER,
        foil=FOIL,
        site="resid_pre",
        measure="denoising",
        **some,
    )


def bare_forward(hf_model: Any, ids: torch.Tensor) -> float:
    with torch.no_grad():
        return seconds(lambda: hf_model(input_ids=ids, use_cache=False), N_BARE)


def against_the_peer(name: str, hf_model: Any) -> None:
    pair = prompts(9)
    ask = asked(hf_model, pair)
    found = ask()
    own = seconds(ask, N_ROUNDS)
    n_cells = found.denoised.size
    bare = bare_forward(hf_model, pair[0])
    generator = np.random.default_rng(0)
    flat = generator.choice(n_cells, N_CELLS, replace=False)
    cells = np.stack(np.unravel_index(flat, found.denoised.shape), axis=1)
    per_cell, theirs = peers_cells(hf_model, pair, cells)
    off = np.abs(found.denoised[cells[:, 0], cells[:, 1]] - theirs).max()
    print(
        f"| {name}, 9 tokens | {own:.2f} | {own / (n_cells * bare):.3f} | {own / (n_cells * per_cell):.3f} | "
        f"{off:.1e} | {found.way} |",
        flush=True,
    )


def at_128_tokens(name: str, hf_model: Any) -> None:
    pair = prompts(128)
    # whole batches of neighbours, as a whole map has them, of which a sample is timed
    times: list[float] = []
    n_cells = 0
    layers = range(0, hf_model.config.num_hidden_layers, 3)
    for first in (0, 48, 80, 112):
        ask = asked(hf_model, pair, positions=range(first, first + 16), layers=layers)
        ask()
        start = time.process_time()
        found = ask()
        times.append(time.process_time() - start)
        n_cells += found.denoised.size
    bare = bare_forward(hf_model, pair[0])
    print(
        f"| {name}, 128 tokens, {n_cells} cells | {sum(times):.2f} | "
        f"{sum(times) / (n_cells * bare):.3f} | | | "
        f"{found.way} |",
        flush=True,
    )


def cell_by_cell(name: str, hf_model: Any) -> None:
    pair = prompts(9)
    found = asked(hf_model, pair)()
    cells = np.stack(np.meshgrid(range(4), range(9), indexing="ij"), axis=-1).reshape(-1, 2)
    _, theirs = peers_cells(hf_model, pair, cells)
    off = np.abs(found.denoised.ravel() - theirs).max()
    assert off < 1e-4, f"{name}: off by {off}"
    print(f"| {name}, 9 tokens, all cells | | | | {off:.1e} | {found.way} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", choices=("peer", "long", "cells"), help="one of the parts")
    only = parser.parse_args().only
    print(f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads")
    print("| | map, CPU s | x bare forwards | x TransformerLens | largest difference | run by |")
    print("| --- | --- | --- | --- | --- | --- |")
    parts = {"cells": (cell_by_cell, tiny_models), "peer": (against_the_peer, real_models)}
    parts["long"] = (at_128_tokens, real_models)
    for name, (part, models) in parts.items():
        if only in (None, name):
            for label, hf_model in models().items():
                part(label, hf_model)


if __name__ == "__main__":
    main()
