import type { CellRef } from "../kernel/protocol.ts";
import { clamp } from "../look/format.ts";
import { cellAt, DEFAULT_COL_PX, MAX_COL_PX, MIN_COL_PX, placeOf } from "../look/layout.ts";
import type { App } from "../state/context.ts";
import { chartedPositions, shownRun } from "../state/selectors.ts";
import { MAIN } from "../state/state.ts";
import { toggleWhy } from "../state/why.ts";
import { forkAt, mayFork } from "./cardTable.ts";
import { openCell } from "./causal.ts";
import { flip, openEditor, put, yank } from "./editing.ts";
import { toggle, togglePin } from "./elements.ts";
import { foldBandAt, foldPassAt, toggleTemplate } from "./folding.ts";
import type { GridView } from "./grid.ts";

const COLUMN_STEP_PX = 8;

/** The place that an arrow or page key leads to; null for other keys. */
export function keyTarget(
  key: string,
  ctrl: boolean,
  from: { row: number; col: number },
  size: { rows: number; cols: number; page: number },
): { row: number; col: number } | null {
  const { row, col } = from;
  const lastRow = size.rows - 1;
  const lastCol = size.cols - 1;
  const to: Record<string, [number, number]> = {
    ArrowUp: [row - 1, col],
    ArrowDown: [row + 1, col],
    ArrowLeft: [row, col - 1],
    ArrowRight: [row, col + 1],
    PageUp: [row - size.page, col],
    PageDown: [row + size.page, col],
    Home: [ctrl ? 0 : row, 0],
    End: [ctrl ? lastRow : row, lastCol],
  };
  const found = to[key];
  if (!found || (ctrl && !key.match(/Home|End/))) return null;
  return { row: clamp(found[0], 0, lastRow), col: clamp(found[1], 0, lastCol) };
}

/** The focused cell, or the one that takes the focus when it enters the grid. */
export function focusOf(app: App, grid: GridView): CellRef | null {
  const shape = grid.currentShape();
  if (!shape) return null;
  const { focus } = app.get();
  const place = focus && placeOf(shape, focus);
  if (focus && place && place.row >= 0 && place.col >= 0) return focus;
  return cellAt(shape, 0, shape.cols.length - 1) ?? null;
}

/** Move the focus, and bring the cell into view. */
export function moveFocus(app: App, grid: GridView, cell: CellRef): void {
  app.dispatch({ type: "focus", cell });
  grid.reveal(cell);
}

function move(app: App, grid: GridView, event: KeyboardEvent): boolean {
  const shape = grid.currentShape();
  const cell = focusOf(app, grid);
  if (!shape || !cell) return false;
  const size = { rows: shape.rows.length, cols: shape.cols.length, page: grid.pageRows() };
  const to = keyTarget(event.key, event.ctrlKey || event.metaKey, placeOf(shape, cell), size);
  const next = to && cellAt(shape, to.row, to.col);
  if (!next) return false;
  moveFocus(app, grid, next);
  return true;
}

function pinTop(app: App, { layer, position }: CellRef): void {
  const cells = app.cells();
  const top = cells?.top(app.traits(), layer, position);
  if (cells && top && top.id >= 0) togglePin(app, top.id, cells.label(top.id));
}

/** Go on with what stands in a cell, in place of what came after it. */
function forkHere(app: App, { layer, position }: CellRef): void {
  const run = shownRun(app.get());
  const cells = app.cells();
  const top = cells?.top(app.traits(), layer, position);
  if (!run || !cells || !top || top.id < 0 || !mayFork(app, run)) return;
  if (run.tokens[position + 1] === top.id)
    app.local({ said: `${cells.label(top.id)[0]} is what comes next here` });
  else forkAt(app, run, position, top.id);
}

function toggleCharted(app: App, cell: CellRef): void {
  const state = app.get();
  const { traits, focus } = state;
  const run = shownRun(state);
  if (!run) return;
  const { trajectory } = traits;
  const now = trajectory.positions.length ? chartedPositions(traits, focus, run) : [];
  const has = now.includes(cell.position);
  const positions = has ? now.filter((position) => position !== cell.position) : [...now, cell.position];
  app.set({ trajectory: { ...trajectory, positions } });
}

/** Set a column width; never exactly the default one, since columns of that width narrow to fit. */
export function setWidth(app: App, width_px: number): void {
  const column_width_px = Math.round(clamp(width_px, MIN_COL_PX, MAX_COL_PX));
  app.set({ column_width_px: column_width_px + Number(column_width_px === DEFAULT_COL_PX) });
}

/** Close one thing, as Escape does: a panel, else the notice, else the card. False if none is open. */
export function closeOne(app: App): boolean {
  const { panel, notice, traits, editor } = app.get();
  if (editor) app.local({ editor: null, form: null });
  else if (panel === "search") app.local({ panel: null, form: null });
  else if (panel) app.local({ panel: null });
  else if (notice) app.local({ notice: null });
  else if (traits.selection) app.dispatch({ type: "close", key: MAIN });
  else return false;
  return true;
}

/** The cell of the next column that is shown, or of the one before; null at the ends. */
export function columnBeside(app: App, grid: GridView, by: number): CellRef | null {
  const shape = grid.currentShape();
  const cell = focusOf(app, grid);
  if (!shape || !cell) return null;
  const { row, col } = placeOf(shape, cell);
  return (shape.isAcross ? cellAt(shape, row, col + by) : cellAt(shape, row + by, col)) ?? null;
}

function stepColumn(app: App, grid: GridView, by: number): void {
  const next = columnBeside(app, grid, by);
  if (next) moveFocus(app, grid, next);
}

/** Handle a key in the grid. False for a key that does nothing here. */
export function gridKey(app: App, grid: GridView, event: KeyboardEvent, search: () => void): boolean {
  if (event.altKey) return false;
  if (move(app, grid, event)) return true;
  if (event.ctrlKey || event.metaKey) return false;
  const cell = focusOf(app, grid);
  // the drawn width, which may be narrower than the chosen one
  const col_px = grid.currentShape()?.col_px ?? DEFAULT_COL_PX;
  const does: Record<string, () => void> = {
    Enter: () => cell && openCell(app, cell),
    " ": () => cell && openCell(app, cell),
    k: () => app.dispatch({ type: "keep" }),
    p: () => cell && pinTop(app, cell),
    t: () => cell && toggleCharted(app, cell),
    d: () => flip(app),
    w: () => app.traits().selection && toggleWhy(app, MAIN),
    m: () => app.local({ isSourceOpen: !app.get().isSourceOpen }),
    e: () => cell && openEditor(app, cell),
    y: () => cell && yank(app, cell),
    P: () => cell && put(app, cell),
    f: () => cell && foldBandAt(app, cell),
    F: () => cell && foldPassAt(app, cell),
    T: () => toggleTemplate(app),
    ",": () => stepColumn(app, grid, -1),
    ".": () => stepColumn(app, grid, 1),
    b: () => cell && forkHere(app, cell),
    s: () => app.set({ show_spine: !app.traits().show_spine }),
    "/": search,
    "[": () => setWidth(app, col_px - COLUMN_STEP_PX),
    "]": () => setWidth(app, col_px + COLUMN_STEP_PX),
    "?": () => toggle(app, "help"),
  };
  const act = does[event.key];
  act?.();
  return !!act;
}
