import { div } from "../base/dom.ts";
import type { CellRange } from "../look/layout.ts";
import { bandColor, type Theme } from "../look/scales.ts";
import type { Look } from "./cellLook.ts";
import type { Head } from "./heads.ts";

/** A cell's element, with the look that was last written to it. */
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

export function makeRow(headerRole: "rowheader" | "columnheader"): RowNode {
  const element = div("lw-row", "row");
  const header = div("lw-rowhead", headerRole);
  header.ariaColIndex = "1";
  header.append("");
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

function moveTo(cell: CellNode, col: number): void {
  cell.col = col;
  cell.last = "";
  cell.element.ariaColIndex = String(col + 2);
}

/** Reuse the cells that leave the range for those that enter it. */
function moveCells(row: RowNode, role: CellRole, { c0, c1 }: CellRange): CellNode[] {
  const free = row.cells.filter(({ col }) => col < c0 || col >= c1);
  const kept = new Map(row.cells.filter(({ col }) => col >= c0 && col < c1).map((cell) => [cell.col, cell]));
  const next: CellNode[] = [];
  let before = row.header.nextSibling;
  for (let col = c0; col < c1; col++) {
    let cell = kept.get(col);
    if (!cell) {
      cell = free.pop() ?? makeCell(role);
      moveTo(cell, col);
    }
    if (cell.element === before) before = before.nextSibling;
    else row.element.insertBefore(cell.element, before);
    next.push(cell);
  }
  for (const { element } of free) element.remove();
  return next;
}

/** Make a row hold exactly the cells of a range of columns, in order. */
export function fitCells(row: RowNode, role: CellRole, window: CellRange, col_px: number): void {
  const { c0, c1 } = window;
  const first = row.cells[0];
  if (first?.col === c0 && row.cells.length === c1 - c0) return;
  if (first) first.element.style.marginLeft = "";
  const shift = first ? Math.abs(first.col - c0) : 0;
  // moving an element costs more than rewriting it, so after a long jump all stay in place and are rewritten
  if (row.cells.length === c1 - c0 && shift > (c1 - c0) / 4)
    for (const [i, cell] of row.cells.entries()) moveTo(cell, c0 + i);
  else row.cells = moveCells(row, role, window);
  const start = row.cells[0];
  // the cells follow each other, so only the first needs a position
  if (start) start.element.style.marginLeft = c0 ? `${c0 * col_px}px` : "";
}

/** Make the body hold exactly the rows of a range, in order; returns them. */
export function fitRows(
  body: HTMLElement,
  rows: readonly RowNode[],
  { r0, r1 }: CellRange,
  row_px: number,
): RowNode[] {
  const isIn = ({ row }: RowNode) => row >= r0 && row < r1;
  const free = rows.filter((node) => !isIn(node));
  const kept = new Map(rows.filter(isIn).map((node) => [node.row, node]));
  const next: RowNode[] = [];
  let before: ChildNode | null = body.firstChild;
  for (let row = r0; row < r1; row++) {
    let node = kept.get(row);
    if (!node) {
      node = free.pop() ?? makeRow("rowheader");
      node.row = row;
      for (const cell of node.cells) cell.last = "";
      node.element.ariaRowIndex = String(row + 2);
    }
    node.element.style.top = `${row * row_px}px`;
    if (node.element === before) before = before.nextSibling;
    else body.insertBefore(node.element, before);
    next.push(node);
  }
  for (const { element } of free) element.remove();
  return next;
}

/** Write a cell's look. Only what changed is written, because each write restyles. */
export function paint(cell: CellNode, look: Look, isFocused: boolean): void {
  const { text, className, surface, ink, pin } = look;
  const key = `${text}\n${className}\n${surface}\n${pin}\n${isFocused}`;
  if (cell.last === key) return;
  cell.last = key;
  const { element } = cell;
  const { style } = element;
  if (cell.text.data !== text) cell.text.data = text;
  if (style.backgroundColor !== surface) style.backgroundColor = surface;
  if (style.color !== ink) style.color = ink;
  if (pin || element.className.includes("is-pinned")) style.setProperty("--lw-pin", pin);
  if (element.className !== className) element.className = className;
  if (element.tabIndex !== (isFocused ? 0 : -1)) element.tabIndex = isFocused ? 0 : -1;
  const isSelected = className.includes("is-selected") ? "true" : "false";
  if (element.ariaSelected !== isSelected) element.ariaSelected = isSelected;
}

/** Write the header of a row or a column. Only what changed is written. */
export function writeHead(element: HTMLElement, name: string, head: Head, theme: Theme): void {
  const { text, at, title, label, band, color, isFolded, share } = head;
  const className = `${name} ${head.className}${isFolded === null ? "" : " is-foldable"}`;
  const node = element.firstChild as Text;
  if (node.data !== text) node.data = text;
  if (element.className !== className) element.className = className;
  if (element.dataset.at !== at) element.dataset.at = at;
  if ((element.dataset.band ?? "") !== band) element.dataset.band = band;
  if (element.title !== title) element.title = title;
  if ((element.ariaLabel ?? "") !== label) element.ariaLabel = label || null;
  if (color !== null) element.style.setProperty("--lw-band", bandColor(color, theme));
  if (share !== undefined) element.style.setProperty("--lw-share", share.toFixed(3));
  const expanded = isFolded === null ? null : String(!isFolded);
  if (element.ariaExpanded !== expanded) element.ariaExpanded = expanded;
}
