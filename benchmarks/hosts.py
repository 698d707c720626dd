"""How long a click takes to become a card, in each host, beside that host's own empty round trip.

Prints a row per host, in milliseconds: the median and the 90th percentile of (a) an empty message to the
kernel and back, sent by a widget of three lines, and (b) a click on a cell until the card holds the kernel's
numbers. Both are taken inside the page, at a person's pace: within 40 ms of the last message every round trip
takes 46 ms, since the server waits for an acknowledgement that the browser puts off. What the decode itself
costs in the kernel is printed beside them.

With `--against REVISION`, the pages of that revision and of this working tree are built anew and measured in
turn: the frames of scrolls over a grid of 100 x 4,096 and, in JupyterLab, a press of the mouse until the card
with the kernel's numbers is painted. 100 presses of either build in rounds that alternate are of a pointer
that has rested on the cell for 150 ms, and as many of one that comes with the press. `--only scroll` or
`--only press` leaves the other away.
"""

import argparse
import contextlib
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "browser"), str(ROOT / "benchmarks")]

from against import checkout  # noqa: E402
from frames import compare_scrolls  # noqa: E402
from harness import output_page  # noqa: E402
from harness.lens import Lens  # noqa: E402
from harness.notebook import Notebook, write_notebook  # noqa: E402
from harness.pages import chromium, watched_page  # noqa: E402
from harness.servers import jupyter  # noqa: E402

N_LAYERS = 30
N_CLICKS = 40
N_PRESSES, N_ROUNDS = 25, 4
# How long the pointer is on the cell before the press: a hand that aims, and none.
RESTS_MS = (150, 0)
CODE = """
import time, anywidget, statistics
import lenswidget as lw

class Ping(anywidget.AnyWidget):
    _esm = '''export default { render({ model, el }) {
      el.className = "ping-widget";
      el.ping = () => new Promise((done) => {
        const start = performance.now();
        const heard = () => { model.off("msg:custom", heard); done(performance.now() - start); };
        model.on("msg:custom", heard);
        model.send({});
      });
    } }'''

ping = Ping()
ping.on_msg(lambda *_: ping.send({}))
model = lw.demo_model()
w = model.lens("The Eiffel Tower is in the city of")
display(w, ping)
"""
DECODES = """
def _seconds():
    start = time.perf_counter()
    w.selection = None
    w.selection = {"layer": 12, "position": 4}
    return time.perf_counter() - start
print(1000 * statistics.median(_seconds() for _ in range(20)))
"""
PINGS = """async ([n]) => {
  const times = [];
  for (let i = 0; i < n; i++) {
    times.push(await document.querySelector(".ping-widget").ping());
    await new Promise((done) => setTimeout(done, 300));
  }
  return times;
}"""
CLICKS = """async ([n, nLayers, isPainted, rest_ms]) => {
  const root = document.querySelector(".lenswidget"), times = [];
  const cells = [...root.querySelectorAll("[role=gridcell]")];
  // whether a frame's callbacks are running: what they change is painted at the end of this frame
  let isInFrame = false, isOver = false;
  const task = (act) => { const c = new MessageChannel(); c.port1.onmessage = act; c.port2.postMessage(0); };
  const tick = () => {
    isInFrame = true;
    task(() => { isInFrame = false; });
    if (!isOver) requestAnimationFrame(tick);
  };
  if (isPainted) requestAnimationFrame(tick);
  for (let i = 0; i < n; i++) {
    const cell = cells[(i * 7 + 3) % cells.length];
    const position = Number(cell.getAttribute("aria-colindex")) - 2;
    const row = Number(cell.parentElement.getAttribute("aria-rowindex")) - 2;
    const layer = nLayers - 1 - row;
    const name = `Decoded cell, ${layer < 0 ? "embedding" : "layer " + layer}, position ${position}`;
    const at = { bubbles: true, button: 0, isPrimary: true, pointerId: 1, pointerType: "mouse" };
    if (rest_ms) {
      cell.dispatchEvent(new PointerEvent("pointermove", at));
      await new Promise((done) => setTimeout(done, rest_ms));
    }
    const start = performance.now();
    if (isPainted) cell.dispatchEvent(new PointerEvent("pointerdown", at));
    else cell.click();
    await new Promise((done) => {
      const look = () => {
        const card = root.querySelector("[data-card=main]");
        if (card?.ariaLabel !== name || card.ariaBusy !== "false") return;
        observer.disconnect();
        if (!isPainted) done();
        else if (isInFrame) task(done);
        else requestAnimationFrame(() => task(done));
      };
      const observer = new MutationObserver(look);
      observer.observe(root, { subtree: true, childList: true, attributes: true });
      look();
    });
    times.push(performance.now() - start);
    if (isPainted) cell.dispatchEvent(new PointerEvent("pointerup", at));
    await new Promise((done) => setTimeout(done, 300));
  }
  isOver = true;
  return times;
}"""


