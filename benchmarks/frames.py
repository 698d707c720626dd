"""What the frames of a scroll over a grid of 100 x 4,096 cost, by Chromium's own tracing.

A page made of numbers, without kernel or server. The time between two frames is what a person sees, and on a
shared machine it measures the neighbours; the processor time that a frame takes in all threads of the browser
does so far less.
"""

import json
import statistics
import tempfile
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.big_grid import SCROLL, SCROLLS, mount_big
from playwright.sync_api import Browser

CATEGORIES = ["devtools.timeline", "toplevel", "__metadata"]
# The events of a trace, by what a person would call them.
KINDS = {
    "FunctionCall": "script",
    "TimerFire": "script",
    "FireAnimationFrame": "script",
    "UpdateLayoutTree": "style",
    "Layout": "layout",
    "PrePaint": "paint",
    "Paint": "paint",
    "Layerize": "layers",
    "TaskGraphRunner::RunTask": "raster",
}


@dataclass(frozen=True)
class Frames:
    """The frames of one scroll, in ms: times between them, and processor time per frame, also by kind."""

    median_ms: float
    p95_ms: float
    cpu_ms: float
    by_kind: dict[str, float]


def own_times(events: list[dict[str, Any]]) -> Counter[str]:
    """Processor time of a trace's events without those inside them, in microseconds, by name."""
    threads: defaultdict[tuple[int, int], list[dict[str, Any]]] = defaultdict(list)
    for event in events:
        if event.get("ph") == "X":
            threads[event["pid"], event["tid"]].append(event)
    times: Counter[str] = Counter()
    for of_thread in threads.values():
        of_thread.sort(key=lambda event: (event["ts"], -event.get("dur", 0)))
        around: list[dict[str, Any]] = []
        for event in of_thread:
            while around and around[-1]["ts"] + around[-1].get("dur", 0) <= event["ts"]:
                around.pop()
            if around:
                times[around[-1]["name"]] -= event.get("tdur", 0)
            times[event["name"]] += event.get("tdur", 0)
            around.append(event)
    return times


def scroll(browser: Browser, static: Path, how: str) -> Frames:
    """Scrolls the grid of a folder's bundle, first untraced for the times between frames, then traced."""
    steps = list(SCROLLS[how])
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    try:
        mount_big(page, static)
        page.wait_for_timeout(1000)
        seen = page.evaluate(SCROLL, steps)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "trace.json"
            browser.start_tracing(page=page, path=path, categories=CATEGORIES)
            page.evaluate(SCROLL, steps)
            browser.stop_tracing()
            times = own_times(json.loads(path.read_text())["traceEvents"])
    finally:
        page.close()
    by_kind: Counter[str] = Counter()
    for name, microseconds in times.items():
        by_kind[KINDS.get(name, "other")] += microseconds / 1000 / steps[2]
    return Frames(seen["median_ms"], seen["p95_ms"], sum(by_kind.values()), dict(by_kind))


def compare_scrolls(browser: Browser, builds: dict[str, Path], n_rounds: int) -> None:
    """Prints a row per build and scroll, the builds in turn, and the ratio of the last to the first."""
    kinds = list(dict.fromkeys([*KINDS.values(), "other"]))
    print(f"| scroll | build | frame, median | p95 | processor per frame | {' | '.join(kinds)} |")
    print("| --- | --- | ---: | ---: | ---: |" + " ---: |" * len(kinds))
    for how in SCROLLS:
        found: dict[str, list[Frames]] = {name: [] for name in builds}
        for i in range(n_rounds):
            for name, static in list(builds.items())[:: 1 if i % 2 else -1]:
                found[name].append(scroll(browser, static, how))
        rows: list[list[float]] = []
        for name, rounds in found.items():
            values = [
                [f.median_ms, f.p95_ms, f.cpu_ms, *(f.by_kind.get(k, 0) for k in kinds)] for f in rounds
            ]
            rows.append([statistics.median(column) for column in zip(*values, strict=True)])
            print(f"| {how} | {name} | {' | '.join(f'{ms:.1f}' for ms in rows[-1])} |", flush=True)
        ratios = [now / then if then else float("nan") for then, now in zip(rows[0], rows[-1], strict=True)]
        print(f"| {how} | ratio | {' | '.join(f'{ratio:.2f}' for ratio in ratios)} |", flush=True)
