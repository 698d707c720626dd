import type { Pin } from "../kernel/protocol.ts";
import type { Cells } from "./cells.ts";
import { type ShownTraits, standingIn } from "./standing.ts";

/** How much a token counts in a cell: its probability, or 1 for the best, 1/2 for the second and so on. */
export type Weight = "prob" | "place";

/** A token that rules some cells: all of its forms, which differ only in case and in the space before them. */
export interface Entry {
  /** The most frequent form first. */
  readonly ids: readonly number[];
  readonly score: number;
  /** In how many cells it is. */
  readonly n_cells: number;
  /** Its score in each of the layers that were asked about. */
  readonly by_layer: readonly number[];
}

export interface Area {
  readonly layers: readonly number[];
  readonly positions: readonly number[];
}

interface Count {
  readonly scores: Map<number, number>;
  readonly by_layer: number[];
  n_cells: number;
}

/** The forms of a token that are one word: the same text but for case and the space around it. */
function formOf(cells: Cells, id: number): string {
  const [text, kind, raw] = cells.label(id);
  return (kind === "text" && raw.trim().toLowerCase()) || `${text}\n${kind}`;
}

/**
 * The tokens that rule an area, the first first: of each cell that is known, the best tokens, or what stands in it where
 * that is not the top token. Equal scores stay in the order in which they were met, from the last layer down.
 */
export function inHere(cells: Cells, traits: ShownTraits, area: Area, weight: Weight, most: number): Entry[] {
  const counts = new Map<string, Count>();
  const add = (row: number, id: number, score: number) => {
    const form = formOf(cells, id);
    let count = counts.get(form);
    if (!count) {
      count = { scores: new Map(), by_layer: area.layers.map(() => 0), n_cells: 0 };
      counts.set(form, count);
    }
    count.scores.set(id, (count.scores.get(id) ?? 0) + score);
    count.by_layer[row] = (count.by_layer[row] ?? 0) + score;
    count.n_cells++;
  };
  const { show = "top" } = traits;
  area.layers.forEach((layer, row) => {
    for (const position of area.positions) {
      const standing = standingIn(cells, traits, layer, position);
      const tokens =
        show === "top"
          ? cells.tops(traits, layer, position, 100)
          : standing && cells.top(traits, layer, position)
            ? [standing]
            : [];
      tokens.forEach(({ id, log_prob }, place) => {
        if (id < 0) return;
        const rank = show === "top" ? place : (standing?.rank ?? 0);
        add(row, id, weight === "prob" ? Math.exp(log_prob) : 1 / (rank + 1));
      });
    }
  });
  return [...counts.values()]
    .map(({ scores, by_layer, n_cells }) => ({
      ids: [...scores].sort(([, a], [, b]) => b - a).map(([id]) => id),
      score: by_layer.reduce((sum, x) => sum + x, 0),
      n_cells,
      by_layer,
    }))
    .sort((a, b) => b.score - a.score)
    .slice(0, most);
}

const MOST_LEADERS = 5;

/**
 * What the chart starts with while nothing is pinned: the tokens that stand in any cell of the upper half of a column,
 * those that get the most there first.
 */
export function leaders(cells: Cells, traits: ShownTraits, position: number): Pin[] {
  const { n_layers } = cells.run;
  const best = new Map<number, number>();
  for (let layer = n_layers - 1; layer >= Math.floor(n_layers / 2); layer--) {
    const token = standingIn(cells, traits, layer, position);
    if (!token || token.id < 0) continue;
    best.set(token.id, Math.max(best.get(token.id) ?? -Infinity, token.log_prob));
  }
  return [...best]
    .sort(([, a], [, b]) => b - a)
    .slice(0, MOST_LEADERS)
    .map(([id], color) => ({ ids: [id], label: cells.label(id)[0], color }));
}
