"""Readouts on an accelerator: exactness first, then time and memory, on models that are made on the spot.

    pip install torch transformers . && python benchmarks/gpu.py     # under eight minutes on one large GPU
    pip install nnsight==0.8.1 transformer-lens==4.3.0               # optional peers, then the same
    python benchmarks/gpu.py --tiny                                  # seconds, on a CPU: that it runs at all

Weights are random: time and memory do not depend on them, and exactness is held against float64 products of
the model's own states. Times are the least of a few rounds, in milliseconds, the device waited for; memory is
the peak over what stood there before, in MiB.
"""

import argparse
import gc
import sys
import tempfile
import time
from pathlib import Path

import torch
from readout_peers import PEERS
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import lenswidget as lw
from lenswidget.readout.local_engine import LocalEngine

N_CHECKED = 48
LARGEST_ERROR = 1e-5  # nats, as docs/performance.md promises
LLAMA_135M = {
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "vocab_size": 49_152,
    "tie_word_embeddings": True,
}
LLAMA_1B = {
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 152_064,
    "tie_word_embeddings": True,
}
LLAMA_7B = {
    "hidden_size": 4096,
    "intermediate_size": 14_336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 152_064,
    "tie_word_embeddings": False,
}
TINY = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 2_000,
    "tie_word_embeddings": True,
}
SHAPES = {
    "135M, 49k, float32": (LLAMA_135M, torch.float32, (11, 128, 512)),
    "135M, 49k, bfloat16": (LLAMA_135M, torch.bfloat16, (128, 512)),
    "1B, 152k, bfloat16": (LLAMA_1B, torch.bfloat16, (128, 512)),
    "7B, 152k, bfloat16": (LLAMA_7B, torch.bfloat16, (128, 512)),
}
TINY_SHAPES = {
    "tiny, float32": (TINY, torch.float32, (9, 33)),
    "tiny, bfloat16": (TINY, torch.bfloat16, (33,)),
}


def made(fields, dtype, device):
    """A Llama of random weights, made where it runs: a 7B one is never in the host's memory."""
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            return LlamaForCausalLM(LlamaConfig(**fields, max_position_embeddings=4096)).eval()
    finally:
        torch.set_default_dtype(before)


def any_tokenizer(folder):
    """A folder with a tokenizer that loads, for peers that want one."""
    raw = Tokenizer(WordLevel({str(i): i for i in range(100)}, unk_token="0"))
    PreTrainedTokenizerFast(
        tokenizer_object=raw, eos_token="1", bos_token="2", pad_token="3"
    ).save_pretrained(folder)
    return folder


class Clock:
    """Times functions on a device."""

    def __init__(self, device, rounds):
        self.device, self.rounds = device, rounds

    def wait(self):
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def ms(self, function):
        """The least time of a function, in milliseconds, after one unseen call."""
        function()
        best = float("inf")
        for _ in range(self.rounds):
            self.wait()
            began = time.perf_counter()
            function()
            self.wait()
            best = min(best, time.perf_counter() - began)
        return 1e3 * best

    def mib(self, function):
        """The peak of the device's memory over what was there, in MiB; NaN on a CPU."""
        if self.device.type != "cuda":
            return float("nan")
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
        self.wait()
        return (torch.cuda.max_memory_allocated() - before) / 2**20


def check(engine, run, readout):
    """The largest error of top log-probs against float64; how many top tokens differ beyond a near tie."""
    hf_model, generator = engine.model.hf_model, torch.Generator().manual_seed(0)
    norm, weight = hf_model.model.norm, hf_model.lm_head.weight.detach()
    worst, n_wrong = 0.0, 0
    for cell in torch.randperm(len(readout), generator=generator)[:N_CHECKED].tolist():
        layer, position = int(readout.layers[cell]), int(readout.positions[cell])
        state = run.states("resid_post", [layer], [position])[0].double()
        scale = torch.rsqrt(state.square().mean() + norm.variance_epsilon)
        normed = state * scale * norm.weight.double()
        # in pieces: a vocabulary in float64 is gigabytes
        logits = torch.cat([part.double() @ normed for part in weight.split(8192)])
        log_probs = logits.log_softmax(-1)
        ids = torch.from_numpy(readout.ids[cell]).long().to(logits.device)
        found = torch.from_numpy(readout.log_probs[cell]).double().to(logits.device)
        worst = max(worst, (found - log_probs[ids]).abs().max().item())
        best = log_probs.topk(len(ids)).values
        n_wrong += int(((log_probs[ids] - best).abs() > 1e-5).sum())
    return worst, n_wrong


