import type { Card, CellRef, Reading } from "../kernel/protocol.ts";
import { lowestRow } from "../look/layout.ts";
import type { Cells } from "./cells.ts";

/** A card without numbers. */
export function emptyCard(run_id: string, { layer, position, site, lens }: CellRef & Reading): Card {
  return {
    run_id,
    layer,
    position,
    site,
    lens,
    k: 0,
    temperature: 1,
    ids: [],
    labels: [],
    log_probs: [],
    logits: [],
    entropy_nats: "NaN",
    rank_below: [],
    layer_below: layer > lowestRow(site) ? layer - 1 : null,
    promoted: [],
    suppressed: [],
    tracked: [],
  };
}

/**
 * A card made of the grid's cells, with their top tokens only and no logits, at temperature 1. It stands in for the
 * kernel's card where there is no kernel. Null when the cell is not known.
 */
export function storedCard(cells: Cells | null, ref: CellRef & Reading, k: number): Card | null {
  if (!cells) return null;
  const { layer, position } = ref;
  const found = cells.tops(ref, layer, position, k);
  if (!found.length) return null;
  const empty = emptyCard(cells.run.id, ref);
  // the one token of a cell that is not finite is no token
  const tops = found.filter(({ id }) => id >= 0);
  const below = empty.layer_below === null ? [] : cells.tops(ref, empty.layer_below, position, k);
  const rankBelow = (id: number) => {
    const rank = below.findIndex((token) => token.id === id);
    return rank < 0 ? null : rank;
  };
  return {
    ...empty,
    k: tops.length,
    ids: tops.map(({ id }) => id),
    labels: tops.map(({ id }) => cells.label(id)),
    log_probs: tops.map(({ log_prob }) => log_prob),
    entropy_nats: cells.scalar(ref, "entropy", layer, position) ?? "NaN",
    rank_below: tops.map(({ id }) => rankBelow(id)),
  };
}
