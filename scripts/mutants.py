"""Changes one thing in the source, many times, and counts how often the tests notice.

    .venv-mutants/bin/python scripts/mutants.py --n 100 --seed 0

The changes are Cosmic Ray's operators (another comparison, another number, a negated condition, ...). A
seeded sample is drawn evenly over five folders of the package, over the places in each and over the operators
at a place. Changes that no run can see (annotations, docstrings) are not drawn.

A mutant is tried in a copy of the project against the tests that call the changed function, quick ones first:
those of the files that name its module, then those of its folder. Which functions a test calls is found out
by running its file once, when first needed. A failure counts if the same test passes without the change. What
still runs after the time limit is counted apart: it may never end. All results are kept in `.mutants/`: a
sample that was stopped goes on, and what a test calls is looked up again when its file has changed.
"""

import argparse
import ast
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from code_swap import changed
from cosmic_ray import plugins
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code

ROOT = Path(__file__).parent.parent
FOLDERS = ("tracing", "anatomy", "readout", "lenses", "widget")
KEPT = ROOT / ".mutants"
COPY, REACH, REPORT = KEPT / "copy", KEPT / "reach.json", KEPT / "report.jsonl"
MOST_S = 60  # of the tests in one go, as they took when they were looked at; at least one is tried
LEAST_S = 120  # of the time limit; a test's time varies by its neighbours


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--n", type=int, default=100, help="how many mutants (default: 100)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--again", type=int, nargs="*", default=[], help="try these of the sample again")
    parser.add_argument("--limit", type=int, default=900, help="seconds for each at most (default: 900)")
    parser.add_argument("--python", default=str(ROOT / ".venv/bin/python"), help="runs the tests")
    args = parser.parse_args()
    KEPT.mkdir(exist_ok=True)
    make_copy()
    tests = Tests(args.python, args.limit)
    known = {line["mutant"]: line for line in read_lines(REPORT) if line["seed"] == args.seed}
    found: Counter[tuple[str, str]] = Counter()
    for index, (folder, path, operator, occurrence) in enumerate(sample(args.n, args.seed)):
        source = path.read_text()
        mutant = mutate_code(source, plugins.get_operator(operator)(), occurrence)
        line = {
            "seed": args.seed,
            "mutant": index,
            "file": str(path.relative_to(COPY)),
            "operator": operator.removeprefix("core/"),
            "change": changed_lines(source, mutant),
        }
        before = known.get(index, {})
        if index not in args.again and before.get("change") == line["change"]:
            line = before
        else:
            line |= tests.try_mutant(path.relative_to(COPY), source, mutant)
            with REPORT.open("a") as report:
                report.write(json.dumps(line) + "\n")
            print(json.dumps(line), flush=True)
        found[folder, line["outcome"]] += 1
    print_table(found)
    return 0


def make_copy() -> None:
    """Copy what the tests read, with the times of the files, by which bytecode is known to be theirs."""
    for path in COPY.rglob("*.py"):
        if not (ROOT / path.relative_to(COPY)).exists():
            path.unlink()
    for part in ("lenswidget", "tests", "examples", "docs", "scripts", "js/src", "benchmarks", "demo-lenses"):
        ignored = shutil.ignore_patterns("__pycache__", "node_modules", "dist", "shots")
        shutil.copytree(ROOT / part, COPY / part, ignore=ignored, dirs_exist_ok=True)
    for path in [*ROOT.glob("*.toml"), *ROOT.glob("*.md"), *ROOT.glob("*.txt"), ROOT / "Makefile"]:
        shutil.copy2(path, COPY)


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