def row(host, scope, execute):
    """Measures one host and prints its row."""
    Lens(scope, N_LAYERS).wait_until_drawn()
    scope.wait_for_selector(".ping-widget", state="attached")
    scope.wait_for_timeout(2000)  # the first tiles are on their way
    cells = [host]
    for script in (PINGS, CLICKS):
        times = sorted(scope.evaluate(script, [N_CLICKS + 5, N_LAYERS, False, 0])[5:])
        cells.append(f"{statistics.median(times):.0f} / {times[int(0.9 * len(times))]:.0f}")
    print(f"| {' | '.join(cells)} | {float(execute(DECODES)):.0f} |", flush=True)


def presses(browser, package):
    """By the pointer's rest, milliseconds from press to painted card in JupyterLab, of a build."""
    folder = Path(tempfile.mkdtemp())
    write_notebook(folder / "t.ipynb", CODE)
    with jupyter("lab", folder, package=package) as base, watched_page(browser) as (page, _):
        Notebook(page, base, "t.ipynb").run_all()
        Lens(page, N_LAYERS).wait_until_drawn()
        page.wait_for_timeout(2000)
        script = [N_PRESSES + 5, N_LAYERS, True]
        return {rest_ms: page.evaluate(CLICKS, [*script, rest_ms])[5:] for rest_ms in RESTS_MS}


@contextlib.contextmanager
def built(revision: str) -> Iterator[Path]:
    """A folder with the tree of a revision, its page built by its own script, with the packages here."""
    packages = ROOT / "js" / "node_modules"
    if not packages.exists():
        sys.exit("The pages are built with js/node_modules, which is not there. Run `make setup` first.")
    with checkout(revision) as folder:
        (folder / "js" / "node_modules").symlink_to(packages)
        subprocess.run(["npm", "run", "--silent", "build"], cwd=folder / "js", check=True)
        yield folder


def working_tree() -> str:
    """A commit of the tracked files as they are."""
    command = ["git", "stash", "create"]
    found = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
    return found or "HEAD"


def compare(revision: str, only: str | None, n_rounds: int) -> None:
    """Prints the frames of scrolls, and press to paint, of this build beside an earlier one."""
    with chromium() as browser, built(revision) as earlier, built(working_tree()) as now:
        builds = {revision: earlier, "this build": now}
        if only != "press":
            pages = {name: folder / "lenswidget" / "static" for name, folder in builds.items()}
            compare_scrolls(browser, pages, n_rounds)
        if only != "scroll":
            compare_presses(browser, builds, n_rounds)


def compare_presses(browser, builds: dict[str, Path], n_rounds: int) -> None:
    """Prints press to paint of each build, and the ratio of the last to the first."""
    times = {rest_ms: {name: [] for name in builds} for rest_ms in RESTS_MS}
    for i in range(n_rounds):
        for name, package in list(builds.items())[:: 1 if i % 2 else -1]:
            for rest_ms, taken in presses(browser, package).items():
                times[rest_ms][name] += taken
    for rest_ms, of_builds in times.items():
        print(f"The pointer rested for {rest_ms} ms:")
        for name, taken in of_builds.items():
            p90 = sorted(taken)[int(0.9 * len(taken))]
            median = statistics.median(taken)
            print(f"{name}: press to paint {median:.1f} ms, p90 {p90:.1f}, of {len(taken)} presses")
        then, now = map(statistics.median, of_builds.values())
        print(f"ratio {now / then:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--against", metavar="REVISION")
    parser.add_argument("--only", choices=["scroll", "press"], help="of what --against measures")
    parser.add_argument(
        "--rounds", type=int, default=N_ROUNDS, help="of --against, each of 25 presses a build"
    )
    options = parser.parse_args()
    if options.against is not None:
        compare(options.against, options.only, options.rounds)
        return
    print("| host | empty round trip, median / p90 | click to card, median / p90 | decode alone |")
    print("| --- | --- | --- | --- |")
    with chromium() as browser:
        for kind, host in (("lab", "JupyterLab"), ("notebook", "Notebook 7")):
            folder = Path(tempfile.mkdtemp())
            write_notebook(folder / "t.ipynb", CODE)
            with jupyter(kind, folder) as base, watched_page(browser) as (page, _):
                notebook = Notebook(page, base, "t.ipynb", kind=kind)
                notebook.run_all()
                row(host, page, notebook.execute)
        with output_page.assets() as assets_url:
            port = assets_url.rpartition(":")[2]
            options = [f"--ServerApp.allow_origin_pat=http://(127.0.0.1|localhost):{port}"]
            folder = Path(tempfile.mkdtemp())
            with jupyter("server", folder, *options, "--ServerApp.disable_check_xsrf=True") as base:
                for host, name in (
                    ("vscode", "VS Code's manager, slowed pipe"),
                    ("colab", "Colab-like frame"),
                ):
                    with watched_page(browser) as (page, _):
                        opened = output_page.OutputPage(page, assets_url, base, host)
                        opened.use_theme("light")
                        opened.run(CODE)
                        row(name, opened.frame, opened.run)
                        opened.shut_down()


if __name__ == "__main__":
    main()
