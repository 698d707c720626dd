import type { Reading } from "../kernel/protocol.ts";
import type { Traits } from "../kernel/traits.ts";
import type { Cells } from "./cells.ts";

/** The traits that say what stands in a cell. */
export type ShownTraits = Reading & Partial<Pick<Traits, "show">>;

/** The token that stands in a cell. */
export interface Standing {
  readonly id: number;
  readonly log_prob: number;
  /** How many of the whole vocabulary are above it; -1 where that is not known. */
  readonly rank: number;
  /** Its log-prob less its usual one at that layer, where lift is shown. */
  readonly lift?: number;
}

/** What is meant by the token of a cell, in words. */
export const SHOW_NAMES = { top: "top token", words: "top word", lift: "most lifted word" } as const;

/**
 * What stands in a cell: what is chosen to be shown, or the top token where that was not computed, in a saved file say.
 */
export function standingIn(
  cells: Cells,
  traits: ShownTraits,
  layer: number,
  position: number,
): Standing | undefined {
  const { show = "top" } = traits;
  const shown = show === "top" ? undefined : cells.shown(traits, show, layer, position);
  if (shown) return shown;
  const top = cells.top(traits, layer, position);
  return top && { ...top, rank: top.id < 0 ? -1 : 0 };
}

/** Whether a cell says no more than noise would, as far as that is known. */
export function isNoise(
  cells: Cells,
  traits: ShownTraits & Partial<Pick<Traits, "floor">>,
  layer: number,
  position: number,
): boolean {
  const { floor, show = "top" } = traits;
  const least = floor ? cells.floors.of(traits, show)?.get(layer) : undefined;
  if (least === undefined) return false;
  const said = standingIn(cells, traits, layer, position);
  const evidence = show === "lift" ? said?.lift : said?.log_prob;
  return evidence !== undefined && evidence <= least;
}
