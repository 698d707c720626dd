"""What the widget may cost: bytes, nodes, frames, the time from a click to its card. Figures are printed."""

import gzip
import json
import statistics
import time

import pytest
from harness.big_grid import SCROLL, SCROLLS, STATIC, mount_big
from playwright.sync_api import expect
from widget_page import CODE, widget_in_lab

N_CLICKS = 20
N_PAIRS = 4
# As a person clicks. Within some 40 ms of the last message the browser puts off its acknowledgement, for
# which the server (no TCP_NODELAY) waits: every round trip then takes 46 ms, whatever it carries.
PAUSE_MS = 250

# An empty request to the widget's comm and back, as the page's own transport makes it.
PING = """async ([comm_id, n, pause_ms]) => {
  const { kernel } = window.jupyterapp.shell.currentWidget.sessionContext.session;
  const taken = [];
  for (let i = 0; i < n; i++) {
    const id = `test:${i}`;
    const started = performance.now();
    await new Promise((resolve) => {
      const hear = (_, message) => {
        if (message.content?.data?.content?.id !== id) return;
        kernel.iopubMessage.disconnect(hear);
        resolve();
      };
      kernel.iopubMessage.connect(hear);
      kernel.sendShellMessage({
        header: { msg_id: crypto.randomUUID(), msg_type: "comm_msg", username: "", session: kernel.clientId,
                  date: new Date().toISOString(), version: "5.2" },
        parent_header: {}, metadata: {}, buffers: [], channel: "shell",
        content: { comm_id, data: { method: "custom", content: { id, kind: "ping" } } },
      }, false, true);
    });
    taken.push(performance.now() - started);
    await new Promise((resolve) => setTimeout(resolve, pause_ms));
  }
  return taken;
}"""

# From the time stamp of the press, with which a click begins, until the frame after the one that painted the
# kernel's card of that cell.
WATCH = """([n_layers]) => {
  const root = document.querySelector(".lenswidget");
  window.painted = [];
  let started = 0, name = "";
  root.addEventListener("pointerdown", ({ timeStamp, target }) => {
    const cell = target.closest("[role=gridcell]");
    const layer = n_layers + 1 - cell.parentElement.ariaRowIndex;
    const position = cell.ariaColIndex - 2;
    name = `Decoded cell, ${layer < 0 ? "embedding" : "layer " + layer}, position ${position}`;
    started = timeStamp;
  }, { capture: true });
  new MutationObserver(() => {
    const card = root.querySelector("[data-card=main]");
    if (!started || card?.ariaLabel !== name || card.ariaBusy !== "false") return;
    const since = started;
    started = 0;
    requestAnimationFrame(() => {
      const { port1, port2 } = new MessageChannel();
      port1.onmessage = () => window.painted.push(performance.now() - since);
      port2.postMessage(0);
    });
  }).observe(root, { subtree: true, childList: true, attributeFilter: ["aria-busy", "aria-label"] });
}"""

DECODES = """
import time
from lenswidget.widget.requests import DecodeRequest
def _decode(i):
    request = DecodeRequest(run_id=w.run["id"], layer=i % 30, position=i % 9, site="resid_post",
                            lens="logit", k=20, temperature=1.0, track=[])
    started = time.perf_counter()
    w._session.decode(request)
    return 1000 * (time.perf_counter() - started)
_taken = [_decode(i) for i in range(100)]
# after a rest, as under a click: the cores have gone to sleep
_rested = [_decode(i) for i in range(40) if not time.sleep(0.25)]
"""


def press(widget, i):
    """Press a cell as a person would, and wait for the `i`-th card that is painted."""
    box = widget.cell(8 + (i * 7) % 20, (i * 3) % 7).bounding_box()
    widget.page.mouse.move(box["x"] + 20, box["y"] + 10)
    widget.page.wait_for_timeout(PAUSE_MS)
    widget.page.mouse.down()
    widget.page.mouse.up()
    widget.page.wait_for_timeout(PAUSE_MS)
    # not `wait_for_function`, which would keep the page drawing frames meanwhile
    end = time.monotonic() + 60
    while widget.page.evaluate("window.painted.length") <= i:
        assert time.monotonic() < end, f"press {i} painted no card"
        widget.page.wait_for_timeout(PAUSE_MS)


