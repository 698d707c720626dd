"""This build beside an earlier one, in turn on one machine: `python benchmarks/against.py REVISION`.

Each round starts a process for either build, the order alternating; a process gives the median of what it
timed. Prints a row per task, in milliseconds: the median of the rounds of either build, and the median of the
rounds' ratios. A ratio of neighbouring rounds survives a machine whose speed drifts; their medians may not.

    grid    prompt to readout of every cell: top-5, log-prob, entropy
    card    one cell decoded again through a widget, selection to card
    trace   the seed's loop: every block's output through final norm and unembed, out of order
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SHORT = "The Eiffel Tower is in the city of"
N_ROUNDS = 6


@contextlib.contextmanager
def checkout(revision: str) -> Iterator[Path]:
    """A folder that holds the tree of a revision."""
    with tempfile.TemporaryDirectory() as folder:
        archive = subprocess.run(
            ["git", "archive", revision], cwd=ROOT, check=True, stdout=subprocess.PIPE
        ).stdout
        subprocess.run(["tar", "-x", "-C", folder], input=archive, check=True)
        yield Path(folder)


def tasks() -> dict[str, tuple[int, Callable[[], object]]]:
    """What is timed, and how often in one process."""
    import torch

    import lenswidget as lw

    model = lw.demo_model()
    long = (SHORT + ". ") * 16
    ids = model.tokenizer(long)["input_ids"][:128]
    widget = model.lens(SHORT)
    cells = [{"layer": 3 + i % 20, "position": i % 8} for i in range(1000)]
    turn = iter(cells)

    def card() -> None:
        widget.selection = next(turn)

    def trace() -> None:
        with torch.no_grad(), model.trace(SHORT):
            for block in model.model.layers:
                model.lm_head(model.model.norm(block.output[0]))

    return {
        "grid, 9 tokens": (12, lambda: lw.read(model.run(SHORT))),
        "grid, 128 tokens": (3, lambda: lw.read(model.run(ids))),
        "card": (60, card),
        "trace": (8, trace),
    }


def measure() -> None:
    """In a process of its own: prints each task's median, in milliseconds, as JSON."""
    medians: dict[str, float] = {}
    for name, (n, task) in tasks().items():
        task()
        times: list[float] = []
        for _ in range(n):
            start = time.perf_counter()
            task()
            times.append(1000 * (time.perf_counter() - start))
        medians[name] = statistics.median(times)
    print(json.dumps(medians))


def run(folder: Path) -> dict[str, float]:
    """One process of the build in a folder."""
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    command = [sys.executable, str(Path(__file__)), "--measure"]
    output = subprocess.run(command, env=environment, cwd=folder, check=True, stdout=subprocess.PIPE).stdout
    return json.loads(output.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("revision", nargs="?", help="of the earlier build")
    parser.add_argument("--rounds", type=int, default=N_ROUNDS)
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure()
        return
    if options.revision is None:
        parser.error("name a revision, as `git log` shows them")
    rounds: list[dict[str, dict[str, float]]] = []
    with checkout(options.revision) as earlier:
        builds = [("this", ROOT), ("earlier", earlier)]
        for i in range(options.rounds):
            rounds.append({name: run(folder) for name, folder in (builds if i % 2 else builds[::-1])})
    print(f"| task | {options.revision} | this build | ratio |")
    print("| --- | --- | --- | --- |")
    for task in rounds[0]["this"]:
        then, now = ([each[build][task] for each in rounds] for build in ("earlier", "this"))
        ratio = statistics.median(a / b for a, b in zip(now, then, strict=True))
        print(f"| {task} | {statistics.median(then):.1f} | {statistics.median(now):.1f} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
