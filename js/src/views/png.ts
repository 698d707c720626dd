import type { Cells } from "../cells/cells.ts";
import { STRIP_PX, type Strip, stripText } from "../look/bands.ts";
import { clamp, tokenCount } from "../look/format.ts";
import { cellAt, PLAIN_HEAD_PX, type Scroll, type Shape, shapeOf } from "../look/layout.ts";
import { bandColor, pinColor } from "../look/scales.ts";
import type { App } from "../state/context.ts";
import { promptText } from "../state/selectors.ts";
import { type Look, looksOf, settledLayers } from "./cellLook.ts";
import { headOf } from "./heads.ts";
import { type LegendKey, legendOf } from "./legend.ts";

const SCALE = 2;
/** Browsers refuse a canvas of more than about 16,000 pixels a side; this leaves room for title and legend. */
const MAX_PX = 16_000 / SCALE - 300;
const PAD = 12;
const LINE_PX = 18;
/** The widths of the number's name in the legend, and of its scale. */
const NAME_PX = 240;
const RAMP_PX = 260;
/** The least width of title and legend. */
const MIN_PX = 560;
const MOST_LINES = 4;

type Pen = CanvasRenderingContext2D;

/** The grid to draw, and the pen to draw it with. */
interface Sheet {
  readonly app: App;
  readonly cells: Cells;
  readonly shape: Shape;
  readonly pen: Pen;
  readonly ink: string;
  readonly paper: string;
  readonly font: string;
  readonly width_px: number;
}

function write(pen: Pen, text: string, x: number, y: number, width_px: number, align: CanvasTextAlign): void {
  pen.textAlign = align;
  let shown = text;
  const letters = [...text];
  while (letters.length > 1 && pen.measureText(shown).width > width_px) {
    letters.pop();
    shown = `${letters.join("")}…`;
  }
  pen.fillText(shown, x, y);
}

/** A cell with its marks, or a swatch of the legend. */
function drawCell(
  { pen, ink, paper, shape }: Sheet,
  { className, surface, ink: own, pin, text }: Look,
  x: number,
  y: number,
  width_px: number,
  height_px: number,
): void {
  const fill = (color: string, ...box: [number, number, number, number]) => {
    pen.fillStyle = color;
    pen.fillRect(...box);
  };
  const is = (mark: string) => className.includes(`is-${mark}`);
  if (surface) fill(surface, x, y, width_px, height_px);
  if (is("noise")) {
    pen.globalAlpha = 0.66;
    fill(paper, x, y, width_px, height_px);
    pen.globalAlpha = 1;
  }
  pen.beginPath();
  if (is("missing") || is("nan")) {
    // struck through, so that it does not look like a low value
    pen.strokeStyle = "#8888";
    pen.moveTo(x, y + height_px);
    pen.lineTo(x + width_px, y);
    pen.stroke();
  }
  if (pin) fill(pin, x, y, 4, height_px);
  pen.fillStyle = own || ink;
  if (is("next")) {
    pen.moveTo(x + width_px - 8, y);
    pen.lineTo(x + width_px, y);
    pen.lineTo(x + width_px, y + 8);
    pen.fill();
  }
  if (is("settled")) {
    if (shape.isAcross) pen.fillRect(x, y + height_px - 2, width_px, 2);
    else pen.fillRect(x + 5, y, 2, height_px);
  }
  write(pen, text, x + width_px / 2, y + 14, width_px - 8, "center");
}

function drawCells(sheet: Sheet, top: number): void {
  const { app, cells, shape } = sheet;
  const settledAt = settledLayers(app);
  const lookOf = looksOf(app, cells, app.traits());
  const { col_px, row_px, head_col_px, head_row_px } = shape;
  shape.rows.forEach((_, row) => {
    shape.cols.forEach((_, col) => {
      const cell = cellAt(shape, row, col);
      if (!cell) return;
      const look = lookOf(cell, settledAt(cell.position));
      const y = top + head_row_px + row * row_px;
      drawCell(sheet, look, PAD + head_col_px + col * col_px, y, col_px - 1, row_px - 1);
    });
  });
}

