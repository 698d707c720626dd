"""Benchmarks run: the one for accelerators, so that it is there when one is, and that of readouts."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_the_gpu_benchmark_runs_on_a_cpu_and_finds_readouts_exact():
    command = [sys.executable, "benchmarks/gpu.py", "--tiny", "--device", "cpu", "--rounds", "1"]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    rows = [line.split(" | ") for line in found.stdout.splitlines() if line.startswith("| tiny")]
    assert len(rows) == 3
    for row in rows:
        worst, n_wrong = row[1].split(", ")
        assert float(worst) <= 1e-5
        assert n_wrong == "0"
        assert all(float(number) > 0 for number in row[2:6])
    assert len(re.findall("Jacobian lens of the last 2 layers", found.stdout)) == 2


def test_the_benchmark_of_readouts_runs_without_peers():
    command = [sys.executable, "benchmarks/readout.py", "--only", "grid", "cell", "memory", "--peers"]
    command += ["--models", "smollm2", "--tokens", "4", "--seconds", "0", "--least", "1"]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    rows = [line for line in found.stdout.splitlines() if line.startswith("| smollm2")]
    assert len(rows) == 3
    assert all(float(number) > 0 for row in rows for number in re.findall(r"\d+\.?\d*", row))
