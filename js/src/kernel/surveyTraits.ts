import type { Binary } from "./protocol.ts";

export type CurveMetric = "pass" | "log_prob" | "foil_difference" | "rank";
export type Contrast = "edits" | "models";

/** One model under one condition; its three buffers are ranks, layers of arrival and log-probs at the end. */
export interface StripInfo {
  readonly model: string;
  /** "plain" or "edited". */
  readonly condition: string;
  /** -1 is the embedding. */
  readonly layers: readonly number[];
}

/** What the trait `survey` says of its buffers; a column is a prompt. */
export interface SurveyHeader {
  /** A layer has an answer whose rank is below this. */
  readonly k: number;
  readonly lens: string;
  readonly site: string;
  readonly n: number;
  readonly n_failed: number;
  readonly groups: readonly string[];
  readonly strips: readonly StripInfo[];
  readonly contrasts: readonly Contrast[];
  readonly metrics: readonly CurveMetric[];
  readonly d_vocab: number;
  /** Per column: its row in what was surveyed, its prompt and its answer, both cut. */
  readonly rows: readonly number[];
  readonly prompts: readonly string[];
  readonly answers: readonly string[];
}

/** The mean over prompts by layer, and its band; null where a number is not finite. */
export interface Curve {
  readonly model: string;
  readonly condition: string;
  readonly group: string;
  readonly layers: readonly number[];
  readonly n: number;
  readonly mean: readonly (number | null)[];
  readonly low: readonly (number | null)[];
  readonly high: readonly (number | null)[];
}

/** The synced traits that `SurveyWidget` has besides those of `LensWidget`. */
export interface SurveyTraits {
  readonly survey:
    | { readonly header: SurveyHeader; readonly buffers: readonly Binary[] }
    | Record<string, never>;
  /** By `curveKey`: those that have been asked for. */
  readonly curves: Readonly<Record<string, readonly Curve[]>>;
  readonly opened: { readonly column: number; readonly strip: number } | null;
  readonly curve: CurveMetric;
  readonly only_right: boolean;
  readonly contrast: Contrast | null;
}

export const SURVEY_TRAITS = ["survey", "curves", "opened", "curve", "only_right", "contrast"] as const;

/** The name of some curves among those that the kernel has sent; Python's `curve_key` is the same. */
export function curveKey(metric: CurveMetric, isOnlyRight: boolean, contrast: Contrast | null): string {
  return `${metric} ${isOnlyRight ? "right" : "all"} ${contrast ?? "none"}`;
}
