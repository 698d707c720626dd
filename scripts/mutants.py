"""Changes one thing in the source, many times, and counts how often the tests notice.

    .venv-mutants/bin/python scripts/mutants.py --n 100 --seed 0

The changes are Cosmic Ray's operators (another comparison, another number, a negated condition, ...). A
seeded sample is drawn evenly over five folders of the package, over the places in each and over the operators
at a place. Each mutant is tried in a copy of the project against the tests of its own folder, those that
import its module first. One that still runs after the time limit is counted apart: it may never end, or its
tests are slow. Changes that no run can see (annotations, docstrings) are not drawn.
"""

import argparse
import ast
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from cosmic_ray import plugins
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code

ROOT = Path(__file__).parent.parent
FOLDERS = ("tracing", "anatomy", "readout", "lenses", "widget")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--n", type=int, default=100, help="how many mutants (default: 100)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="begin with this one of the sample")
    parser.add_argument("--limit", type=int, default=900, help="seconds for each (default: 900)")
    parser.add_argument(
        "--near", action="store_true", help="only the tests that name the module: quick, and misses more"
    )
    parser.add_argument("--python", default=str(ROOT / ".venv/bin/python"), help="runs the tests")
    parser.add_argument("--report", type=Path, help="a file that gets a line of JSON per mutant")
    args = parser.parse_args()
    found: Counter[tuple[str, str]] = Counter()
    with tempfile.TemporaryDirectory() as name:
        copy = Path(name)
        for part in ("lenswidget", "tests", "examples", "docs", "scripts", "js/src"):
            shutil.copytree(ROOT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
        for path in [*ROOT.glob("*.toml"), *ROOT.glob("*.md"), *ROOT.glob("*.txt"), ROOT / "Makefile"]:
            shutil.copy(path, copy)
        for index, (folder, path, operator, occurrence) in enumerate(sample(args.n, args.seed)):
            if index < args.first:
                continue
            source = path.read_text()
            mutant = mutate_code(source, plugins.get_operator(operator)(), occurrence)
            target = copy / path.relative_to(ROOT)
            target.write_text(mutant)
            began = time.monotonic()
            outcome = run_tests(copy, folder, path.stem, args.python, args.limit, near_only=args.near)
            target.write_text(source)
            found[folder, outcome] += 1
            line = {
                "mutant": index,
                "file": str(path.relative_to(ROOT)),
                "operator": operator.removeprefix("core/"),
                "outcome": outcome,
                "seconds": round(time.monotonic() - began),
                "change": changed_lines(source, mutant),
            }
            print(json.dumps(line), flush=True)
            if args.report:
                with args.report.open("a") as report:
                    report.write(json.dumps(line) + "\n")
    print_table(found)
    return 0


def sample(n: int, seed: int) -> Iterator[tuple[str, Path, str, int]]:
    """`n` mutants: `(folder, file, operator, occurrence)`, the folders in turn."""
    rng = random.Random(seed)
    places = {folder: places_of(folder) for folder in FOLDERS}
    drawn: set[tuple[Path, str, int]] = set()
    while len(drawn) < n:
        folder = FOLDERS[len(drawn) % len(FOLDERS)]
        path, operators = rng.choice(places[folder])
        operator, occurrence = rng.choice(operators)
        if (path, operator, occurrence) in drawn:
            continue
        mutant = mutate_code(path.read_text(), plugins.get_operator(operator)(), occurrence)
        if mutant is not None and is_seen(path.read_text(), mutant):
            drawn.add((path, operator, occurrence))
            yield folder, path, operator, occurrence


def places_of(folder: str) -> list[tuple[Path, list[tuple[str, int]]]]:
    """The places in a folder's files that some operator can change, each with `(operator, occurrence)`."""
    found: list[tuple[Path, list[tuple[str, int]]]] = []
    for path in sorted((ROOT / "lenswidget" / folder).glob("*.py")):
        at: dict[tuple[int, int], list[tuple[str, int]]] = {}
        nodes = list(ast_nodes(get_ast(path.read_text())))
        for name in sorted(plugins.operator_names()):
            kind = plugins.get_operator(name)
            if kind.arguments():
                continue
            operator, occurrence = kind(), 0
            for node in nodes:
                for start, _ in operator.mutation_positions(node):
                    at.setdefault(start, []).append((name, occurrence))
                    occurrence += 1
        found += [(path, operators) for _, operators in sorted(at.items())]
    return found


def is_seen(source: str, mutant: str) -> bool:
    """Whether two sources differ in more than annotations and docstrings."""
    try:
        return stripped(source) != stripped(mutant)
    except SyntaxError:
        return False


def stripped(source: str) -> str:
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            node.returns = None
        elif isinstance(node, ast.arg):
            node.annotation = None
        elif isinstance(node, ast.AnnAssign):
            node.annotation = ast.Constant(None)
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            node.value = ast.Constant(None)
        elif isinstance(node, ast.Assign) and any(
            isinstance(target, ast.Name) and target.id[:1].isupper() and not target.id.isupper()
            for target in node.targets
        ):
            node.value = ast.Constant(None)  # another name of a type
    return ast.dump(tree)


def run_tests(copy: Path, folder: str, module: str, python: str, limit_s: int, *, near_only: bool) -> str:
    """Whether the tests of a folder notice what stands in the copy: noticed, missed, or too slow."""
    files = sorted((copy / "tests" / folder).glob("test_*.py"))
    near = [path for path in files if f"{folder}.{module}" in path.read_text() or module in path.stem]
    ordered = [*near, *(path for path in files if path not in near)]
    ordered = near if near_only and near else ordered
    command = [python, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *map(str, ordered)]
    env = {**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(command, cwd=copy, env=env, capture_output=True, timeout=limit_s)
    except subprocess.TimeoutExpired:
        return "too slow"
    return "missed" if done.returncode == 0 else "noticed"


def changed_lines(source: str, mutant: str) -> list[str]:
    pairs = zip(source.splitlines(), mutant.splitlines(), strict=False)
    return next(([a.strip(), b.strip()] for a, b in pairs if a != b), [])


def print_table(found: Counter[tuple[str, str]]) -> None:
    print("| folder | mutants | noticed | missed | too slow |\n| --- | --- | --- | --- | --- |")
    for folder in (*FOLDERS, "all"):
        counts = [
            sum(n for (where, what), n in found.items() if folder in (where, "all") and what == outcome)
            for outcome in ("noticed", "missed", "too slow")
        ]
        print(f"| {folder} | {sum(counts)} | {' | '.join(map(str, counts))} |")


if __name__ == "__main__":
    sys.exit(main())
