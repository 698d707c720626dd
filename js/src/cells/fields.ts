import type { CausalInfo, Difference, Metric, Reading, RunInfo } from "../kernel/protocol.ts";
import type { Traits } from "../kernel/traits.ts";
import { fixed, nats, percent, QUARTERS, quoted, rankText, UNKNOWN } from "../look/format.ts";
import type { ScaleName } from "../look/scales.ts";
import { type Cells, type FieldName, isScalar } from "./cells.ts";
import { SHOW_NAMES, standingIn } from "./standing.ts";

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

/** What colours the grid: a metric of its cells, or of the difference that edits make. */
export type Coloring = Metric | "lift" | `change_${Difference}` | "effect" | "effect_nats";

const LARGEST_CHANGE = 10;
const LARGEST_RISE = 4;
/** A change to [0, 1], 0.5 being none; small changes are told apart better than large ones. */
const aroundHalf = (x: number, largest: number) =>
  0.5 + (0.5 * Math.sign(x) * Math.log1p(Math.abs(x))) / Math.log1p(largest);
const signed = (x: number, text: string) => (x > 0 ? `+${text}` : text);

const LOWEST_LOG_PROB = -6;
const HIGHEST_LIFT = 20;
const HIGHEST_KL = 40;

/** A divergence from 0 up: early layers are tens of nats away, and most of the change that matters lies below 3. */
const DIVERGENCE: Omit<MetricSpec, "name"> = {
  unit: ", nats",
  scale: "distance",
  format: nats,
  position: (x) => Math.log1p(x) / Math.log1p(HIGHEST_KL),
  stops: () => [0, 1, 3, 10, HIGHEST_KL],
  tick: (x) => (x === HIGHEST_KL ? "≥ " : "") + x,
};

