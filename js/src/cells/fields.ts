import type { Metric, Reading, RunInfo } from "../kernel/protocol.ts";
import type { Traits } from "../kernel/traits.ts";
import { fixed, nats, percent, QUARTERS, quoted, rankText, UNKNOWN } from "../look/format.ts";
import type { ScaleName } from "../look/scales.ts";
import { type Cells, type FieldName, isScalar } from "./cells.ts";

/** How the number of a cell becomes a colour, and the words for it in the legend. */
export interface MetricSpec {
  readonly name: string;
  /** Follows the name in the legend. */
  readonly unit: string;
  readonly scale: ScaleName;
  format(value: number): string;
  /** Value to [0, 1], 1 being the strongest colour; values beyond are drawn as the nearest end. */
  position(value: number, d_vocab: number): number;
  /** The values that have a tick in the legend, from the weakest colour. */
  stops(d_vocab: number): readonly number[];
  tick(value: number): string;
}

const LOWEST_LOG_PROB = -6;
const HIGHEST_KL = 40;

export const METRIC_SPECS: Record<Metric, MetricSpec> = {
  prob: {
    name: "Probability",
    unit: " of the top token",
    scale: "probability",
    format: percent,
    position: (p) => p,
    stops: () => QUARTERS,
    tick: (p) => `${p * 100} %`,
  },
  log_prob: {
    name: "Log-prob",
    unit: " of the top token, nats",
    scale: "probability",
    format: nats,
    position: (x) => 1 - x / LOWEST_LOG_PROB,
    stops: () => [LOWEST_LOG_PROB, -4, -2, 0],
    tick: (x) => (x === LOWEST_LOG_PROB ? "≤ " : "") + fixed(x, 0),
  },
  entropy: {
    name: "Entropy",
    unit: ", nats",
    scale: "spread",
    format: nats,
    position: (x, d_vocab) => x / Math.log(d_vocab),
    stops: (d_vocab) => QUARTERS.map((t) => t * Math.log(d_vocab)),
    tick: (x) => fixed(x, 1),
  },
  kl: {
    name: "KL(last ‖ cell)",
    unit: ", nats",
    scale: "distance",
    format: nats,
    // early layers are tens of nats away, and most of the change that matters lies below 3 nats
    position: (x) => Math.log1p(x) / Math.log1p(HIGHEST_KL),
    stops: () => [0, 1, 3, 10, HIGHEST_KL],
    tick: (x) => (x === HIGHEST_KL ? "≥ " : "") + x,
  },
  rank: {
    name: "Rank of a token",
    unit: "",
    scale: "rank",
    format: rankText,
    position: (rank, d_vocab) => 1 - Math.log1p(rank) / Math.log(d_vocab),
    stops: (d_vocab) => [
      d_vocab - 1,
      ...[10_000, 1000, 100, 10, 1].filter((n) => n < d_vocab / 8).map((n) => n - 1),
    ],
    tick: rankText,
  },
  agrees: {
    name: "Agrees with the last layer",
    unit: "",
    scale: "agreement",
    format: (agrees) => (agrees ? "yes" : "no"),
    position: (agrees) => agrees * 0.55,
    stops: () => [0, 1],
    tick: (agrees) => METRIC_SPECS.agrees.format(agrees),
  },
};

/** The traits that choose which number of a cell is drawn. */
export type MetricTraits = Reading & Pick<Traits, "metric" | "rank_token">;

/** The token whose rank is drawn: the chosen one, else the model's own next token. */
export function rankedToken({ rank_token }: Pick<Traits, "rank_token">, run: RunInfo): number {
  return rank_token ?? run.next.id;
}

/** The ticks of the legend: where on the scale, in [0, 1], and their text. */
export function ticksOf({ stops, position, tick }: MetricSpec, { d_vocab }: Pick<RunInfo, "d_vocab">) {
  return stops(d_vocab).map((x) => ({ at: position(x, d_vocab), text: tick(x) }));
}

/** The name of a cell's number; a rank also names its token. */
export function metricName(cells: Cells, traits: MetricTraits): string {
  const { metric } = traits;
  return metric === "rank"
    ? `Rank of ${quoted(cells.label(rankedToken(traits, cells.run)))}`
    : METRIC_SPECS[metric].name;
}

/** A cell's number in words: "rank of “␣Paris”: #3,160". */
export function inWords(cells: Cells, traits: MetricTraits, value: number | undefined): string {
  // lower case within a sentence, except for KL
  const name = metricName(cells, traits).replace(/^.(?=[a-z])/, (letter) => letter.toLowerCase());
  return `${name}: ${value === undefined ? "not computed" : METRIC_SPECS[traits.metric].format(value)}`;
}

/** The field of a cell that a metric is drawn from. */
export function fieldOf(traits: Pick<Traits, "metric" | "rank_token">, run: RunInfo): FieldName {
  const { metric } = traits;
  if (metric === "rank") return `rank:${rankedToken(traits, run)}`;
  return isScalar(metric) ? metric : "top";
}

/** The number of a cell under the chosen metric; undefined when it was not computed. */
export function cellValue(
  cells: Cells,
  traits: MetricTraits,
  layer: number,
  position: number,
): number | undefined {
  const { metric } = traits;
  if (isScalar(metric)) return cells.scalar(traits, metric, layer, position);
  if (metric === "rank") {
    const rank = cells.tracked(traits, rankedToken(traits, cells.run), layer, position)?.rank;
    return rank === -1 ? UNKNOWN : rank;
  }
  const log_prob = cells.top(traits, layer, position)?.log_prob;
  return metric === "prob" && log_prob !== undefined ? Math.exp(log_prob) : log_prob;
}
