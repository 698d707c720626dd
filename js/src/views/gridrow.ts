import type { Window } from "../layout.ts";
import type { Look } from "./cell.ts";

/** A cell's element, with what was last written to it so that nothing is written twice. */
export interface CellNode {
  readonly element: HTMLDivElement;
  readonly text: Text;
  col: number;
  last: string;
}

/** A row's element with its header and the cells in view, in visual order. */
export interface RowNode {
  readonly element: HTMLDivElement;
  readonly header: HTMLDivElement;
  row: number;
  cells: CellNode[];
}

export type CellRole = "gridcell" | "columnheader";

function div(className: string, role: string): HTMLDivElement {
  const element = document.createElement("div");
  element.className = className;
  element.setAttribute("role", role);
  return element;
}

export function makeRow(headerRole: "rowheader" | "columnheader"): RowNode {
  const element = div("lw-row", "row");
  const header = div("lw-rowhead", headerRole);
  header.setAttribute("aria-colindex", "1");
  element.append(header);
  return { element, header, row: -1, cells: [] };
}

function makeCell(role: CellRole): CellNode {
  const element = div("lw-cell", role);
  if (role === "gridcell") element.tabIndex = -1;
  element.dir = "auto";
  const text = document.createTextNode("");
  element.append(text);
  return { element, text, col: -1, last: "" };
}

function place(cell: CellNode, col: number, col_px: number, head_px: number): void {
  cell.col = col;
  cell.last = "";
  cell.element.style.left = `${head_px + col * col_px}px`;
  cell.element.setAttribute("aria-colindex", String(col + 2));
}

/** Have exactly the cells of a range of columns, in order; cells that leave are used for those that enter. */
export function fitCells(
  row: RowNode,
  role: CellRole,
  { c0, c1 }: Window,
  col_px: number,
  head_px: number,
): void {
  const free = row.cells.filter(({ col }) => col < c0 || col >= c1);
  const kept = new Map(row.cells.filter(({ col }) => col >= c0 && col < c1).map((cell) => [cell.col, cell]));
  const next: CellNode[] = [];
  let before = row.header.nextSibling;
  for (let col = c0; col < c1; col++) {
    let cell = kept.get(col);
    if (!cell) {
      cell = free.pop() ?? makeCell(role);
      place(cell, col, col_px, head_px);
    }
    if (cell.element === before) before = before.nextSibling;
    else row.element.insertBefore(cell.element, before);
    next.push(cell);
  }
  for (const { element } of free) element.remove();
  row.cells = next;
}

/** Write a cell's look, if it changed. */
export function paint(cell: CellNode, look: Look, isFocused: boolean): void {
  const key = `${look.text}\n${look.className}\n${look.background}\n${look.pin}\n${isFocused}`;
  if (cell.last === key) return;
  cell.last = key;
  const { element, text } = cell;
  if (text.data !== look.text) text.data = look.text;
  if (element.className !== look.className) element.className = look.className;
  element.style.backgroundColor = look.background;
  element.style.color = look.ink;
  element.style.setProperty("--lw-pin", look.pin);
  element.tabIndex = isFocused ? 0 : -1;
  element.setAttribute("aria-selected", String(look.className.includes("is-selected")));
}
