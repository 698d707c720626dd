import type { Cells, FieldName } from "./cells.ts";
import { fixed, nats, percent, rankText } from "./format.ts";
import type { Metric, Reading, RunInfo, Traits } from "./protocol.ts";
import type { ScaleName } from "./scales.ts";

export interface Tick {
  /** Where on the scale, in [0, 1]. */
  readonly at: number;
  readonly text: string;
}

/** How a number of a cell becomes a colour, and what the legend says of it. */
export interface MetricSpec {
  readonly name: string;
  readonly unit: string;
  readonly scale: ScaleName;
  /** What a readout must carry beyond the top tokens. */
  readonly needs: readonly string[];
  format(value: number): string;
  /** Value to [0, 1], the strongest colour being 1. */
  position(value: number, run: Pick<RunInfo, "d_vocab">): number;
  ticks(run: Pick<RunInfo, "d_vocab">): readonly Tick[];
}

const LOWEST_LOG_PROB = -12;
const HIGHEST_KL = 12;
const evenly = (values: readonly number[], at: (value: number) => number, text: (value: number) => string) =>
  values.map((value) => ({ at: at(value), text: text(value) }));

export const METRICS: Record<Metric, MetricSpec> = {
  prob: {
    name: "Probability",
    unit: "of the top token",
    scale: "probability",
    needs: [],
    format: percent,
    position: (p) => p,
    ticks: () =>
      evenly(
        [0, 0.25, 0.5, 0.75, 1],
        (p) => p,
        (p) => `${p * 100}%`,
      ),
  },
  log_prob: {
    name: "Log-prob",
    unit: "of the top token, nats",
    scale: "probability",
    needs: [],
    format: nats,
    position: (x) => 1 - x / LOWEST_LOG_PROB,
    ticks: () =>
      evenly(
        [-12, -9, -6, -3, 0],
        (x) => 1 - x / LOWEST_LOG_PROB,
        (x) => (x === -12 ? "≤ −12" : fixed(x, 0)),
      ),
  },
  entropy: {
    name: "Entropy",
    unit: "nats",
    scale: "spread",
    needs: ["entropy"],
    format: nats,
    position: (x, { d_vocab }) => x / Math.log(d_vocab),
    ticks: ({ d_vocab }) => {
      const top = Math.log(d_vocab);
      return evenly(
        [0, 0.25, 0.5, 0.75, 1],
        (t) => t,
        (t) => fixed(t * top, 1),
      );
    },
  },
  kl: {
    name: "KL to last layer",
    unit: "nats",
    scale: "distance",
    needs: ["entropy", "kl"],
    format: nats,
    position: (x) => x / HIGHEST_KL,
    ticks: () =>
      evenly(
        [0, 3, 6, 9, 12],
        (x) => x / HIGHEST_KL,
        (x) => (x === 12 ? "≥ 12" : fixed(x, 0)),
      ),
  },
  rank: {
    name: "Rank of a token",
    unit: "first is darkest",
    scale: "rank",
    needs: [],
    format: (rank) => rankText(rank),
    position: (rank, { d_vocab }) => 1 - Math.log1p(rank) / Math.log(d_vocab),
    ticks: ({ d_vocab }) =>
      [d_vocab, 10_000, 1000, 100, 10, 1]
        .filter((rank, i) => i === 0 || rank < d_vocab / 8)
        .map((rank) => ({ at: 1 - Math.log(rank) / Math.log(d_vocab), text: rankText(rank - 1) })),
  },
  agrees: {
    name: "Agreement",
    unit: "with the last layer’s top token",
    scale: "agreement",
    needs: [],
    format: (agrees) => (agrees ? "agrees with the last layer" : "differs from the last layer"),
    position: (agrees) => agrees * 0.55,
    ticks: () => [
      { at: 0, text: "differs" },
      { at: 0.55, text: "agrees" },
    ],
  },
};

export type MetricTraits = Reading & Pick<Traits, "metric" | "rank_token">;

/** The field of a cell that a metric is drawn from. */
export function fieldOf({ metric, rank_token }: Pick<Traits, "metric" | "rank_token">): FieldName {
  if (metric === "entropy" || metric === "kl") return metric;
  return metric === "rank" && rank_token !== null ? `rank:${rank_token}` : "top";
}

/** The number of a cell under the chosen metric; undefined when it was not computed. */
export function cellValue(
  cells: Cells,
  traits: MetricTraits,
  layer: number,
  position: number,
): number | undefined {
  const { metric, rank_token } = traits;
  if (metric === "entropy" || metric === "kl") return cells.scalar(traits, metric, layer, position);
  if (metric === "rank") {
    return rank_token === null ? undefined : cells.tracked(traits, rank_token, layer, position)?.rank;
  }
  const top = cells.top(traits, layer, position);
  if (!top) return undefined;
  if (metric === "log_prob") return top.log_prob;
  if (metric === "prob") return Math.exp(top.log_prob);
  const last = cells.top(traits, cells.run.n_layers - 1, position);
  return last && Number(last.id === top.id);
}
