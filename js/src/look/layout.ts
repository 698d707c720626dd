import type { CellRef, Pass, RunInfo } from "../kernel/protocol.ts";
import type { Traits } from "../kernel/traits.ts";
import { DEFAULTS } from "../kernel/traits.ts";
import {
  type Columns,
  foldedPasses,
  hasLongPass,
  STRIP_PX,
  type Strip,
  shownColumns,
  stripsOf,
} from "./bands.ts";
import { clamp } from "./format.ts";

/** What the rows and columns of the grid are. `rows` and `cols` hold layers or positions, in visual order. */
export interface Shape {
  readonly rows: readonly number[];
  readonly cols: readonly number[];
  /** True when positions run across and rows are layers; false when the grid is turned. */
  readonly isAcross: boolean;
  readonly col_px: number;
  readonly row_px: number;
  readonly head_row_px: number;
  readonly head_col_px: number;
  /** Bands that are one column, by the position of that column. */
  readonly folds: Columns["folds"];
  /** The strips over the columns, where positions run across; else beside the rows. */
  readonly strips: readonly Strip[];
}

/** A half-open range of rows and columns. */
export interface CellRange {
  readonly r0: number;
  readonly r1: number;
  readonly c0: number;
  readonly c1: number;
}

export interface Scroll {
  readonly left: number;
  readonly top: number;
  readonly width: number;
  readonly height: number;
}

const ROW_PX = 20;
/** The height of the columns' heads without strips, where positions run across. */
export const PLAIN_HEAD_PX = 38;
export const MIN_COL_PX = 24;
export const DEFAULT_COL_PX = DEFAULTS.column_width_px;
export const MAX_COL_PX = 400;
/** Keeps the whole widget under 1,500 elements at any column width. */
export const MAX_CELLS = 1100;
/** At least so many rows and columns more than are visible are in the page, on every side. */
const OVERSCAN = 1;
/** The window moves by so many at once: a frame that moves it costs as much for one column as for two. */
const STEP = 2;
/** How many more than those that are visible. */
const BEYOND = 2 * OVERSCAN + STEP;

/** The lowest row of a site's grid: the residual stream also has the embedding's row, -1. */
export function lowestRow(site: string): number {
  return site === "resid_post" ? -1 : 0;
}

/**
 * The layers that have a row, last first: every `stride`-th counted from the last layer, and the lowest row. Of a
 * folded pass only the last one, which is shown whatever the stride.
 */
export function shownLayers(
  n_layers: number,
  stride: number,
  site: string,
  folded: readonly Pass[] = [],
): number[] {
  const layers: number[] = [];
  for (let layer = n_layers - 1; layer >= 0; layer -= Math.max(1, stride)) layers.push(layer);
  const lowest = lowestRow(site);
  if (layers.at(-1) !== lowest) layers.push(lowest);
  const isOpen = (layer: number) => !folded.some(({ start, stop }) => start <= layer && layer < stop);
  if (!folded.length) return layers;
  const kept = [...layers.filter(isOpen), ...folded.map(({ stop }) => stop - 1)];
  return kept.sort((a, b) => b - a);
}

/** Columns of the default width narrow to at least this, if all of them then fit. A chosen width never narrows. */
const FIT_FROM_PX = 40;
/** The widest scrollbar. */
export const SCROLLBAR_PX = 14;

export function shapeOf(
  run: Pick<RunInfo, "n_layers" | "tokens" | "special" | "bands" | "passes">,
  traits: Pick<Traits, "stride" | "orientation" | "column_width_px" | "site"> &
    Pick<Traits, "hide_special" | "hide_template" | "folded_bands" | "folded_passes">,
  room_px = 0,
): Shape {
  const passes = foldedPasses(run, traits.folded_passes);
  const layers = shownLayers(run.n_layers, traits.stride, traits.site, passes);
  const columns = shownColumns(run, traits);
  const { positions, folds } = columns;
  const strips = stripsOf(run, columns);
  const transposed = traits.orientation === "tokens";
  const cols = transposed ? layers.reverse() : positions;
  const head_col_px = transposed ? (strips.length ? 172 : 132) : hasLongPass(run) ? 104 : 58;
  const n_lines = Math.max(0, ...strips.map(({ line }) => line + 1));
  const wide = clamp(traits.column_width_px, MIN_COL_PX, MAX_COL_PX);
  const fitting = ((room_px - SCROLLBAR_PX - head_col_px - 2) / cols.length) | 0;
  return {
    rows: transposed ? positions : layers,
    cols,
    isAcross: !transposed,
    col_px: wide === DEFAULT_COL_PX && fitting >= FIT_FROM_PX ? Math.min(wide, fitting) : wide,
    row_px: ROW_PX,
    head_row_px: transposed ? 24 : PLAIN_HEAD_PX + n_lines * STRIP_PX,
    head_col_px,
    folds,
    strips,
  };
}

