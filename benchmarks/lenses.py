"""The demo model's first grid through each of its lenses, against the logit lens, in one process.

    python benchmarks/lenses.py --rounds 30

Lenses take turns, round after round, in an order that turns too. Each grid is a run of the prompt and a
readout of all its cells, with model and lenses loaded and warm. Of the rounds' ratios the median is told, of
processor time and of time on the wall.
"""

import argparse
import os
import statistics
import time

import lenswidget as lw

PROMPT = "The Eiffel Tower is in the city of"


def first_grid(model, lens):
    """Seconds on the wall and of the processor."""
    wall, cpu = time.perf_counter(), time.process_time()
    lw.read(model.run(PROMPT, reuse=False), lens=lens, k=5)
    return time.perf_counter() - wall, time.process_time() - cpu


def measure(n_rounds):
    model = lw.demo_model()
    lenses = {"logit": None, **model.lenses}
    for lens in lenses.values():
        first_grid(model, lens)
    rounds = []
    for n in range(n_rounds):
        names = list(lenses)[n % len(lenses) :] + list(lenses)[: n % len(lenses)]
        rounds.append({name: first_grid(model, lenses[name]) for name in names})
    load = os.getloadavg()[0]
    print(f"{n_rounds} rounds, {len(lenses)} lenses, load {load:.1f} on {os.cpu_count()} processors")
    for name in lenses:
        wall, cpu = (statistics.median(each[name][at] for each in rounds) for at in (0, 1))
        ratios = [statistics.median(r[name][at] / r["logit"][at] for r in rounds) for at in (0, 1)]
        print(
            f"{name:>10}: {1000 * wall:7.0f} ms ({ratios[0]:.3f} of logit), "
            f"processor {1000 * cpu:7.0f} ms ({ratios[1]:.3f})"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=30)
    measure(parser.parse_args().rounds)