def measure(name, fields, dtype, lengths, options, clock):
    """Prints the rows of one shape."""
    hf_model = made(fields, dtype, clock.device)
    model = lw.LanguageModel(hf_model)
    engine = LocalEngine(model)
    weight = hf_model.lm_head.weight.detach()
    head = weight.float()
    for n_tokens in lengths:
        ids = torch.randint(0, fields["vocab_size"], (n_tokens,), generator=torch.Generator().manual_seed(0))
        n_cells = (fields["num_hidden_layers"] + 1) * n_tokens
        states = torch.ones(min(n_cells, 1024), fields["hidden_size"], device=clock.device)

        def product(states=states, n_cells=n_cells):
            for start in range(0, n_cells, 1024):
                torch.mm(states[: min(1024, n_cells - start)], head.T)

        def forward(ids=ids):
            with torch.no_grad():
                hf_model(ids[None].to(clock.device), use_cache=False)

        run = engine.run(ids)
        worst, n_wrong = check(engine, run, lw.read(run, k=5))
        found = {
            "forward": clock.ms(forward),
            "product, float32": clock.ms(product),
            "grid": clock.ms(lambda ids=ids: lw.read(engine.run(ids), k=5)),
            "card": clock.ms(lambda run=run: lw.decode(run, 1, 2, k=20)),
            "MiB": clock.mib(lambda ids=ids: lw.read(engine.run(ids), k=5)),
        }
        ratio = found["grid"] / (found["forward"] + found["product, float32"])
        if worst > LARGEST_ERROR or n_wrong:
            sys.exit(f"{name}, {n_tokens} tokens: not exact, {worst:.1e} off and {n_wrong} tokens wrong")
        peers = [told(peer, hf_model, ids, options, clock) for peer in ("nnsight", "TransformerLens")]
        numbers = [f"{value:.1f}" for value in found.values()]
        cells = [f"{name}, {n_tokens}", f"{worst:.1e}, {n_wrong}", *numbers, f"{ratio:.2f}", *peers]
        print(f"| {' | '.join(cells)} |", flush=True)
    if options.fit:
        layers = range(fields["num_hidden_layers"] - 1)[-options.fit :]
        began = time.perf_counter()
        lw.JacobianLens.fit(model, [ids[:128].tolist()], layers=layers, skip_first=4, progress=False)
        clock.wait()
        print(
            f"  Jacobian lens of the last {len(layers)} layers, one text of {min(128, len(ids))} tokens: "
            f"{time.perf_counter() - began:.1f} s",
            flush=True,
        )
    del hf_model, model, engine, weight, head
    gc.collect()
    if clock.device.type == "cuda":
        torch.cuda.empty_cache()


def told(peer, hf_model, ids, options, clock):
    """A peer's time for the same grid, or why there is none."""
    try:
        read = PEERS[peer](hf_model, options.tokenizer)
        return f"{clock.ms(lambda: read(ids.to(clock.device))):.1f}"
    except ImportError:
        return "not installed"
    except Exception as error:  # whatever a peer makes of this model; ours is measured all the same
        return f"{type(error).__name__}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tiny", action="store_true", help="tiny shapes, to see that it runs")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--fit", type=int, default=2, help="layers of the Jacobian lens that is timed; 0 for none"
    )
    given = parser.parse_args()
    given.tokenizer = any_tokenizer(Path(tempfile.mkdtemp(prefix="gpu-")))
    where = torch.device(given.device)
    shapes = TINY_SHAPES if given.tiny or where.type != "cuda" else SHAPES
    label = (
        torch.cuda.get_device_name() if where.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    )
    print(f"{label}, torch {torch.__version__}\n")
    print(
        "| shape, tokens | worst error, wrong tokens | forward | product, float32 | grid | card | MiB | "
        "grid over both | nnsight | TransformerLens |"
    )
    print("| --- |" + " --- |" * 9)
    for shape, (config, dtype, lengths) in shapes.items():
        measure(shape, config, dtype, lengths, given, Clock(where, given.rounds))
