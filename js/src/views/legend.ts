import type { App } from "../app.ts";
import { type Child, h } from "../dom.ts";
import { METRICS, nameOf, ticksOf } from "../metrics.ts";
import { ramp } from "../scales.ts";
import { runOf } from "../selectors.ts";

/** What the colours and marks mean. */
export function legend(app: App): Child {
  const { traits } = app.get();
  const run = runOf(traits);
  const cells = app.cells();
  if (!run || !cells) return null;
  const { metric, site, stride } = traits;
  const spec = METRICS[metric];
  const name = nameOf(cells, traits) + spec.unit;
  const colors = ramp(spec.scale, app.theme()).map(({ css }) => css);
  const ticks = ticksOf(spec, run);
  const key = (look: string, text: string, background = "") =>
    h("span.lw-key", h("i", { class: `lw-swatch ${look}`, style: { background } }), text);
  return h(
    "div.lw-legend",
    { role: "group", "aria-label": `Legend: ${name}` },
    h("bdi.lw-dim", name),
    metric === "agrees"
      ? ticks.map(({ at, text }) => key("", text, colors[Math.round(at * 64)]))
      : h(
          "span.lw-scale",
          h("i.lw-ramp", { style: { background: `linear-gradient(to right, ${colors.join()})` } }),
          ticks.map(({ at, text }) => h("span.lw-tick", { style: { left: `${at * 100}%` } }, text)),
        ),
    key("is-missing", "not computed"),
    key("is-next", "is the next token"),
    site === "resid_post" &&
      key("is-settled", `final answer from here on${stride > 1 ? ", of the layers shown" : ""}`),
  );
}
