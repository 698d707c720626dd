import type { App } from "../app.ts";
import { type Child, h } from "../dom.ts";
import { METRICS } from "../metrics.ts";
import { ramp } from "../scales.ts";
import { runOf } from "../selectors.ts";

/** What the colours and marks mean. */
export function legend(app: App): Child {
  const { traits } = app.get();
  const run = runOf(traits);
  if (!run) return null;
  const spec = METRICS[traits.metric];
  const ticks = spec.ticks(run);
  const colors = ramp(spec.scale, app.theme());
  const shown = traits.metric === "agrees" ? [] : colors.filter((_, i) => i % 4 === 0).map(({ css }) => css);
  const swatches = ticks.map(({ at, text }) =>
    h(
      "span.lw-key",
      { key: text },
      h("i.lw-swatch", { style: { background: colors[Math.round(at * 64)]?.css ?? "" } }),
      text,
    ),
  );
  return h(
    "div.lw-legend",
    { role: "group", "aria-label": `Legend: ${spec.name}, ${spec.unit}` },
    h("span.lw-dim", spec.unit),
    traits.metric === "agrees"
      ? swatches
      : h(
          "span.lw-scale",
          h("i.lw-ramp", { style: { background: `linear-gradient(to right, ${shown.join(",")})` } }),
          ticks.map(({ at, text }) =>
            h("span.lw-tick", { key: text, style: { left: `${at * 100}%` } }, text),
          ),
        ),
    h("span.lw-key", h("i.lw-swatch is-missing", {}), "not computed"),
    h("span.lw-key", h("i.lw-swatch is-next", {}), "is the next token"),
    h("span.lw-key", h("i.lw-swatch is-settled", {}), "final answer from here on"),
  );
}