export const METRIC_SPECS: Record<Coloring, MetricSpec> = {
  prob: {
    name: "Probability",
    unit: " of the",
    scale: "probability",
    format: percent,
    position: (p) => p,
    stops: () => QUARTERS,
    tick: (p) => `${p * 100} %`,
  },
  log_prob: {
    name: "Log-prob",
    unit: " of the",
    scale: "probability",
    format: nats,
    position: (x) => 1 - x / LOWEST_LOG_PROB,
    stops: () => [LOWEST_LOG_PROB, -4, -2, 0],
    tick: (x) => (x === LOWEST_LOG_PROB ? "≤ " : "") + fixed(x, 0),
  },
  lift: {
    name: "Lift",
    unit: " over the usual at that layer, nats",
    scale: "probability",
    format: (x) => signed(x, nats(x)),
    position: (x) => x / HIGHEST_LIFT,
    stops: () => [0, 5, 10, 15, HIGHEST_LIFT],
    tick: (x) => (x === HIGHEST_LIFT ? "≥ " : "") + fixed(x, 0),
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
  kl: { name: "KL(last ‖ cell)", ...DIVERGENCE },
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
  change_kl: { name: "KL(before ‖ after)", ...DIVERGENCE },
  change_kl_back: { name: "KL(after ‖ before)", ...DIVERGENCE },
  change_js: {
    ...DIVERGENCE,
    name: "Jensen–Shannon divergence",
    position: (x) => x / Math.LN2,
    stops: () => QUARTERS.map((t) => t * Math.LN2),
    tick: (x) => fixed(x, 2),
  },
  change_agrees: {
    name: "Same top token",
    unit: "",
    scale: "agreement",
    format: (agrees) => (agrees ? "yes" : "no"),
    position: (agrees) => agrees * 0.55,
    stops: () => [0, 1],
    tick: (agrees) => METRIC_SPECS.change_agrees.format(agrees),
  },
  change_log_prob: {
    name: "Change of log-prob",
    unit: ", nats",
    scale: "change",
    format: (x) => signed(x, nats(x)),
    position: (x) => aroundHalf(x, LARGEST_CHANGE),
    stops: () => [-LARGEST_CHANGE, -3, -1, 0, 1, 3, LARGEST_CHANGE],
    tick: (x) => signed(x, fixed(x, 0)),
  },
  effect: {
    name: "Effect",
    unit: ": 0 nothing, 1 all the way to the second prompt",
    scale: "change",
    format: (x) => signed(x, fixed(x, 2)),
    position: (x) => 0.5 + x / 2,
    stops: () => [-1, -0.5, 0, 0.5, 1],
    tick: (x) => signed(x, `${x}`.replace("-", "−")),
  },
  effect_nats: {
    name: "Effect of removing it",
    unit: "",
    scale: "change",
    format: (x) => signed(x, fixed(x, 2)),
    position: (x) => aroundHalf(x, LARGEST_CHANGE),
    stops: () => [-LARGEST_CHANGE, -3, -1, 0, 1, 3, LARGEST_CHANGE],
    tick: (x) => signed(x, fixed(x, 0)),
  },
  change_rank: {
    name: "Rise in rank",
    unit: ", powers of ten",
    scale: "change",
    format: (x) => signed(x, fixed(x, 1)),
    position: (x) => aroundHalf(x, LARGEST_RISE),
    stops: () => [-LARGEST_RISE, -2, -1, 0, 1, 2, LARGEST_RISE],
    tick: (x) => signed(x, fixed(x, 0)),
  },
};

/** The metrics that can be chosen for any run. */
export const METRICS: readonly Metric[] = ["prob", "log_prob", "entropy", "kl", "rank", "agrees"];

/** The traits that choose which number of a cell is drawn. */
export type MetricTraits = Reading & ColoringTraits & Pick<Traits, "rank_token">;
type ColoringTraits = Pick<Traits, "metric" | "view" | "difference"> &
  Partial<Pick<Traits, "show" | "causal">>;

/** The effect of a cell in a causal map, and whether it was measured rather than estimated. */
export function effectAt(causal: Traits["causal"] | undefined, layer: number, position: number) {
  if (!causal || !("layers" in causal)) return undefined;
  const { layers, positions, measured, estimate } = causal as CausalInfo;
  const [row, column] = [layers.indexOf(layer), positions.indexOf(position)];
  if (row < 0 || column < 0) return undefined;
  const at = row * positions.length + column;
  const value = measured[at] ?? estimate[at];
  return value == null ? undefined : { value, isMeasured: measured[at] != null };
}

/** The run that a run is compared with: that before its edits, or the other one on the grid; null if there is none. */
export function baseIdOf(run: RunInfo): string | null {
  return run.edited?.base_id ?? run.compared?.base.id ?? null;
}

/** What colours the grid of a run. */
export function coloringOf(traits: ColoringTraits, run: RunInfo): Coloring {
  const { metric, view, difference, causal, show } = traits;
  if (view === "map" && causal && "answer" in causal) return causal.ablate ? "effect_nats" : "effect";
  if (baseIdOf(run) !== null && view === "difference") return `change_${difference}`;
  // what is shown for its lift is coloured by it
  return show === "lift" && isOfTop(metric) ? "lift" : metric;
}

/** Whether the grid shows how two runs differ. */
export function isDifference(traits: ColoringTraits, run: RunInfo): boolean {
  return coloringOf(traits, run).startsWith("change_");
}

function isOfTop(metric: string): boolean {
  return metric === "prob" || metric === "log_prob";
}

/** What follows the name of a colouring in the legend. */
export function unitOf(traits: ColoringTraits, run: RunInfo): string {
  const coloring = coloringOf(traits, run);
  const { unit } = METRIC_SPECS[coloring];
  if (!isOfTop(coloring)) return unit;
  return `${unit} ${SHOW_NAMES[traits.show ?? "top"]}${coloring === "log_prob" ? ", nats" : ""}`;
}

/** The name of a colouring: of two runs they are A and B, where edits have a before and after. */
export function coloringName(coloring: Coloring, run: RunInfo): string {
  const { name } = METRIC_SPECS[coloring];
  return run.compared ? name.replace("before", "A").replace("after", "B") : name;
}

/** Whether a colouring is of one token, which is chosen. */
export function isOfToken(coloring: Coloring): boolean {
  return coloring === "rank" || coloring === "change_log_prob" || coloring === "change_rank";
}

/** The token whose rank is drawn: the chosen one, else the model's own next token. */
export function rankedToken({ rank_token }: Pick<Traits, "rank_token">, run: RunInfo): number {
  // of a run with edits, what they may have moved: the answer without them
  return rank_token ?? run.edited?.effect.id ?? run.compared?.base.next.id ?? run.next.id;
}

/** The ticks of the legend: where on the scale, in [0, 1], and their text. */
export function ticksOf({ stops, position, tick }: MetricSpec, { d_vocab }: Pick<RunInfo, "d_vocab">) {
  return stops(d_vocab).map((x) => ({ at: position(x, d_vocab), text: tick(x) }));
}

/** The name of a cell's number; a rank also names its token. */
export function metricName(cells: Cells, traits: MetricTraits): string {
  const coloring = coloringOf(traits, cells.run);
  const token = () => quoted(cells.label(rankedToken(traits, cells.run)));
  if (coloring === "rank") return `Rank of ${token()}`;
  if (traits.causal && "answer" in traits.causal && coloring.startsWith("effect")) {
    const { answer, foil } = traits.causal as CausalInfo;
    const of = quoted(answer.label) + (foil ? ` − ${quoted(foil.label)}` : "");
    return `${METRIC_SPECS[coloring].name} on ${of}`;
  }
  const name = coloringName(coloring, cells.run);
  return isOfToken(coloring) ? `${name} of ${token()}` : name;
}

/** A cell's number in words: "rank of “␣Paris”: #3,160". */
export function inWords(cells: Cells, traits: MetricTraits, value: number | undefined, note = ""): string {
  // lower case within a sentence, except for KL and names
  const name = metricName(cells, traits).replace(/^[^J](?=[a-z])/, (letter) => letter.toLowerCase());
  const { format } = METRIC_SPECS[coloringOf(traits, cells.run)];
  const text = value === undefined ? "not computed" : format(value);
  return `${name}: ${text}${note && ` (${note})`}`;
}

/** The fields of the colourings that are of two runs, tokens' aside. */
const OF_TWO: Partial<Record<Coloring, "change" | "change_back" | "js" | "pair">> = {
  change_kl: "change",
  change_kl_back: "change_back",
  change_js: "js",
  change_agrees: "pair",
};

/** The field of a cell that a metric is drawn from. */
export function fieldOf(traits: MetricTraits, run: RunInfo): FieldName {
  const coloring = coloringOf(traits, run);
  const ofTwo = OF_TWO[coloring];
  if (ofTwo) return ofTwo;
  if (isOfToken(coloring)) return `${coloring === "rank" ? "rank" : "was"}:${rankedToken(traits, run)}`;
  return isScalar(coloring) ? coloring : shownField(traits);
}

/** The field that what stands in a cell is drawn from. */
export function shownField({ show = "top" }: Partial<Pick<Traits, "show">>): FieldName {
  return show === "top" ? "top" : `shown:${show}`;
}

/** The number of a cell under the chosen metric; undefined when it was not computed. */
export function cellValue(
  cells: Cells,
  traits: MetricTraits,
  layer: number,
  position: number,
): number | undefined {
  const metric = coloringOf(traits, cells.run);
  const ofTwo = OF_TWO[metric];
  if (ofTwo === "pair") return cells.agreement(traits, layer, position);
  if (ofTwo) return cells.scalar(traits, ofTwo, layer, position);
  if (metric === "change_log_prob" || metric === "change_rank") {
    const found = cells.trackedChange(traits, rankedToken(traits, cells.run), layer, position);
    if (!found) return undefined;
    const { before, after } = found;
    if (metric === "change_log_prob") return after.log_prob - before.log_prob;
    const [was = -1, is = -1] = [before.rank, after.rank];
    return was < 0 || is < 0 ? UNKNOWN : Math.log10((was + 1) / (is + 1));
  }
  if (metric === "effect" || metric === "effect_nats") return effectAt(traits.causal, layer, position)?.value;
  if (isScalar(metric)) return cells.scalar(traits, metric, layer, position);
  if (metric === "rank") {
    const rank = cells.tracked(traits, rankedToken(traits, cells.run), layer, position)?.rank;
    return rank === -1 ? UNKNOWN : rank;
  }
  const standing = standingIn(cells, traits, layer, position);
  if (metric === "lift") return standing?.lift;
  const log_prob = standing?.log_prob;
  return metric === "prob" && log_prob !== undefined ? Math.exp(log_prob) : log_prob;
}
