"""What the widget may cost: bytes, nodes, frames, the time from a click to its card. Figures are printed."""

import json
import statistics
from pathlib import Path

from widget_page import CODE, widget_in_lab

STATIC = Path(__file__).parents[2] / "lenswidget" / "static"
N_CLICKS = 100

# An empty request to the widget's comm and back, as the page's own transport makes it.
PING = """async ([comm_id, n]) => {
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
    await new Promise((resolve) => setTimeout(resolve, 60));
  }
  return taken;
}"""

# From the click's own time stamp until the frame after the one that painted the kernel's card.
WATCH = """() => {
  const root = document.querySelector(".lenswidget");
  window.painted = [];
  let started = 0;
  root.addEventListener("click", (event) => { started = event.timeStamp; }, { capture: true });
  new MutationObserver(() => {
    const card = root.querySelector("[data-card=main]");
    if (!started || !card || card.ariaBusy !== "false") return;
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
from lenswidget.wire import DecodeRequest
def _decode(i):
    request = DecodeRequest(run_id=w.run["id"], layer=i % 30, position=i % 9, site="resid_post",
                            lens="logit", k=20, temperature=1.0, track=[])
    started = time.perf_counter()
    w._session.decode(request)
    return 1000 * (time.perf_counter() - started)
_taken = [_decode(i) for i in range(100)]
"""


def test_a_card_is_painted_within_round_trip_decode_and_15_ms(browser, lab):
    with widget_in_lab(browser, lab, "latency.ipynb", CODE) as widget:
        widget.page.wait_for_timeout(1500)
        model_id = widget.value("w.model_id")
        ping_ms = statistics.median(widget.page.evaluate(PING, [model_id, N_CLICKS]))
        widget.execute(DECODES)
        decode_ms = statistics.median(widget.value("_taken"))
        widget.page.evaluate(WATCH)
        for i in range(N_CLICKS):
            widget.cell(8 + (i * 7) % 20, (i * 3) % 7).click()
            widget.page.wait_for_function(f"() => window.painted.length === {i + 1}")
            widget.page.wait_for_timeout(30)
        painted_ms = statistics.median(widget.page.evaluate("window.painted"))
        found = {"ping": ping_ms, "decode": decode_ms, "click to paint": painted_ms}
        print("median ms:", json.dumps({name: round(ms, 1) for name, ms in found.items()}))
        assert painted_ms <= ping_ms + decode_ms + 15
