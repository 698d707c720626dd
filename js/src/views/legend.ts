import { type Child, h } from "../base/dom.ts";
import type { Cells } from "../cells/cells.ts";
import { coloringOf, METRIC_SPECS, metricName, ticksOf, unitOf } from "../cells/fields.ts";
import { ramp } from "../look/scales.ts";
import type { App } from "../state/context.ts";
import { shownRun } from "../state/selectors.ts";
import { targetName } from "./describe.ts";

/** An entry of the legend: its text, and the class, background and pin colour of its swatch. */
export type LegendKey = readonly [text: string, className: string, surface: string, pin?: string];

/** The meaning of colours and marks. A yes-or-no number has two swatches instead of a scale. */
export function legendOf(app: App, cells: Cells) {
  const traits = app.traits();
  const { site, stride } = traits;
  const coloring = coloringOf(traits, cells.run);
  const spec = METRIC_SPECS[coloring];
  const ticks = ticksOf(spec, cells.run);
  const colors = ramp(spec.scale, app.theme()).map(({ css }) => css);
  const keys: LegendKey[] = [
    [`not computed${cells.run.others ? ", or one side lacks it" : ""}`, "is-missing", ""],
    [`is ${targetName(cells.run)}`, "is-next", ""],
  ];
  if (site === "resid_post")
    keys.push([`final answer from here on${stride > 1 ? ", of the layers shown" : ""}`, "is-settled", ""]);
  if (shownRun(app.get())?.edits?.some(({ is_on }) => is_on)) keys.push(["edited", "is-edited", ""]);
  if (coloring.startsWith("effect")) keys.splice(1, 1, ["an estimate", "is-estimate", ""]);
  const isYesNo = coloring === "agrees" || coloring === "change_agrees";
  if (isYesNo)
    keys.unshift(...ticks.map(({ at, text }): LegendKey => [text, "", colors[Math.round(at * 64)] ?? ""]));
  const { floor, show } = traits;
  if (show !== "top") keys.push([`its place among all tokens, where that is not the first`, "is-placed", ""]);
  if (floor && cells.floors.of(traits, show)?.size)
    keys.push(["no more than noise would say", "is-noise", ""]);
  return {
    /** Of the lens that all this is read through. */
    poor: site === "resid_post" && cells.run.lens_quality?.[traits.lens]?.poor,
    name: metricName(cells, traits) + unitOf(traits, cells.run),
    ticks,
    scale: isYesNo ? null : colors,
    keys,
  };
}

export function legend(app: App): Child {
  const cells = app.cells();
  if (!cells) return null;
  const { name, ticks, scale, keys, poor } = legendOf(app, cells);
  return h(
    "div.lw-legend",
    { role: "group", "aria-label": `Legend: ${name}` },
    h("bdi.lw-dim", name),
    scale &&
      h(
        "span.lw-scale",
        h("i.lw-ramp", { style: { background: `linear-gradient(to right, ${scale.join()})` } }),
        ticks.map(({ at, text }) => h("span.lw-tick", { style: { left: `${at * 100}%` } }, text)),
      ),
    keys.map(([text, look, background]) =>
      h("span.lw-key", h("i", { class: `lw-swatch ${look}`, style: { background } }), text),
    ),
    poor && h("span.lw-key", poor),
  );
}
