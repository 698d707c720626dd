import type { Reading } from "../kernel/protocol.ts";
import type { Viewport } from "../look/viewport.ts";
import type { Cells, FieldName } from "./cells.ts";

/** The cells that the grid needs, and which fields of each: in view first, then near it, then of the overview. */
export interface Wanted extends Reading, Viewport {
  readonly fields: readonly FieldName[];
}

export interface TileRequest {
  readonly layers: readonly number[];
  readonly positions: readonly number[];
}

function missingLayers(cells: Cells, wanted: Wanted, layers: readonly number[], position: number): number[] {
  return layers.filter((layer) => wanted.fields.some((field) => !cells.has(wanted, field, layer, position)));
}

function nearestFirst(positions: readonly number[], centre: number): number[] {
  return [...positions].sort((a, b) => Math.abs(a - centre) - Math.abs(b - centre));
}

function tileAmong(
  cells: Cells,
  wanted: Wanted,
  layers: readonly number[],
  positions: Iterable<number>,
  max_cells: number,
): TileRequest | null {
  let rows: number[] | null = null;
  const columns: number[] = [];
  for (const position of positions) {
    const missing = missingLayers(cells, wanted, layers, position);
    if (!missing.length) continue;
    // a tile is a rectangle, so it takes only columns that lack the same layers
    if (!rows) rows = missing.slice(0, max_cells);
    else if (missing.slice(0, rows.length).join() !== rows.join()) continue;
    columns.push(position);
    if ((columns.length + 1) * rows.length > max_cells) break;
  }
  return rows ? { layers: [...rows].sort((a, b) => a - b), positions: columns.sort((a, b) => a - b) } : null;
}

/** The next rectangle of cells to request, first in view, then near it; null if no cell is missing. */
export function nextTile(cells: Cells, wanted: Wanted, max_cells: number): TileRequest | null {
  const { layers, positions, nearLayers, nearPositions } = wanted;
  const centre = positions[Math.floor(positions.length / 2)] ?? 0;
  return (
    tileAmong(cells, wanted, layers, nearestFirst(positions, centre), max_cells) ??
    tileAmong(cells, wanted, nearLayers, nearestFirst(nearPositions, centre), max_cells)
  );
}

/** The next rectangle of cells of the overview; null if it lacks none. */
export function nextFarTile(cells: Cells, wanted: Wanted, max_cells: number): TileRequest | null {
  const { far } = wanted;
  return far && tileAmong(cells, wanted, far.layers, far.spans.keys(), max_cells);
}

/** Whether a tile still has a cell in view or near it. */
export function isWanted(tile: TileRequest, wanted: Wanted): boolean {
  return (
    tile.positions.some((position) => wanted.nearPositions.includes(position)) &&
    tile.layers.some((layer) => wanted.nearLayers.includes(layer))
  );
}

const TARGET_MS = 150;
const FIRST_CELLS = 128;
const MIN_CELLS = 32;
/** VS Code moves about 1 MB a second, so a larger tile would delay a click. */
export const MAX_TILE_BYTES = 50_000;

/** How many cells to request at once: as many as arrive in about 150 ms at the measured speed. */
export class TileSize {
  #cells_per_ms: number | null = null;

  max(bytes_per_cell: number): number {
    const most = Math.floor(MAX_TILE_BYTES / bytes_per_cell);
    const wished = this.#cells_per_ms === null ? FIRST_CELLS : this.#cells_per_ms * TARGET_MS;
    return Math.max(1, Math.min(most, Math.max(MIN_CELLS, Math.round(wished))));
  }

  measured(n_cells: number, ms: number): void {
    const now = n_cells / Math.max(1, ms);
    this.#cells_per_ms = this.#cells_per_ms === null ? now : 0.6 * this.#cells_per_ms + 0.4 * now;
  }
}