function drawHeads({ pen, cells, shape }: Sheet, top: number): void {
  const { col_px, row_px, head_col_px, head_row_px, isAcross, rows, cols } = shape;
  const head = (index: number, isLayer: boolean) => headOf(cells.run, shape, index, isLayer);
  cols.forEach((_, col) => {
    const x = PAD + head_col_px + (col + 0.5) * col_px;
    const { text, at } = head(col, !isAcross);
    write(pen, text, x, top + head_row_px - 8, col_px - 6, "center");
    if (isAcross) write(pen, at, x, top + head_row_px - PLAIN_HEAD_PX + 11, col_px, "center");
  });
  rows.forEach((_, row) => {
    const y = top + head_row_px + row * row_px;
    const { text, at, className } = head(row, isAcross);
    // the name of a pass, or a position and its role, stand beside the head
    const beside_px = at ? Math.min(head_col_px - 40, pen.measureText(at).width + 8) : 0;
    write(pen, text, PAD + head_col_px - 8, y + 14, head_col_px - 12 - beside_px, "right");
    if (at) write(pen, at, PAD, y + 14, beside_px, "left");
    if (className.includes("is-pass")) drawBracket(pen, className, y, row_px);
  });
}

/** The part of a pass's bracket beside one of its rows. */
function drawBracket(pen: Pen, className: string, y: number, row_px: number): void {
  const x = PAD - 6;
  pen.fillRect(x, y, 1, row_px - 1);
  if (className.includes("is-first")) pen.fillRect(x, y, 4, 1);
  if (className.includes("is-final")) pen.fillRect(x, y + row_px - 2, 4, 1);
}

/** The messages and pictures of the prompt, over their columns. */
function drawStrips({ app, pen, shape, ink }: Sheet, top: number): void {
  if (!shape.isAcross) return;
  const { col_px, head_col_px } = shape;
  for (const strip of shape.strips) {
    const x = PAD + head_col_px + strip.from * col_px;
    const y = top + strip.line * STRIP_PX;
    const width_px = (strip.to - strip.from) * col_px - 1;
    pen.fillStyle = bandColor(strip.color, app.theme());
    pen.fillRect(x, y, width_px, 3);
    pen.fillStyle = ink;
    write(pen, stripText(strip), x + 3, y + 13, width_px - 6, "left");
  }
}

/** Breaks a text into lines that fit; the last line holds all that is left. */
export function wrapText(pen: Pick<Pen, "measureText">, text: string, width_px: number): string[] {
  const lines = [""];
  // a line may break at a space, and anywhere within Chinese or Japanese
  for (const piece of text.replaceAll("\n", "⏎ ").split(/(?<=\s|[\u2e80-\uffef])/)) {
    const last = lines.length - 1;
    const isFull = pen.measureText(lines[last] + piece).width > width_px && lines[last];
    if (isFull && lines.length < MOST_LINES) lines.push(piece);
    else lines[last] += piece;
  }
  return lines;
}

/** Draws the prompt and how it is read; returns where the title ends. */
function drawTitle({ app, cells: { run }, shape, pen, font, width_px }: Sheet): number {
  const state = app.get();
  const { traits } = state;
  const room_px = width_px - 2 * PAD;
  let y = PAD;
  const line = (text: string) => {
    y += LINE_PX;
    write(pen, text, PAD, y - 4, room_px, "left");
  };
  pen.font = `600 14px ${font}`;
  wrapText(pen, promptText(state), room_px).forEach(line);
  pen.font = `12px ${font}`;
  const positions = shape.isAcross ? shape.cols : shape.rows;
  const n = run.tokens.length;
  const part =
    positions.length < n ? `positions ${positions[0]} to ${positions.at(-1)} of ${n}` : tokenCount(n);
  const says = run.predicts === "same" ? ["each cell: the token that stands there"] : [];
  line([run.model, run.dtype, traits.site, `${traits.lens} lens`, part, ...says].join(" · "));
  return y + PAD;
}

