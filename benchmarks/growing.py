"""Runs that grow beside whole ones, in one process: ratios, the two sides taking turns.

    python benchmarks/growing.py                       # SmolLM2, 128 tokens
    python benchmarks/growing.py --model gpt2 --tokens 512

What is on the other side: the whole run and the whole readout, as there was before runs took columns over;
for generating, a step of the model's own cached `generate` and the bare product of a column's cells. With
nnsight installed (`make bench-peers` has it), its generation with every block's lens read at each step.
"""

import argparse
import time
from contextlib import suppress

import torch
from readout import fresh, load, prompt_of

import lenswidget as lw
from lenswidget.readout.local_engine import LocalEngine

# time on the wall, or of the processor where --clock cpu asks for it: other work then counts for less
CLOCKS = [time.perf_counter]


def least(contestants, rounds):
    """The least seconds of each, over rounds in which all take turns; one round more is not counted."""
    clock = CLOCKS[0]
    best = dict.fromkeys(contestants, float("inf"))
    for i in range(rounds + 1):
        for name, function in contestants.items():
            started = clock()
            function()
            if i:
                best[name] = min(best[name], clock() - started)
    return best


def typing(model, ids, rounds):
    """The last token changed, and an edit at the last token: run and read, in part and whole."""
    base = model.run(ids)
    lw.read(base)
    other = [*ids[:-1], ids[-1] % 1000 + 7]
    edit = lw.Edit("zero", site="mlp_out", layers=model.anatomy.n_layers // 2, positions=-1)
    best = least(
        {
            "typed": lambda: lw.read(model.run(other, reuse=base)),
            "edited": lambda: lw.read(model.run(ids, edits=edit, reuse=base)),
            "whole": lambda: lw.read(model.run(other, reuse=False)),
        },
        rounds,
    )
    print(f"  last token changed     {best['typed'] / best['whole']:.3f}x of the whole run and readout")
    print(f"  last token edited      {best['edited'] / best['whole']:.3f}x of the whole run and readout")


def generating(model, ids, rounds, n=8):
    """A generated token with its column, beside a cached step of generate and the column's bare product."""
    run = model.run(ids)
    lw.read(run)
    engine, weight = LocalEngine(model), model.hf_model.lm_head.weight.detach()
    given = torch.tensor([ids])
    states = torch.ones(model.anatomy.n_layers + 1, weight.shape[1])

    def ours():
        for grown in engine.extend(run, n):
            lw.read(grown)

    def generate(n_tokens):
        with torch.no_grad():
            mask = torch.ones_like(given)
            model.hf_model.generate(
                given, attention_mask=mask, max_new_tokens=n_tokens, min_new_tokens=n_tokens, do_sample=False
            )

    def products():
        for _ in range(n):
            torch.mm(states, weight.T)

    best = least(
        {
            "ours": ours,
            "steps": lambda: generate(n + 1),
            "prompt": lambda: generate(1),
            "products": products,
        },
        rounds,
    )
    bare = best["steps"] - best["prompt"] + best["products"]
    print(f"  a token and its column {best['ours'] / bare:.2f}x of a cached step and the column's product")


def beside_nnsight(hf_model, model, ids, rounds, n=40):
    """Tokens continued with all layers' top tokens, beside nnsight reading every block at each step."""
    with suppress(ImportError):
        from nnsight import LanguageModel as NNsight

        theirs = NNsight(hf_model, tokenizer=model.tokenizer)
        blocks = list(model.anatomy.blocks)
        norm, head = model.anatomy.final_norm, model.anatomy.unembed
        engine = LocalEngine(model)

        def ours():
            run = model.run(ids)
            lw.read(run)
            for grown in engine.extend(run, n):
                lw.read(grown)

        def nnsight():
            envoy = lambda path: theirs.get(path)  # noqa: E731
            with theirs.generate(torch.tensor([ids]), max_new_tokens=n) as tracer:
                found = list().save()  # noqa: C408
                with tracer.all():
                    for path in blocks:
                        out = envoy(path).output
                        states = out[0] if isinstance(out, tuple) else out
                        found.append(envoy(head)(envoy(norm)(states)).topk(5).indices)

        best = least({"ours": ours, "nnsight": nnsight}, rounds)
        print(f"  {n} tokens continued    {best['ours'] / best['nnsight']:.2f}x of nnsight's")
        return
    print("  nnsight is not installed here: not compared")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", default="smollm2", choices=["smollm2", "gpt2"])
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    parser.add_argument("--peers", action="store_true", help="compare with nnsight too, which is slow")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.clock == "cpu":
        CLOCKS[0] = time.process_time
    folder = load(args.model)
    hf_model = fresh(folder)
    model, ids = lw.LanguageModel(hf_model, str(folder)), prompt_of(args.tokens).tolist()
    print(f"{args.model}, {args.tokens} tokens, {args.threads} threads")
    typing(model, ids, args.rounds)
    generating(model, ids, args.rounds)
    if args.peers:
        beside_nnsight(hf_model, model, ids, 1)


if __name__ == "__main__":
    main()
