"""A model in a Ray actor on this machine beside one in this process: clicks, in turns; and surveys.

    python benchmarks/remote.py
    python benchmarks/remote.py --survey     # one worker and two, on two cores

The cluster has two nodes on this machine and is reached through Ray Client, the longer way.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "support"))

import ray_cluster
import torch

import lenswidget as lw

PROMPT = "The Eiffel Tower is in the city of"


def clicks(address, rounds):
    """A cell decoded again for the page, there and here."""
    torch.set_num_threads(1)
    near = lw.demo_model()
    far = ray_cluster.connected(address)
    widgets = {"here": near.lens(PROMPT, lens="logit"), "there": far.lens(PROMPT, lens="logit")}
    took = {name: [] for name in widgets}
    for i in range(rounds + 2):
        for name, w in widgets.items():
            cell = {"layer": i % 30, "position": i % 9}
            started = time.perf_counter()
            w.selection = cell
            if i > 1:
                took[name].append(1e3 * (time.perf_counter() - started))
    here, there = (statistics.median(each) for each in took.values())
    gap = statistics.median(b - a for a, b in zip(*took.values(), strict=True))
    print(f"| a click, ms | {here:.1f} here | {there:.1f} there | {gap:+.1f} |", flush=True)
    for w in widgets.values():
        w.close()
    far.close()


def surveys(address, n_prompts):
    """The same survey by one worker and by two, each with one thread."""
    rows = [(f"{PROMPT} {n}, and the Louvre is in", " Paris") for n in range(n_prompts)]
    ray_cluster.connected(address).close()  # which joins the cluster
    took = {}
    for n in (1, 2):
        workers = lw.connect_workers(None, ray_cluster.demo, n, resources=ray_cluster.HAS_MODEL)
        while len(workers._ready) < n:  # loading is not counted
            workers._take(workers._first_of(list(workers._coming)))
        started = time.perf_counter()
        lw.survey(workers, rows, progress=False)
        took[n] = time.perf_counter() - started
        workers.close()
    print(
        f"| {n_prompts} prompts, s | {took[1]:.1f} by one | {took[2]:.1f} by two | {took[2] / took[1]:.2f}x |"
    )


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--survey", action="store_true")
    parser.add_argument("--prompts", type=int, default=192)
    args = parser.parse_args()
    with ray_cluster.cluster() as address:
        if args.survey:
            surveys(address, args.prompts)
        else:
            clicks(address, args.rounds)


if __name__ == "__main__":
    main()
