"""Runs tests in forked children of one process that has imported the package, as standard input asks for.

A request is a line of JSON and so is its answer. `scripts/mutants.py` asks; this runs in the environment that
has the package.

    {"tests": [names], "limit_s": 60, "path": "lenswidget/checks.py", "before": source, "after": source}
        the first failure of these tests, in this order, or none, where that file reads otherwise; or "cold",
        where that changes what ran at the import. With `--cold` each child imports the package, as it reads
        then: what beartype has once looked up by its name stays what it was.
    {"reach": "tests/readout/test_card.py", "limit_s": 900}   which functions each test of a file calls
"""

import gc
import importlib
import json
import os
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from code_swap import Functions, functions, swap

# What the package and its tests import from others; a name that is missing here costs time, nothing else.
WARM = (
    *("torch", "torch.func", "numpy", "pandas", "safetensors.torch", "beartype", "greenlet", "psutil"),
    *("hypothesis", "hypothesis.strategies", "anyio.pytest_plugin", "anyio._backends._asyncio"),
    *("ipywidgets", "anywidget", "IPython", "jupyter_client", "PIL.Image", "transformers"),
    *("transformers.generation", "transformers.models.gpt2.modeling_gpt2"),
    *("transformers.models.llama.modeling_llama", "transformers.models.auto.tokenization_auto"),
    *("transformers.models.auto.modeling_auto", "transformers.tokenization_utils_tokenizers"),
)


class Chosen:
    """Keeps of the collected tests those that are asked for, in that order, and notes the first failure."""

    def __init__(self, names: list[str]) -> None:
        self.order = {name: i for i, name in enumerate(names)}
        self.failed: list[str] = []
        self.n_passed = 0

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        items[:] = sorted((item for item in items if item.nodeid in self.order), key=self._place)

    def _place(self, item: Any) -> int:
        return self.order[item.nodeid]

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed and not self.failed:
            self.failed = [report.nodeid, "not collected: " + str(report.longrepr)[-300:]]

    def pytest_runtest_logreport(self, report: Any) -> None:
        self.n_passed += report.when == "call" and report.passed
        if report.failed and not self.failed:
            crash = getattr(report.longrepr, "reprcrash", None)
            self.failed = [report.nodeid, getattr(crash, "message", str(report.longrepr))[:300]]

    def answer(self) -> dict[str, Any]:
        return {"failed": self.failed, "n_passed": self.n_passed}


class Reach:
    """Notes which functions of the package each test calls, and how long it takes.

    What is called while a fixture of more than one test is made counts for every test that has the fixture.
    """

    def __init__(self, package: str) -> None:
        self.package = package
        self.tests: dict[str, dict[str, Any]] = {}
        self._calls: set[Any] = set()
        self._of_fixtures: dict[str, set[Any]] = {}

    def _trace(self, frame: Any, *_: Any) -> None:
        self._calls.add(frame.f_code)

    def _start(self) -> None:
        threading.settrace(self._trace)
        sys.settrace(self._trace)

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any) -> Iterator[Any]:
        if fixturedef.scope == "function":
            return (yield)
        outer, self._calls = self._calls, set()
        try:
            return (yield)
        finally:
            self._of_fixtures.setdefault(fixturedef.argname, set()).update(self._calls)
            self._calls = outer

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: Any) -> Iterator[Any]:
        self._calls, began = set(), time.monotonic()
        self.tests[item.nodeid] = {"outcome": "not run"}
        self._start()
        try:
            return (yield)
        finally:
            sys.settrace(None)
            threading.settrace(None)
            shared: set[Any] = set().union(
                *(self._of_fixtures.get(name, set()) for name in item.fixturenames)
            )
            self.tests[item.nodeid] |= {
                "seconds": round(time.monotonic() - began, 3),
                "calls": sorted(set(self._names(self._calls))),
                "by_fixtures": sorted(set(self._names(shared - self._calls))),
            }

    def _names(self, codes: set[Any]) -> Iterator[str]:
        for code in codes:
            if code.co_filename.startswith(self.package):
                yield f"{code.co_filename[len(self.package) :]}:{code.co_qualname}"

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when == "call" or not report.passed:
            self.tests[report.nodeid]["outcome"] = report.outcome

    def answer(self) -> dict[str, Any]:
        return {"tests": self.tests}


def in_child(work: Callable[[], dict[str, Any]], limit_s: float) -> dict[str, Any]:
    """What some work gives in a forked child, or that it died or ran longer than the limit."""
    with tempfile.TemporaryDirectory() as folder:
        out, began = Path(folder, "out"), time.monotonic()
        pid = os.fork()
        if not pid:
            _work_and_leave(work, out)
        while time.monotonic() - began < limit_s:
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                answer = json.loads(out.read_text()) if out.exists() else {"died": status}
                return {**answer, "seconds": round(time.monotonic() - began, 1)}
            time.sleep(0.05)
        os.killpg(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        return {"timeout": True, "seconds": round(time.monotonic() - began, 1)}


def _work_and_leave(work: Callable[[], dict[str, Any]], out: Path) -> None:
    os.setsid()  # whatever the tests start is ended with them
    # a shell starts what runs in the background without: tests of interrupts would then test nothing
    signal.signal(signal.SIGINT, signal.default_int_handler)
    log = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(log, stream)
    beside = out.with_suffix(".part")
    try:
        beside.write_text(json.dumps(work()))
    except BaseException:
        beside.write_text(json.dumps({"error": traceback.format_exc()}))
    beside.rename(out)
    os._exit(0)


def run(request: dict[str, Any], known: Functions) -> dict[str, Any]:
    path, sources = request.get("path"), (request.get("before"), request.get("after"))
    if path is not None and known and not swap(known, Path(path).resolve(), *sources):
        return {"cold": True}
    plugin = (
        Reach(str(Path("lenswidget").resolve()) + "/") if "reach" in request else Chosen(request["tests"])
    )
    files = [request["reach"]] if "reach" in request else _files(request["tests"])
    quiet = "-W", "ignore::pytest.PytestAssertRewriteWarning"
    options = [
        "-q",
        *quiet,
        "-p",
        "no:cacheprovider",
        "-p",
        "no:xdist",
        *([] if "reach" in request else ["-x"]),
    ]
    status = pytest.main([*options, *files], plugins=[plugin])
    return {**plugin.answer(), "status": int(status)}


def _files(names: list[str]) -> list[str]:
    return list(dict.fromkeys(name.split("::")[0] for name in names))


def import_package() -> None:
    """Import every module of the package, with its annotations checked as `tests/conftest.py` has them."""
    from jaxtyping import install_import_hook

    install_import_hook("lenswidget", "typechecker.check")
    for path in sorted(Path("lenswidget").rglob("*.py")):
        if "ray" not in path.stem and path.stem != "__main__":
            importlib.import_module(".".join(path.with_suffix("").parts).removesuffix(".__init__"))


def main() -> None:
    sys.path.insert(0, "tests/support")
    for name in WARM:
        try:
            importlib.import_module(name)
        except ImportError:
            print(f"{name} is not there to be imported beforehand", file=sys.stderr)
    known: Functions = {}
    if "--cold" not in sys.argv:
        import_package()
        known = functions()
    gc.freeze()  # else each collection of a child goes through all that was imported
    for line in sys.stdin:
        request = json.loads(line)
        answer = in_child(lambda request=request: run(request, known), request["limit_s"])
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