class Tests:
    """The tests of the copy, run by `warm_tests.py`, and which functions each of them calls."""

    def __init__(self, python: str, limit_s: int) -> None:
        self.limit_s = limit_s
        self.reach: dict[str, Any] = json.loads(REACH.read_text()) if REACH.exists() else {}
        env = {**os.environ, "PYTHONPATH": str(COPY), "OMP_NUM_THREADS": "1"}
        command, pipe = [python, "scripts/warm_tests.py"], subprocess.PIPE
        self._warm, self._cold = (
            subprocess.Popen([*command, *more], cwd=COPY, env=env, stdin=pipe, stdout=pipe, text=True)
            for more in ([], ["--cold"])
        )

    def ask(self, **request: Any) -> dict[str, Any]:
        """What the process with the package imported says; where it cannot, the one without."""
        answer: dict[str, Any] = {}
        for server in (self._warm, self._cold):
            assert server.stdin is not None
            assert server.stdout is not None
            server.stdin.write(json.dumps(request) + "\n")
            server.stdin.flush()
            answer = json.loads(server.stdout.readline())
            if not answer.get("cold"):
                break
        return answer

    def reach_of(self, file: str) -> dict[str, Any]:
        """What each test of a file calls; runs it where the file has changed since it was last looked at."""
        digest = hashlib.sha256((COPY / file).read_bytes()).hexdigest()
        if self.reach.get(file, {}).get("digest") != digest:
            answer = self.ask(reach=file, limit_s=self.limit_s)
            self.reach[file] = {"digest": digest, "tests": answer.get("tests", {})}
            outcomes = Counter(test["outcome"] for test in self.reach[file]["tests"].values())
            print(json.dumps({"file": file, "seconds": answer["seconds"], **outcomes}), flush=True)
            REACH.write_text(json.dumps(self.reach))
        return self.reach[file]["tests"]

    def try_mutant(self, path: Path, source: str, mutant: str) -> dict[str, Any]:
        """Whether the tests notice that a file reads otherwise: noticed, missed, or out of time."""
        began, n_tests = time.monotonic(), 0
        for files in self.files_for(path):
            names = self.calling(files, path, source, mutant)
            n_tests += len(names)
            outcome = self._try(names, path, source, mutant)
            if outcome:
                break
            if time.monotonic() - began > self.limit_s:
                outcome = {"outcome": "missed", "by": "not all of the folder's tests"}
                break
        else:
            outcome = {"outcome": "missed"}
        return {**outcome, "seconds": round(time.monotonic() - began), "n_tests": n_tests}

    def files_for(self, path: Path) -> Iterator[list[str]]:
        """Where to look for tests that notice: what is known of all files, those near, each of the folder."""
        files = [str(file.relative_to(COPY)) for file in sorted((COPY / "tests").glob("*/test_*.py"))]
        known = [file for file in files if file in self.reach]
        yield known
        module = path.with_suffix("").as_posix().replace("/", ".")
        unknown = [file for file in files if file not in known and "browser" not in file]
        texts = {file: (COPY / file).read_text() for file in unknown}
        near = [file for file in unknown if module in texts[file] or path.stem in Path(file).stem]
        for file in sorted(near, key=lambda file: len(texts[file])):
            yield [file]
        for file in sorted(unknown, key=lambda file: len(texts[file])):
            if file not in near and Path(file).parent.name == path.parent.name:
                yield [file]

    def _ask_of(self, path: Path, source: str, mutant: str, **request: Any) -> dict[str, Any]:
        target = COPY / path
        times = target.stat()
        target.write_text(mutant)  # for a process that imports it
        try:
            return self.ask(path=str(path), before=source, after=mutant, **request)
        finally:
            target.write_text(source)
            os.utime(target, ns=(times.st_atime_ns, times.st_mtime_ns))

    def _try(self, names: list[str], path: Path, source: str, mutant: str) -> dict[str, Any]:
        """What a mutant's tests say; nothing where all of them pass."""
        known = {name: test for found in self.reach.values() for name, test in found["tests"].items()}
        while names:
            limit_s = min(self.limit_s, LEAST_S + 3 * sum(known[name]["seconds"] for name in names))
            answer = self._ask_of(path, source, mutant, tests=names, limit_s=limit_s)
            if answer.get("timeout"):
                return {"outcome": "out of time"}
            if answer.get("status") == 0:
                return {}
            failed, said = answer.get("failed") or [names[0], str(answer)[-300:]]
            # a file that cannot even be imported is named in place of its tests
            same = [failed] if failed in names else [name for name in names if name.startswith(failed)]
            if not same or self.ask(tests=same, limit_s=self.limit_s).get("status") == 0:
                return {"outcome": "noticed", "by": failed, "said": said}
            # without the change too
            done = names.index(failed) + 1 if failed in names else 0
            names = [name for name in names[done:] if name not in same]
        return {}

    def calling(self, files: list[str], path: Path, source: str, mutant: str) -> list[str]:
        """The tests that call what has changed: themselves before through a fixture, quick ones first."""
        pairs = changed(compile(source, "", "exec"), compile(mutant, "", "exec"))
        inside = str(path.relative_to("lenswidget"))
        places = {f"{inside}:{was.co_qualname}" for was, _ in pairs or []}
        found: list[tuple[bool, float, str]] = []
        names: list[str] = []
        total_s = 0.0
        for file in files:
            for name, test in self.reach_of(file).items():
                is_own = reaches(test["calls"], places, inside)
                if test["outcome"] == "passed" and (is_own or reaches(test["by_fixtures"], places, inside)):
                    found.append((not is_own, test["seconds"], name))
        for _, seconds, name in sorted(found):
            if names and total_s + seconds > MOST_S:
                break
            names.append(name)
            total_s += seconds
        return names


def reaches(calls: list[str], places: set[str], inside: str) -> bool:
    """Whether a place is called; or anything in the file, where it is no function that changed."""
    if places:
        return not places.isdisjoint(calls)
    return any(call.startswith(f"{inside}:") for call in calls)


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
    for path in sorted((COPY / "lenswidget" / folder).glob("*.py")):
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
            if is_stub(node):
                node.decorator_list = []
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


def is_stub(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Whether a function does nothing: one of a protocol, an abstract one, or one of several signatures."""
    return all(isinstance(each, ast.Expr) and isinstance(each.value, ast.Constant) for each in node.body)


def changed_lines(source: str, mutant: str) -> list[str]:
    pairs = zip(source.splitlines(), mutant.splitlines(), strict=False)
    return next(([a.strip(), b.strip()] for a, b in pairs if a != b), [])


def print_table(found: Counter[tuple[str, str]]) -> None:
    print("| folder | mutants | noticed | missed | out of time |\n| --- | --- | --- | --- | --- |")
    for folder in (*FOLDERS, "all"):
        counts = [
            sum(n for (where, what), n in found.items() if folder in (where, "all") and what == outcome)
            for outcome in ("noticed", "missed", "out of time")
        ]
        print(f"| {folder} | {sum(counts)} | {' | '.join(map(str, counts))} |")


if __name__ == "__main__":
    sys.exit(main())