/** How wide the grid may be: the widget less the column of cards beside it. The same numbers are in grid.css. */
export function roomIn(width_px: number): number {
  return width_px - (width_px > 760 ? 344 + 12 : 0);
}

export function cellAt(shape: Shape, row: number, col: number): CellRef | undefined {
  const a = shape.rows[row];
  const b = shape.cols[col];
  if (a === undefined || b === undefined) return undefined;
  return shape.isAcross ? { layer: a, position: b } : { layer: b, position: a };
}

/** Row and column of a cell; -1 for one that has no row or column. */
export function placeOf(shape: Shape, cell: CellRef): { row: number; col: number } {
  const [row, col] = shape.isAcross ? [cell.layer, cell.position] : [cell.position, cell.layer];
  return { row: shape.rows.indexOf(row), col: shape.cols.indexOf(col) };
}

/** The height of the grid, at most `wanted_px`, at which rows in view x columns in view stay within `MAX_CELLS`. */
export function maxHeight(shape: Shape, width_px: number, wanted_px: number): number {
  const n_cols = Math.min(shape.cols.length, Math.ceil(width_px / shape.col_px) + BEYOND);
  const n_rows = Math.max(8, Math.floor(MAX_CELLS / Math.max(1, n_cols)) - BEYOND);
  return Math.min(wanted_px, shape.head_row_px + n_rows * shape.row_px);
}

/** The rows and columns that must be in the page at a scroll position; without `overscan`, those that are visible. */
export function windowOf(shape: Shape, scroll: Scroll, overscan = true): CellRange {
  const height = Math.max(0, scroll.height - shape.head_row_px);
  const width = Math.max(0, scroll.width - shape.head_col_px);
  const range = (from: number, room: number, size: number, n: number) => {
    if (!overscan)
      return [Math.floor(from / size), Math.ceil((from + room) / size)].map((x) => clamp(x, 0, n));
    // as many wherever it is, so that the elements stay
    const n_drawn = Math.min(n, Math.ceil(room / size) + BEYOND);
    const first = Math.floor((Math.floor(from / size) - OVERSCAN) / STEP) * STEP;
    const start = clamp(first, 0, n - n_drawn);
    return [start, start + n_drawn];
  };
  const [r0 = 0, r1 = 0] = range(scroll.top, height, shape.row_px, shape.rows.length);
  const [c0 = 0, c1 = 0] = range(scroll.left, width, shape.col_px, shape.cols.length);
  return { r0, r1, c0, c1 };
}

/** The nearest scroll position at which a cell is wholly in view. */
export function scrollTo(
  shape: Shape,
  scroll: Scroll,
  row: number,
  col: number,
): { left: number; top: number } {
  const near = (start: number, size: number, from: number, room: number) => {
    if (start < from) return start;
    return start + size > from + room ? start + size - room : from;
  };
  return {
    left: near(col * shape.col_px, shape.col_px, scroll.left, scroll.width - shape.head_col_px),
    top: near(row * shape.row_px, shape.row_px, scroll.top, scroll.height - shape.head_row_px),
  };
}

/** Of the positions' axis, in px: its whole length, the length in view, and where the view starts. */
export function extentOf(shape: Shape, { left, top, width, height }: Scroll) {
  const { isAcross, cols, rows, col_px, row_px, head_col_px, head_row_px } = shape;
  return isAcross
    ? { at: left, size_px: width - head_col_px, whole: cols.length * col_px }
    : { at: top, size_px: height - head_row_px, whole: rows.length * row_px };
}
