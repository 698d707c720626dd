import type { App } from "../app.ts";
import type { Cells } from "../cells.ts";
import { layerName } from "../format.ts";
import { cellAt, type Shape, shapeOf } from "../layout.ts";
import { METRICS, nameOf, ticksOf } from "../metrics.ts";
import type { RunInfo } from "../protocol.ts";
import { ramp } from "../scales.ts";
import { promptLabel, runOf } from "../selectors.ts";
import { brief, lookOf, settledLayers } from "./cell.ts";

const SCALE = 2;
/** Browsers refuse a canvas beyond about 16,000 pixels a side. */
const MAX_PX = 16_000 / SCALE;
const PAD = 12;
const FOOT_PX = 40;

type Pen = CanvasRenderingContext2D;

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

/** A stroke through a cell that is not computed: it must not look like a low value. */
function strike(pen: Pen, x: number, y: number, width_px: number, height_px: number): void {
  pen.strokeStyle = "#8888";
  pen.beginPath();
  pen.moveTo(x, y + height_px);
  pen.lineTo(x + width_px, y);
  pen.stroke();
}

function drawCells(pen: Pen, app: App, run: RunInfo, shape: Shape, ink: string): void {
  const { traits } = app.get();
  const settledAt = settledLayers(app);
  const { col_px, row_px, head_col_px, head_row_px } = shape;
  shape.rows.forEach((_, row) => {
    const y = PAD + head_row_px + row * row_px;
    shape.cols.forEach((_, col) => {
      const cell = cellAt(shape, row, col);
      if (!cell) return;
      const settled = settledAt(cell.position);
      const look = lookOf(app, run, traits, cell, settled);
      const x = PAD + head_col_px + col * col_px;
      if (look.background) {
        pen.fillStyle = look.background;
        pen.fillRect(x, y, col_px - 1, row_px - 1);
      } else strike(pen, x, y, col_px - 1, row_px - 1);
      if (look.pin) {
        pen.fillStyle = look.pin;
        pen.fillRect(x, y, 4, row_px - 1);
      }
      pen.fillStyle = look.ink || ink;
      if (settled === cell.layer) {
        if (shape.rowsAre === "layers") pen.fillRect(x, y + row_px - 3, col_px - 1, 2);
        else pen.fillRect(x + 5, y, 2, row_px - 1);
      }
      write(pen, look.text, x + col_px / 2, y + 14, col_px - 8, "center");
    });
  });
}

function drawHeads(pen: Pen, run: RunInfo, shape: Shape): void {
  const name = (value: number, isLayer: boolean) =>
    isLayer ? layerName(value) : brief(promptLabel(run, value));
  const { col_px, row_px, head_col_px, head_row_px } = shape;
  const rowsAreLayers = shape.rowsAre === "layers";
  shape.cols.forEach((value, col) => {
    const x = PAD + head_col_px + (col + 0.5) * col_px;
    write(pen, name(value, !rowsAreLayers), x, PAD + head_row_px - 8, col_px - 6, "center");
  });
  shape.rows.forEach((value, row) => {
    const y = PAD + head_row_px + row * row_px + 14;
    write(pen, name(value, rowsAreLayers), PAD + head_col_px - 8, y, head_col_px - 8, "right");
  });
}

function drawFoot(pen: Pen, app: App, run: RunInfo, y: number, width_px: number): void {
  const { traits } = app.get();
  const cells = app.cells() as Cells;
  const { metric, site, lens } = traits;
  const spec = METRICS[metric];
  const ends = ticksOf(spec, run);
  write(pen, `${run.model} · ${site} · ${lens}`, PAD, y + 12, width_px - 2 * PAD, "left");
  write(pen, nameOf(cells, traits) + spec.unit, PAD, y + 30, 190, "left");
  write(pen, ends[0]?.text ?? "", 256, y + 30, 60, "right");
  write(pen, ends.at(-1)?.text ?? "", 400, y + 30, 60, "left");
  ramp(spec.scale, app.theme()).forEach(({ css }, i) => {
    pen.fillStyle = css;
    pen.fillRect(263 + 2 * i, y + 20, 2, 12);
  });
}

/** A picture of all cells on show, drawn at twice the size so that text stays crisp, and saved as a file. */
export function savePng(app: App, root: HTMLElement): void {
  const { traits } = app.get();
  const run = runOf(traits);
  if (!run) return;
  const whole = shapeOf(run, traits);
  const n_cols = Math.floor((MAX_PX - 2 * PAD - whole.head_col_px) / whole.col_px);
  const n_rows = Math.floor((MAX_PX - 2 * PAD - whole.head_row_px - FOOT_PX) / whole.row_px);
  const shape: Shape = { ...whole, cols: whole.cols.slice(0, n_cols), rows: whole.rows.slice(0, n_rows) };
  const width = 2 * PAD + Math.max(420, shape.head_col_px + shape.cols.length * shape.col_px);
  const height = 2 * PAD + shape.head_row_px + shape.rows.length * shape.row_px + FOOT_PX;
  const canvas = document.createElement("canvas");
  canvas.width = width * SCALE;
  canvas.height = height * SCALE;
  const pen = canvas.getContext("2d");
  if (!pen) return;
  const { color, backgroundColor, fontFamily } = getComputedStyle(root);
  pen.scale(SCALE, SCALE);
  pen.fillStyle = backgroundColor;
  pen.fillRect(0, 0, width, height);
  pen.font = `12px ${fontFamily}`;
  pen.fillStyle = color;
  drawHeads(pen, run, shape);
  drawFoot(pen, app, run, height - PAD - FOOT_PX + 4, width);
  drawCells(pen, app, run, shape, color);
  canvas.toBlob((blob) => blob && download(blob, "lens.png"));
}

function download(blob: Blob, name: string): void {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