def test_every_click_paints_the_card_that_the_kernel_decoded(browser, lab):
    with widget_in_lab(browser, lab, "latency.ipynb", CODE) as widget:
        widget.page.wait_for_timeout(1500)
        model_id = widget.value("w.model_id")
        ping_ms = statistics.median(widget.page.evaluate(PING, [model_id, N_CLICKS, PAUSE_MS]))
        widget.execute(DECODES)
        decode_ms, rested_ms = (statistics.median(widget.value(name)) for name in ("_taken", "_rested"))
        widget.page.evaluate(WATCH, [30])
        for i in range(N_CLICKS):
            press(widget, i)
        painted_ms = statistics.median(widget.page.evaluate("window.painted"))
        found = {
            "empty round trip": ping_ms,
            "decode, one after the other": decode_ms,
            "decode, after a rest": rested_ms,
            "click to paint": painted_ms,
        }
        print("median ms:", json.dumps({name: round(ms, 1) for name, ms in found.items()}))
        # printed, not asserted: on a shared machine the sum measures the neighbours
        assert len(widget.page.evaluate("window.painted")) == N_CLICKS


def test_a_card_is_painted_first_and_then_why(browser, lab):
    with widget_in_lab(browser, lab, "why-latency.ipynb", CODE) as widget:
        widget.page.wait_for_timeout(1500)
        widget.execute("_ = w._session._engine.model.anatomy.units")
        widget.page.evaluate(WATCH, [30])
        painted = {False: [], True: []}
        press(widget, 0)
        for i in range(1, 1 + 2 * N_PAIRS):
            is_open = i % 2 == 0
            if (widget.card().locator(".lw-whybox").count() > 0) != is_open:
                widget.card().get_by_role("button", name="Why", exact=True).click()
            if is_open:
                expect(widget.card().locator(".lw-why:not(.is-stale)")).to_be_visible(timeout=60_000)
            press(widget, i)
            painted[is_open].append(widget.page.evaluate("window.painted.at(-1)"))
        expect(widget.card().locator(".lw-why:not(.is-stale)")).to_be_visible(timeout=60_000)
        without, with_why = (statistics.median(painted[is_open]) for is_open in (False, True))
        print(
            f"median ms, press to paint: {without:.0f}, with Why open {with_why:.0f}, "
            f"ratio {with_why / without:.2f}"
        )
        assert len(painted[True]) == N_PAIRS


@pytest.fixture
def big(page):
    page.set_viewport_size({"width": 1200, "height": 900})
    # the least of a few: beside other tests one of them measures the neighbours
    mount_ms = min(mount_big(page) for _ in range(5))
    page.wait_for_timeout(1000)
    return page, mount_ms


def test_the_bundle_is_at_most_160_kb_and_61_kb_gzipped():
    script = (STATIC / "widget.js").read_bytes()
    n_gzip = len(gzip.compress(script, 9))
    print("bytes:", len(script), "gzip:", n_gzip, "style:", (STATIC / "widget.css").stat().st_size)
    assert len(script) <= 160_000
    assert n_gzip <= 61_000


def test_a_grid_of_100_by_4096_keeps_to_1500_nodes_and_the_frame_budget(big):
    page, mount_ms = big
    found = {"mount_ms": round(mount_ms)}
    for name, steps in SCROLLS.items():
        found[name] = page.evaluate(SCROLL, list(steps))
        assert found[name]["nodes"] <= 1500
    print(json.dumps(found))
    assert mount_ms <= 500
    # the frames themselves are printed, not asserted: on a shared machine they measure the neighbours
    assert page.locator(".lw-body [role=gridcell]").count() > 200


def test_a_minimal_column_width_keeps_to_1500_nodes(big):
    page, _ = big
    page.set_viewport_size({"width": 1900, "height": 1100})
    page.get_by_title("More").click()
    page.get_by_label("Column width, px").fill("24")
    page.get_by_label("Column width, px").press("Enter")
    page.wait_for_function("() => document.querySelector('.lw-colhead').offsetWidth === 24")
    assert page.evaluate(SCROLL, [640, 6, 20])["nodes"] <= 1500
