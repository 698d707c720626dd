import type { Card, CardRef, RunInfo } from "../kernel/protocol.ts";
import type { Cells } from "./cells.ts";

/**
 * A card made of the grid's cells, with their top tokens only and no logits, at temperature 1. It stands in for the
 * kernel's card where there is no kernel. Null when the cell is not known.
 */
export function storedCard(
  cells: Cells | null,
  run: RunInfo,
  ref: CardRef,
  { k }: { readonly k: number },
): Card | null {
  if (!cells) return null;
  const { layer, position } = ref;
  const tops = cells.tops(ref, layer, position, k);
  if (!tops.length) return null;
  const below = cells.tops(ref, layer - 1, position, k);
  const rankBelow = (id: number) => {
    const rank = below.findIndex((token) => token.id === id);
    return rank < 0 ? null : rank;
  };
  return {
    ...ref,
    run_id: run.id,
    k: tops.length,
    temperature: 1,
    ids: tops.map(({ id }) => id),
    labels: tops.map(({ id }) => cells.label(id)),
    log_probs: tops.map(({ log_prob }) => log_prob),
    logits: [],
    entropy_nats: cells.scalar(ref, "entropy", layer, position) ?? "nan",
    rank_below: tops.map(({ id }) => rankBelow(id)),
    layer_below: layer < 0 ? null : layer - 1,
    promoted: [],
    suppressed: [],
    tracked: [],
  };
}
