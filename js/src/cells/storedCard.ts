import type { Card, CellRef, Reading } from "../kernel/protocol.ts";
import { lowestRow } from "../look/layout.ts";
import type { Cells } from "./cells.ts";

/**
 * A card made of the grid's cells, with their top tokens only and no logits, at temperature 1. It stands in for the
 * kernel's card where there is no kernel. Null when the cell is not known.
 */
export function storedCard(cells: Cells | null, ref: CellRef & Reading, k: number): Card | null {
  if (!cells) return null;
  const { layer, position, site, lens } = ref;
  const tops = cells.tops(ref, layer, position, k);
  if (!tops.length) return null;
  const layer_below = layer > lowestRow(site) ? layer - 1 : null;
  const below = layer_below === null ? [] : cells.tops(ref, layer_below, position, k);
  const rankBelow = (id: number) => {
    const rank = below.findIndex((token) => token.id === id);
    return rank < 0 ? null : rank;
  };
  return {
    run_id: cells.run.id,
    layer,
    position,
    site,
    lens,
    k: tops.length,
    temperature: 1,
    ids: tops.map(({ id }) => id),
    labels: tops.map(({ id }) => cells.label(id)),
    log_probs: tops.map(({ log_prob }) => log_prob),
    logits: [],
    entropy_nats: cells.scalar(ref, "entropy", layer, position) ?? "NaN",
    rank_below: tops.map(({ id }) => rankBelow(id)),
    layer_below,
    promoted: [],
    suppressed: [],
    tracked: [],
  };
}
