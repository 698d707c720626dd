import { type Child, h } from "../base/dom.ts";
import { METRIC_SPECS } from "../cells/fields.ts";
import type { Pin, RunInfo, TrajectoryMetric } from "../kernel/protocol.ts";
import { clamp, fixed, layerName, QUARTERS, UNKNOWN } from "../look/format.ts";

/** One line: a value per place, from the embedding up or from the first token on; NaN where it is not known. */
export interface Line {
  readonly name: string;
  readonly color: string;
  /** The pin that the line belongs to. */
  readonly pin?: Pin;
  /** The number of its dash pattern; one per position. */
  readonly dash: number;
  readonly values: readonly number[];
  /** The place of the largest rise, which has a larger dot. */
  readonly rise?: number;
  /** The text of each row's dot, if it is more than the value. */
  readonly notes?: readonly string[];
}

/** What a chart runs over: layers from the embedding up, or the tokens of a prompt. */
export interface Along {
  /** How many places there are. */
  readonly n: number;
  /** "Over the layers". */
  readonly title: string;
  /** What the first and the last are called in a sentence. */
  readonly ends: readonly [string, string];
  /** What stands at the axis. */
  name(i: number): string;
}

export interface ChartProps {
  readonly lines: readonly Line[];
  readonly metric: TrajectoryMetric;
  readonly along: Along;
  readonly d_vocab: number;
  readonly width_px: number;
  /** The place that is looked at, marked by a vertical rule. */
  readonly at: number | null;
  readonly pick: (i: number) => void;
}

/** Over the layers of a run: place 0 is the embedding. */
export function overLayers(run: Pick<RunInfo, "n_layers" | "rows">): Along {
  return {
    n: run.n_layers + 1,
    title: "Over the layers",
    ends: ["embedding", "last layer"],
    name: (i) => layerName(i - 1, run),
  };
}

const HEIGHT = 170;
const LEFT = 52;
const RIGHT = 12;
const TOP = 10;
const BOTTOM = 24;
export const DASHES = ["", "5 3", "1.5 3", "8 3 1.5 3"];

interface Axis {
  y(value: number): number;
  readonly ticks: readonly number[];
  text(value: number): string;
}

function axisOf(metric: TrajectoryMetric, d_vocab: number, lines: readonly Line[]): Axis {
  const height = HEIGHT - TOP - BOTTOM;
  const text = METRIC_SPECS[metric].tick;
  if (metric === "prob") return { y: (p) => TOP + height * (1 - p), ticks: QUARTERS, text };
  if (metric === "rank") {
    const top = Math.log10(d_vocab);
    const ticks = [1, 10, 100, 1000, 10_000, 100_000].filter((n) => n < d_vocab).map((n) => n - 1);
    return { y: (rank) => TOP + (height * Math.log10(rank + 1)) / top, ticks, text };
  }
  const known = lines.flatMap(({ values }) => values.filter(Number.isFinite));
  const low = Math.min(-4, Math.floor(Math.min(0, ...known) / 4) * 4);
  const ticks = QUARTERS.map((t) => t * low);
  return { y: (x) => TOP + (height * x) / low, ticks, text: (x) => fixed(x, 0) };
}

/** The path of a line, with a gap where a value is not known. */
function pathOf(values: readonly number[], x: (i: number) => number, y: (value: number) => number): string {
  let isDown = false;
  return values
    .map((value, i) => {
      if (!Number.isFinite(value)) {
        isDown = false;
        return "";
      }
      const move = isDown ? "L" : "M";
      isDown = true;
      return `${move}${x(i).toFixed(1)} ${y(value).toFixed(1)}`;
    })
    .join("");
}

export function valueText(metric: TrajectoryMetric, value: number): string {
  return Number.isNaN(value) ? "not computed" : METRIC_SPECS[metric].format(value);
}

/** A line as a sentence, for screen readers. */
function spoken({ name, values }: Line, metric: TrajectoryMetric, { ends }: Along): string {
  const last = values.length - 1;
  const [first, end] = ends;
  return `${name}: ${first} ${valueText(metric, values[0] ?? UNKNOWN)}, ${end} ${valueText(metric, values[last] ?? UNKNOWN)}`;
}

function axes(axis: Axis, x: (i: number) => number, along: Along, width_px: number): Child {
  const n_rows = along.n;
  const every = Math.max(1, Math.ceil(n_rows / Math.max(1, Math.floor(width_px / 60))));
  const rows = Array.from({ length: n_rows }, (_, row) => row).filter(
    (row) =>
      row === 0 || row === n_rows - 1 || ((row - 1) % every === 0 && row > 1 && row < n_rows - every / 2),
  );
  return [
    axis.ticks.map((tick) => [
      h("line.lw-gridline", {
        x1: LEFT,
        x2: width_px - RIGHT,
        y1: axis.y(tick),
        y2: axis.y(tick),
      }),
      h("text.lw-axis", { x: LEFT - 6, y: axis.y(tick) + 3.5, "text-anchor": "end" }, axis.text(tick)),
    ]),
    rows.map((row) =>
      h(
        "text.lw-axis",
        { x: x(row), y: HEIGHT - 8, "text-anchor": row === n_rows - 1 ? "end" : "middle" },
        along.name(row),
      ),
    ),
  ];
}

/** Trajectories over the layers, or along the prompt. A click picks the place. */
export function chart(props: ChartProps): Child {
  const { lines, metric, along, d_vocab, width_px, at: now } = props;
  const n_rows = along.n;
  const axis = axisOf(metric, d_vocab, lines);
  const x = (row: number) => LEFT + (row * (width_px - LEFT - RIGHT)) / Math.max(1, n_rows - 1);
  const click = (event: MouseEvent) => {
    const box = (event.target as Element).closest("svg")?.getBoundingClientRect();
    if (!box) return;
    // a narrow notebook scales the chart down
    const at = ((event.clientX - box.left) * width_px) / box.width;
    const row = Math.round(((at - LEFT) / (width_px - LEFT - RIGHT)) * (n_rows - 1));
    props.pick(clamp(row, 0, n_rows - 1));
  };
  const dots = lines.flatMap((line) =>
    line.values.map((value, row) => ({ line, value, row })).filter(({ value }) => Number.isFinite(value)),
  );
  return h(
    "svg.lw-chart",
    {
      role: "img",
      width: width_px,
      height: HEIGHT,
      viewBox: `0 0 ${width_px} ${HEIGHT}`,
      "aria-label": `${along.title}. ${lines.map((line) => spoken(line, metric, along)).join(". ")}`,
      on: { click },
    },
    axes(axis, x, along, width_px),
    now !== null && h("line.lw-rule", { x1: x(now), x2: x(now), y1: TOP, y2: HEIGHT - BOTTOM }),
    lines.map((line) =>
      h("path.lw-line", {
        d: pathOf(line.values, x, axis.y),
        stroke: line.color,
        "stroke-dasharray": DASHES[line.dash % DASHES.length],
      }),
    ),
    dots.length <= 400 &&
      dots.map(({ line, value, row }) =>
        h(
          "circle.lw-dot",
          {
            cx: x(row),
            cy: axis.y(value),
            r: now === row || line.rise === row ? 4 : 2.2,
            fill: line.color,
          },
          h("title", `${line.name}, ${along.name(row)}: ${line.notes?.[row] ?? valueText(metric, value)}`),
        ),
      ),
  );
}
