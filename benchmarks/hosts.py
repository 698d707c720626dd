"""How long a click takes to become a card, in each host, beside that host's own empty round trip.

Prints a row per host, in milliseconds: the median and the 90th percentile of (a) an empty message to the
kernel and back, sent by a widget of three lines, and (b) a click on a cell until the card holds the kernel's
numbers. Both are taken inside the page, at a person's pace: within 40 ms of the last message every round trip
takes 46 ms, since the server waits for an acknowledgement that the browser puts off. What the decode itself
costs in the kernel is printed beside them.
"""

import statistics
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "browser")]

from harness import output_page  # noqa: E402
from harness.lens import Lens  # noqa: E402
from harness.notebook import Notebook, write_notebook  # noqa: E402
from harness.pages import chromium, watched_page  # noqa: E402
from harness.servers import jupyter  # noqa: E402

N_LAYERS = 30
N_CLICKS = 40
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
CLICKS = """async ([n, nLayers]) => {
  const root = document.querySelector(".lenswidget"), times = [];
  const cells = [...root.querySelectorAll("[role=gridcell]")];
  for (let i = 0; i < n; i++) {
    const cell = cells[(i * 7 + 3) % cells.length];
    const position = Number(cell.getAttribute("aria-colindex")) - 2;
    const row = Number(cell.parentElement.getAttribute("aria-rowindex")) - 2;
    const layer = nLayers - 1 - row;
    const name = `Decoded cell, ${layer < 0 ? "embedding" : "layer " + layer}, position ${position}`;
    const start = performance.now();
    cell.click();
    await new Promise((done) => {
      const look = () => {
        const card = root.querySelector("[data-card=main]");
        if (card?.ariaLabel !== name || card.ariaBusy !== "false") return;
        observer.disconnect();
        done();
      };
      const observer = new MutationObserver(look);
      observer.observe(root, { subtree: true, childList: true, attributes: true });
    });
    times.push(performance.now() - start);
    await new Promise((done) => setTimeout(done, 300));
  }
  return times;
}"""


def row(host, scope, execute):
    """Measures one host and prints its row."""
    Lens(scope, N_LAYERS).wait_until_drawn()
    scope.wait_for_selector(".ping-widget", state="attached")
    scope.wait_for_timeout(2000)  # the first tiles are on their way
    cells = [host]
    for script in (PINGS, CLICKS):
        times = sorted(scope.evaluate(script, [N_CLICKS + 5, N_LAYERS])[5:])
        cells.append(f"{statistics.median(times):.0f} / {times[int(0.9 * len(times))]:.0f}")
    print(f"| {' | '.join(cells)} | {float(execute(DECODES)):.0f} |", flush=True)


def main() -> None:
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
