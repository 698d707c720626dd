import type {
  Card,
  CardRef,
  CausalInfo,
  CellRef,
  Difference,
  Metric,
  Pin,
  RunInfo,
  Show,
  Snapshot,
  Status,
  Trajectory,
  View,
  Why,
} from "./protocol.ts";

/** The synced traits of `LensWidget`. `run` and `snapshot` are empty objects until they are set. */
export interface Traits {
  readonly run: RunInfo | Record<string, never>;
  readonly snapshot: Snapshot | Record<string, never>;
  /** The prompt in the box: text, or ids. The page never sets it. */
  readonly prompt: string | readonly number[];
  readonly selection: CellRef | null;
  readonly decoded: Card | null;
  readonly metric: Metric;
  readonly show: Show;
  /** Whether cells that say no more than noise would are dimmed. */
  readonly floor: boolean;
  readonly k: number;
  readonly card_k: number;
  readonly site: string;
  readonly lens: string;
  readonly stride: number;
  readonly orientation: "layers" | "tokens";
  readonly hide_special: boolean;
  /** Without the columns that a chat's template put around the messages. */
  readonly hide_template: boolean;
  /** The places in `run.bands` of those that are one column; null folds what is folded at first. */
  readonly folded_bands: readonly number[] | null;
  /** The places in `run.passes` of those that are shown by their last row. */
  readonly folded_passes: readonly number[];
  readonly column_width_px: number;
  readonly pins: readonly Pin[];
  readonly cards: readonly CardRef[];
  readonly trajectory: Trajectory;
  readonly rank_token: number | null;
  readonly view: View;
  readonly difference: Difference;
  /** Whether runs take over what they share with earlier ones. */
  readonly reuse: boolean;
  readonly status: Status;
  /** The run that patches are taken from, and the map of what each does; empty objects where there is none. */
  readonly source_run: RunInfo | Record<string, never>;
  readonly source_snapshot: Snapshot | Record<string, never>;
  readonly causal: CausalInfo | Record<string, never>;
  /** Of a saved file alone: why the cells with a card say what they say. The kernel has no such trait. */
  readonly whys: readonly Why[];
}

const IDLE: Status = { state: "idle", text: "", done: 0, total: 0 };

/** The choices of the view that "Reset view" restores; pins, cards and the selection stay. */
export const VIEW_DEFAULTS = {
  metric: "prob",
  show: "top",
  floor: false,
  k: 5,
  card_k: 20,
  site: "resid_post",
  lens: "logit",
  stride: 1,
  orientation: "layers",
  hide_special: false,
  hide_template: false,
  folded_bands: null,
  folded_passes: [],
  column_width_px: 72,
  rank_token: null,
  view: "after",
  difference: "kl",
  reuse: true,
  trajectory: { metric: "prob", positions: [] },
} as const;

/** The value of a trait that a model does not have. */
export const DEFAULTS: Traits = {
  ...VIEW_DEFAULTS,
  run: {},
  snapshot: {},
  prompt: "",
  selection: null,
  decoded: null,
  pins: [],
  cards: [],
  status: IDLE,
  source_run: {},
  source_snapshot: {},
  causal: {},
  whys: [],
};

export const TRAIT_NAMES = Object.keys(DEFAULTS) as readonly (keyof Traits)[];

/** Traits that only the kernel sets. */
const KERNEL_ONLY: ReadonlySet<string> = new Set([
  "run",
  "snapshot",
  "decoded",
  "status",
  "prompt",
  "source_run",
  "source_snapshot",
  "causal",
  "whys",
]);

/** The traits that a view keeps as they come. It makes its runs, its cells and its cards of the other three. */
export type ViewTraits = Omit<Traits, "run" | "snapshot" | "source_snapshot" | "decoded">;

/** The traits that a person sets in the page. */
export const PAGE_TRAITS = TRAIT_NAMES.filter(
  (name) => !KERNEL_ONLY.has(name),
) as readonly (keyof ViewTraits)[];
