"""A grid of 100 layers by 4,096 tokens, made of numbers, and scrolls over it: no kernel, no server."""

from pathlib import Path

from playwright.sync_api import Page

STATIC = Path(__file__).resolve().parents[3] / "lenswidget" / "static"

# A page with a bundle and a model made of numbers, which answers every read at once.
BIG = """async ([esm, css, n_layers, n_tokens]) => {
  const style = document.head.appendChild(document.createElement("style"));
  style.textContent = css;
  const { default: widget } = await import(URL.createObjectURL(new Blob([esm], { type: "text/javascript" })));
  const ids = Array.from({ length: 500 }, (_, id) => id);
  const labels = Object.fromEntries(ids.map((id) => [id, [`token${id}`, "text", `token${id}`]]));
  const tokens = Array.from({ length: n_tokens }, (_, i) => i % 500);
  const run = { id: "r", prompt: "p", model: "m", dtype: "float32", quantization: null, n_layers,
    d_vocab: 500, tokens, labels, special: tokens.map(() => false), sites: ["resid_post"],
    lenses: ["logit"], max_length: null, fidelity: null, extras: [],
    next: { id: 7, log_prob: -1 } };
  const values = { run, prompt: "p" };
  const heard = new Set();
  const reply = ({ id, layers, positions, k, run_id, site, lens }) => {
    const n = layers.length * positions.length;
    const shape = [layers.length, positions.length];
    const arrays = [["ids", "int32", [...shape, k]], ["log_probs", "float32", [...shape, k]],
                    ["entropy_nats", "float32", shape]]
      .map(([name, dtype, shape]) => ({ name, dtype, shape }));
    const log_probs = Float32Array.from({ length: n * k }, (_, i) => -((i * 7919) % 97) / 20);
    const top = Int32Array.from({ length: n * k }, (_, i) => (i * 31) % 500);
    const buffers = [top, log_probs, new Float32Array(n)];
    const asked = { run_id, site, lens, k, layers, positions };
    const value = { ...asked, tracked_ids: [], arrays, labels: {} };
    for (const f of heard) f({ id, value }, buffers.map((b) => new DataView(b.buffer)));
  };
  const model = { get: (name) => values[name], set() {}, save_changes() {}, off() {},
    on: (event, f) => event === "msg:custom" && heard.add(f),
    send: (message) => message.kind === "read" && setTimeout(reply, 0, message) };
  const el = document.body.appendChild(document.createElement("div"));
  const frame = () => new Promise(requestAnimationFrame);
  await frame();
  const started = performance.now();
  widget.render({ model, el });
  await frame();
  await frame();
  return performance.now() - started;
}"""
# Pixels to the right and down per frame, and for how many frames.
SCROLLS = {"slow": (37, 0, 200), "fast": (640, 6, 200)}
SCROLL = """async ([dx, dy, n]) => {
  const grid = document.querySelector(".lw-grid");
  const taken = [];
  let nodes = 0;
  let last = await new Promise(requestAnimationFrame);
  for (let i = 0; i < n; i++) {
    grid.scrollLeft += dx;
    if (grid.scrollTop + grid.clientHeight >= grid.scrollHeight - 2) dy = -dy;
    grid.scrollTop += dy;
    const now = await new Promise(requestAnimationFrame);
    taken.push(now - last);
    last = now;
    nodes = Math.max(nodes, document.querySelectorAll("*").length);
  }
  taken.sort((a, b) => a - b);
  return { median_ms: taken[n >> 1], p95_ms: taken[Math.floor(n * 0.95)], max_ms: taken[n - 1], nodes };
}"""


def mount_big(page: Page, static: Path = STATIC) -> float:
    """Mounts a grid of 100 x 4,096 in an empty page, from a bundle; how long that took, in ms."""
    page.goto("about:blank")
    esm, css = ((static / name).read_text() for name in ("widget.js", "widget.css"))
    mount_ms = page.evaluate(BIG, [esm, css, 100, 4096])
    page.locator("[role=gridcell]").first.wait_for()
    return mount_ms
