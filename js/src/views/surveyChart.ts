import { type Child, h } from "../base/dom.ts";
import type { Contrast, Curve, CurveMetric } from "../kernel/surveyTraits.ts";
import { fixed, layerName, percent, QUARTERS, rankText } from "../look/format.ts";
import { DASHES } from "./chart.ts";

/** A curve as it is drawn. */
export interface Series {
  readonly key: string;
  readonly name: string;
  readonly color: string;
  readonly dash: number;
  readonly curve: Curve;
}

const HEIGHT = 240;
const LEFT = 58;
const RIGHT = 14;
const TOP = 10;
const BOTTOM = 36;
const ROOM = HEIGHT - TOP - BOTTOM;

export const CURVE_NAMES: Record<CurveMetric, string> = {
  pass: "Share of prompts",
  log_prob: "Log-probability, nats",
  foil_difference: "Log-prob. above the foil, nats",
  rank: "Mean rank",
};

/** A mean in words; of a difference with its sign. */
export function meanText(metric: CurveMetric, contrast: Contrast | null, value: number | null): string {
  if (value === null) return "–";
  const sign = contrast && value > 0 ? "+" : "";
  if (metric === "pass" && !contrast) return percent(value);
  if (metric === "pass") return `${sign}${fixed(100 * value, 1)} pp`;
  if (metric === "rank" && !contrast) return fixed(value + 1, 1);
  return `${sign}${fixed(value, metric === "rank" ? 1 : 2)}`;
}

interface Axis {
  y(value: number): number;
  readonly ticks: readonly number[];
  text(value: number): string;
}

/** Steps of 1, 2 or 5 times a power of ten, at most six between the ends. */
function round(low: number, high: number): number[] {
  const rough = (high - low) / 5 || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = ([1, 2, 5, 10].find((each) => each * power >= rough) ?? 10) * power;
  const first = Math.ceil(low / step - 1e-9);
  return Array.from({ length: Math.floor(high / step + 1e-9) - first + 1 }, (_, i) => (first + i) * step);
}

function axisOf(metric: CurveMetric, contrast: Contrast | null, curves: readonly Curve[]): Axis {
  const known = curves.flatMap(({ low, high }) => [...low, ...high]).filter((x): x is number => x !== null);
  if (metric === "pass" && !contrast)
    return { y: (x) => TOP + ROOM * (1 - x), ticks: QUARTERS, text: (x) => `${100 * x} %` };
  if (metric === "rank" && !contrast) {
    const most = Math.log10(Math.max(10, ...known) + 1);
    const ticks = [1, 10, 100, 1000, 10_000, 100_000].filter((n) => Math.log10(n) <= most).map((n) => n - 1);
    return { y: (rank) => TOP + (ROOM * Math.log10(Math.max(0, rank) + 1)) / most, ticks, text: rankText };
  }
  const low = Math.min(0, ...known);
  const high = Math.max(0, ...known);
  const span = high - low || 1;
  const ticks = round(low, high);
  const digits = span < 5 ? (span < 0.5 ? 2 : 1) : 0;
  const text = (x: number) => (metric === "pass" ? `${fixed(100 * x, 0)} pp` : fixed(x, digits));
  return { y: (x) => TOP + (ROOM * (high - x)) / span, ticks, text };
}

/** The path along some points; one that is not known is left out. */
function path(points: readonly (readonly [x: number, y: number | null])[]): string {
  const known = points.filter((point): point is readonly [number, number] => point[1] !== null);
  return known.map(([x, y], i) => `${i ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`).join("");
}

/** A curve as a sentence, for screen readers. */
function spoken({ name, curve }: Series, metric: CurveMetric, contrast: Contrast | null): string {
  const at = (i: number) => meanText(metric, contrast, curve.mean.at(i) ?? null);
  return `${name}, ${curve.n} prompts: ${layerName(curve.layers[0] ?? 0)} ${at(0)}, last layer ${at(-1)}`;
}

export interface SurveyChartProps {
  readonly series: readonly Series[];
  readonly metric: CurveMetric;
  readonly contrast: Contrast | null;
  readonly width_px: number;
  /** The layer that is looked at, marked by a vertical rule. */
  readonly layer: number | null;
}

