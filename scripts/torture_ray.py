"""Actors, clients and workers killed at random moments: what was lost, doubled or hung.

    python scripts/torture_ray.py --times 20 --only coordinator client worker

Prints a table (kind, kills, failures) for `docs/scale.md`, a line as soon as it is known. A cluster of
two nodes on this machine is started for it, and reached through Ray Client.
"""

import argparse
import json
import random
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "support"))

import ray_cluster
import torch

import lenswidget as lw

PROMPT = "The Eiffel Tower is in the city"
PATIENCE_S = 120
CLIENT = """import sys, ray_cluster
model = ray_cluster.connected({address!r}, ray_cluster.small)
print("there", flush=True)
while True:
    model.run("The Eiffel Tower is in the city")
"""


def coordinators(address, times, rng):
    """The actor killed while one reads: each read is right or one sentence, and the next is right."""
    import ray

    far, near = ray_cluster.connected(address, ray_cluster.small), ray_cluster.small()
    expected = lw.read(near.run(PROMPT), k=3).log_probs
    run, failures = far.run(PROMPT), 0
    for _ in range(times):
        for _ in range(rng.randrange(20)):
            lw.read(run, k=3)
        ray.kill(far._calls._actor, no_restart=False)
        n_sentences, end = 0, time.monotonic() + PATIENCE_S
        while True:
            try:
                found = lw.read(run, k=3).log_probs
                if n_sentences or time.monotonic() > end:  # an answer that was under way may still come
                    break
            except lw.LensError:
                n_sentences += 1
        failures += n_sentences != 1 or not np.array_equal(found, expected) or time.monotonic() > end
    far.close()
    return failures


def clients(address, times, rng):
    """A client killed at its work: the actor is left with what the other has, which reads on."""
    import ray

    far = ray_cluster.connected(address, ray_cluster.small)
    run = far.run(PROMPT)
    expected, failures = lw.read(run, k=3).log_probs, 0
    for _ in range(times):
        other = ray_cluster.client(CLIENT.format(address=address))
        other.stdout.readline()
        time.sleep(rng.random())
        other.kill()
        other.wait()
        end = time.monotonic() + PATIENCE_S
        while (kept := ray.get(far._calls._actor.kept.remote()))["clients"] > 1 and time.monotonic() < end:
            time.sleep(0.1)
        is_right = np.array_equal(lw.read(run, k=3).log_probs, expected)
        failures += kept["clients"] != 1 or kept["runs"] != 1 or kept["works"] != 0 or not is_right
    far.close()
    return failures


def workers(address, times, rng):
    """One of two workers killed during a survey: the file and the table are those of a local survey."""
    import ray

    ray_cluster.connected(address, ray_cluster.small).close()  # which joins the cluster
    rows = [(f"{PROMPT} {n}", " P") for n in range(400)]
    expected, failures = lw.survey(ray_cluster.small(), rows, progress=False), 0
    pool = lw.connect_workers(None, ray_cluster.small, 2, resources=ray_cluster.HAS_MODEL)
    for _ in range(times):
        at, killed = rng.randrange(350), []

        def kill(done, _total, at=at, killed=killed):
            if done >= at and not killed:
                killed.append(ray.kill(rng.choice(pool._actors), no_restart=False))

        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "out.jsonl"
            found = lw.survey(pool, rows, out=out, progress=kill)
            lines = [json.loads(line)["row"] for line in out.read_text(encoding="utf-8").splitlines()[1:]]
        is_same = all(
            one.row == other.row and np.array_equal(one.log_probs, other.log_probs)
            for one, other in zip(found.measured, expected.measured, strict=True)
        )
        failures += lines != list(range(len(rows))) or not is_same
    pool.close()
    return failures


KINDS = {"coordinator": coordinators, "client": clients, "worker": workers}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", choices=list(KINDS), default=list(KINDS))
    args = parser.parse_args()
    torch.set_num_threads(1)
    failed = False
    print("| killed | times | failures | seconds |\n| --- | --- | --- | --- |", flush=True)
    for name in args.only:
        began, rng = time.monotonic(), random.Random(args.seed)
        with ray_cluster.cluster() as address:
            failures = KINDS[name](address, args.times, rng)
            import ray

            ray.shutdown()
        print(f"| {name} | {args.times} | {failures} | {time.monotonic() - began:.0f} |", flush=True)
        failed |= bool(failures)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
