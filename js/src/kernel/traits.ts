import type { RunInfo, Status, Traits } from "./protocol.ts";

export const IDLE: Status = { state: "idle", text: "", done: 0, total: 0 };

/** How things are looked at, as "reset" puts it back; not what was run, pinned or opened. */
export const VIEW_DEFAULTS = {
  metric: "prob",
  k: 5,
  card_k: 20,
  site: "resid_post",
  lens: "logit",
  stride: 1,
  orientation: "layers",
  hide_special: false,
  column_width_px: 72,
  rank_token: null,
  trajectory: { metric: "prob", positions: [] },
} as const;

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
};

export const TRAIT_NAMES = Object.keys(DEFAULTS) as readonly (keyof Traits)[];

/** Traits that only the kernel writes. */
export const KERNEL_ONLY: ReadonlySet<keyof Traits> = new Set([
  "run",
  "snapshot",
  "decoded",
  "status",
  "prompt",
]);

/** The run, once there is one. */
export function runOf(traits: Pick<Traits, "run">): RunInfo | null {
  return "id" in traits.run ? (traits.run as RunInfo) : null;
}