/** Means over the layers, each with its band. */
export function surveyChart({ series, metric, contrast, width_px, layer }: SurveyChartProps): Child {
  const curves = series.map(({ curve }) => curve);
  const axis = axisOf(metric, contrast, curves);
  const last = Math.max(0, ...curves.map(({ layers }) => layers.at(-1) ?? 0));
  const first = Math.min(last, ...curves.map(({ layers }) => layers[0] ?? 0));
  const x = (at: number) => LEFT + ((at - first) * (width_px - LEFT - RIGHT)) / Math.max(1, last - first);
  const every = Math.max(1, Math.ceil((last - first + 1) / Math.max(1, Math.floor(width_px / 64))));
  const named = Array.from({ length: last - first + 1 }, (_, i) => first + i).filter(
    (at) =>
      at === first || at === last || (at % every === 0 && at - first >= every / 2 && at < last - every / 2),
  );
  const points = ({ layers }: Curve, values: readonly (number | null)[]) =>
    layers.map((at, i) => [x(at), values[i] == null ? null : axis.y(values[i])] as const);
  const title = `${contrast ? "Difference of: " : ""}${CURVE_NAMES[metric]}, by layer`;
  return h(
    "svg.lw-chart lw-survey-chart",
    {
      role: "img",
      width: width_px,
      height: HEIGHT,
      viewBox: `0 0 ${width_px} ${HEIGHT}`,
      "aria-label": `${title}. ${series.map((each) => spoken(each, metric, contrast)).join(". ")}`,
    },
    axis.ticks.map((tick) => [
      h("line", {
        class: `lw-gridline${contrast && !tick ? " is-zero" : ""}`,
        x1: LEFT,
        x2: width_px - RIGHT,
        y1: axis.y(tick),
        y2: axis.y(tick),
      }),
      h("text.lw-axis", { x: LEFT - 6, y: axis.y(tick) + 3.5, "text-anchor": "end" }, axis.text(tick)),
    ]),
    named.map((at) =>
      h("text.lw-axis", { x: x(at), y: HEIGHT - BOTTOM + 16, "text-anchor": "middle" }, layerName(at)),
    ),
    h("text.lw-axis", { x: (LEFT + width_px - RIGHT) / 2, y: HEIGHT - 5, "text-anchor": "middle" }, "layer"),
    layer !== null && h("line.lw-rule", { x1: x(layer), x2: x(layer), y1: TOP, y2: HEIGHT - BOTTOM }),
    series.map(({ color, curve }) =>
      h("path.lw-band-area", {
        d: `${path([...points(curve, curve.high), ...points(curve, curve.low).reverse()])}Z`,
        fill: color,
      }),
    ),
    series.map(({ color, dash, curve }) =>
      h("path.lw-line", {
        d: path(points(curve, curve.mean)),
        stroke: color,
        "stroke-dasharray": DASHES[dash % DASHES.length],
      }),
    ),
  );
}

/** The numbers of the curves: a row per layer, a column per curve. */
export function surveyTable(
  series: readonly Series[],
  metric: CurveMetric,
  contrast: Contrast | null,
): Child {
  const layers = [...new Set(series.flatMap(({ curve }) => curve.layers))].sort((a, b) => b - a);
  const text = (value: number | null | undefined) => meanText(metric, contrast, value ?? null);
  return h(
    "table.lw-survey-table",
    h("caption.lw-hidden", `${CURVE_NAMES[metric]} by layer, with 95 % bands`),
    h(
      "thead",
      h(
        "tr",
        h("th", { scope: "col" }, "layer"),
        series.map(({ key, name, curve }) => h("th", { key, scope: "col" }, `${name} (n ${curve.n})`)),
      ),
    ),
    h(
      "tbody",
      layers.map((layer) =>
        h(
          "tr",
          { key: layer },
          h("th", { scope: "row" }, layerName(layer)),
          series.map(({ key, curve }) => {
            const i = curve.layers.indexOf(layer);
            const band = i < 0 ? "" : ` [${text(curve.low[i])}, ${text(curve.high[i])}]`;
            return h("td", { key }, i < 0 ? "" : text(curve.mean[i]), h("span.lw-dim", band));
          }),
        ),
      ),
    ),
  );
}