/** Draws the legend in as many lines as it needs; returns where it ends. */
function drawLegend(sheet: Sheet, top: number): number {
  const { app, cells, pen, ink, width_px } = sheet;
  const theme = app.theme();
  const { name, scale, ticks, keys, poor } = legendOf(app, cells);
  const pins = app
    .traits()
    .pins.map(({ label, color }): LegendKey => [`pinned: ${label}`, "is-pinned", "", pinColor(color, theme)]);
  let x = PAD;
  let y = top;
  pen.fillStyle = ink;
  write(pen, name, x, y + 10, NAME_PX - 30, "left");
  if (scale) {
    for (const { at, text } of ticks)
      write(pen, text, PAD + NAME_PX + at * RAMP_PX, y + 26, RAMP_PX, "center");
    scale.forEach((color, i) => {
      pen.fillStyle = color;
      pen.fillRect(PAD + NAME_PX + 4 * i, y, 4, 12);
    });
    y += LINE_PX;
  }
  y += LINE_PX;
  for (const [text, className, surface, pin] of [...keys, ...pins]) {
    const needed_px = 48 + pen.measureText(text).width;
    if (x > PAD && x + needed_px > width_px) {
      x = PAD;
      y += LINE_PX;
    }
    drawCell(sheet, { className, surface, pin: pin ?? "", ink, text: "" }, x, y, 22, 12);
    pen.fillStyle = ink;
    write(pen, text, x + 28, y + 10, width_px, "left");
    x += needed_px;
  }
  if (poor) {
    y += LINE_PX;
    write(pen, poor, PAD, y + 10, width_px, "left");
  }
  return y + LINE_PX;
}

/** At most `most` of the rows or columns, starting with the first one in view. */
function cut(items: readonly number[], first: number, most: number): readonly number[] {
  const from = clamp(first, 0, items.length - most);
  return items.slice(from, from + most);
}

/** The parts of strips that lie over `most` columns from the first. */
export function cutStrips(strips: readonly Strip[], first: number, most: number): Strip[] {
  return strips
    .map((strip) => ({
      ...strip,
      from: Math.max(0, strip.from - first),
      to: Math.min(most, strip.to - first),
    }))
    .filter(({ from, to }) => from < to);
}

/** Saves a picture of the grid with title and legend, at twice the size so that text stays crisp. */
export function savePng(app: App, root: HTMLElement, { left, top }: Scroll): void {
  const cells = app.cells();
  const canvas = document.createElement("canvas");
  const pen = canvas.getContext("2d");
  if (!cells || !pen) return;
  const { color: ink, backgroundColor, fontFamily: font } = getComputedStyle(root);
  const whole = shapeOf(cells.run, app.traits());
  const { rows, cols, col_px, row_px, head_col_px, head_row_px } = whole;
  const shownCols = cut(cols, Math.floor(left / col_px), Math.floor((MAX_PX - head_col_px) / col_px));
  const shownRows = cut(rows, Math.floor(top / row_px), Math.floor((MAX_PX - head_row_px) / row_px));
  const axis = whole.isAcross ? ([cols, shownCols] as const) : ([rows, shownRows] as const);
  const strips = cutStrips(whole.strips, axis[0].indexOf(axis[1][0] ?? 0), axis[1].length);
  const shape = { ...whole, cols: shownCols, rows: shownRows, strips };
  const width_px = 2 * PAD + Math.max(MIN_PX, head_col_px + shape.cols.length * col_px);
  const grid_px = head_row_px + shape.rows.length * row_px + PAD;
  const sheet = { app, cells, shape, pen, ink, paper: backgroundColor, font, width_px };
  /** Draws title and legend; returns where the grid starts and where the picture ends. */
  const draw = () => {
    pen.scale(SCALE, SCALE);
    pen.fillStyle = backgroundColor;
    pen.fillRect(0, 0, width_px, MAX_PX);
    pen.fillStyle = ink;
    const grid_top = drawTitle(sheet);
    drawHeads(sheet, grid_top);
    drawStrips(sheet, grid_top);
    return [grid_top, drawLegend(sheet, grid_top + grid_px)] as const;
  };
  canvas.width = width_px * SCALE;
  // drawn twice: only a drawing tells the height, and setting the height clears the canvas
  canvas.height = SCALE * (draw()[1] + PAD);
  drawCells(sheet, draw()[0]);
  canvas.toBlob((blob) => blob && download(blob, "lens.png"));
}

function download(blob: Blob, name: string): void {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
