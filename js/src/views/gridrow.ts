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

/**
 * A row's element with its header and the cells in view, in visual order. A row's header scrolls with its cells; what
 * the eye sees is its label, which stays: all labels are one layer, where sticky headers were one each.
 */
export interface RowNode {
  readonly element: HTMLDivElement;
  readonly header: HTMLDivElement;
  /** Of the row of heads, the header itself. */
  readonly label: HTMLDivElement;
  row: number;
  cells: CellNode[];
  /** What its header was last written for. */
  last: unknown;
}

export type CellRole = "gridcell" | "columnheader";

export function makeRow(headerRole: "rowheader" | "columnheader"): RowNode {
  const element = div("lw-row", "row");
  const isHead = headerRole === "columnheader";
  const header = div(isHead ? "lw-rowhead" : "lw-rowname", headerRole);
  const label = isHead ? header : div("lw-rowhead");
  header.ariaColIndex = "1";
  header.append("");
  element.append(header);
  return { element, header, label, row: -1, cells: [], last: null };
}

function makeCell(role: CellRole): CellNode {
  const element = div("lw-cell", role);
  if (role === "gridcell") element.tabIndex = -1;
  element.dir = "auto";
  const text = document.createTextNode("");
  element.append(text);
  return { element, text, col: -1, last: "" };
}

/**
 * Make a row hold exactly the cells of a range of columns, in order. The elements stay where they are and are written
 * anew: to move one costs more, and has the whole row painted.
 */
export function fitCells(row: RowNode, role: CellRole, { c0, c1 }: CellRange, col_px: number): void {
  const { cells, element } = row;
  if (cells[0]?.col === c0 && cells.length === c1 - c0) return;
  while (cells.length > c1 - c0) cells.pop()?.element.remove();
  while (cells.length < c1 - c0) {
    const cell = makeCell(role);
    element.append(cell.element);
    cells.push(cell);
  }
  for (const [i, cell] of cells.entries()) {
    cell.col = c0 + i;
    cell.last = "";
    cell.element.ariaColIndex = String(c0 + i + 2);
  }
  // the cells follow each other, so only the first needs a position
  const [first] = cells;
  if (first) first.element.style.marginLeft = c0 ? `${c0 * col_px}px` : "";
}

/** Make the body hold exactly the rows of a range, in order, and `labels` their labels. */
export function fitRows(
  body: HTMLElement,
  labels: HTMLElement,
  rows: RowNode[],
  { r0, r1 }: CellRange,
  row_px: number,
): void {
  for (const { element, label } of rows.splice(r1 - r0)) {
    element.remove();
    label.remove();
  }
  while (rows.length < r1 - r0) {
    const node = makeRow("rowheader");
    // before what lies over the cells
    body.insertBefore(node.element, body.lastChild);
    labels.append(node.label);
    rows.push(node);
  }
  for (const [i, node] of rows.entries()) {
    if (node.row === r0 + i) continue;
    node.row = r0 + i;
    node.last = null;
    for (const cell of node.cells) cell.last = "";
    node.element.ariaRowIndex = String(node.row + 2);
    for (const { style } of [node.element, node.label]) style.top = `${node.row * row_px}px`;
  }
}

/** Write a cell's look. Only what changed is written, because each write restyles. */
export function paint(cell: CellNode, look: Look, isFocused: boolean): void {
  const { text, className, surface, ink, pin } = look;
  const key = [text, className, surface, pin, isFocused].join();
  if (cell.last === key) return;
  cell.last = key;
  const { element } = cell;
  const { style } = element;
  if (cell.text.data !== text) cell.text.data = text;
  if (style.backgroundColor !== surface) style.backgroundColor = surface;
  if (style.color !== ink) style.color = ink;
  style.setProperty("--lw-pin", pin);
  if (element.className !== className) element.className = className;
  if (element.tabIndex !== (isFocused ? 0 : -1)) element.tabIndex = isFocused ? 0 : -1;
  const isSelected = className.includes("is-selected") ? "true" : "false";
  if (element.ariaSelected !== isSelected) element.ariaSelected = isSelected;
}

/** Write the header of a row, which is read out, and its label, which is seen. */
export function writeRowHead({ header, label }: RowNode, head: Head, theme: Theme): void {
  writeHead(label, "lw-rowhead", head, theme);
  const { text, at } = head;
  header.textContent = text;
  header.ariaLabel = head.label || (at ? `${at} ${text}` : null);
  header.ariaExpanded = label.ariaExpanded;
}

/** Write the header of a row or a column. */
export function writeHead(element: HTMLElement, name: string, head: Head, theme: Theme): void {
  const { text, at, title, label, band, color, isFolded, share } = head;
  element.textContent = text;
  element.className = `${name} ${head.className}${isFolded === null ? "" : " is-foldable"}`;
  Object.assign(element.dataset, { at, band });
  element.title = title;
  element.ariaLabel = label || null;
  if (color !== null) element.style.setProperty("--lw-band", bandColor(color, theme));
  if (share !== undefined) element.style.setProperty("--lw-share", share.toFixed(3));
  element.ariaExpanded = isFolded === null ? null : String(!isFolded);
}
