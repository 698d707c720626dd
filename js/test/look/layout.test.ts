import { expect, test } from "vitest";
import { DEFAULTS } from "../../src/kernel/traits.ts";
import {
  cellAt,
  MAX_CELLS,
  maxHeight,
  placeOf,
  roomIn,
  scrollTo,
  shapeOf,
  shownLayers,
  windowOf,
} from "../../src/look/layout.ts";

const run = {
  n_layers: 100,
  tokens: Array(4096).fill(1),
  special: Array.from({ length: 4096 }, (_, i) => i === 0),
};

test.each([1, 2, 3, 7, 99, 500])("a stride of %i keeps the last layer and the embedding", (stride) => {
  const layers = shownLayers(30, stride, "resid_post");
  expect(layers[0]).toBe(29);
  expect(layers.at(-1)).toBe(-1);
  expect(new Set(layers).size).toBe(layers.length);
});

test("a site within the blocks has no embedding row", () => {
  expect(shownLayers(4, 1, "attn_out")).toEqual([3, 2, 1, 0]);
  expect(shownLayers(4, 3, "attn_out")).toEqual([3, 0]);
});

test("hidden special tokens leave the positions as they are", () => {
  const shape = shapeOf(run, { ...DEFAULTS, hide_special: true });
  expect(shape.cols.slice(0, 2)).toEqual([1, 2]);
});

test("transposing swaps rows and columns and nothing else", () => {
  const upright = shapeOf(run, DEFAULTS);
  const turned = shapeOf(run, { ...DEFAULTS, orientation: "tokens" });
  const cell = { layer: 17, position: 2000 };
  for (const shape of [upright, turned]) {
    const { row, col } = placeOf(shape, cell);
    expect(cellAt(shape, row, col)).toEqual(cell);
  }
  expect(turned.cols[0]).toBe(-1);
});

test.each([24, 72, 400])("at %i px a column, what is in the page stays bounded", (column_width_px) => {
  const shape = shapeOf(run, { ...DEFAULTS, column_width_px });
  for (const width of [300, 900, 2400]) {
    const height = maxHeight(shape, width, 700);
    const { r0, r1, c0, c1 } = windowOf(shape, { left: 5000, top: 300, width, height });
    expect((r1 - r0) * (c1 - c0)).toBeLessThanOrEqual(MAX_CELLS * 1.25);
    expect(c1 - c0).toBeGreaterThan(0);
  }
});

test("columns give way a little where that shows them all, and only then", () => {
  const few = { ...run, tokens: run.tokens.slice(0, 9), special: [] };
  // beside the header, the frame and a scrollbar
  expect(shapeOf(few, DEFAULTS, 58 + 2 + 14 + 9 * 60).col_px).toBe(60);
  expect(shapeOf(few, DEFAULTS, 58 + 2 + 14 + 9 * 40 - 1).col_px).toBe(DEFAULTS.column_width_px);
  expect(shapeOf(few, DEFAULTS, 2000).col_px).toBe(DEFAULTS.column_width_px);
  expect(shapeOf(few, { ...DEFAULTS, column_width_px: 80 }, 58 + 2 + 9 * 60).col_px).toBe(80);
});

test("the grid has all of a narrow widget, and what the card leaves of a wide one", () => {
  expect([350, 760, 761, 1400].map(roomIn)).toEqual([350, 760, 405, 1044]);
});

test("scrolling to a cell in view moves nothing", () => {
  const shape = shapeOf(run, DEFAULTS);
  const scroll = { left: 720, top: 100, width: 900, height: 600 };
  expect(scrollTo(shape, scroll, 8, 13)).toEqual({ left: 720, top: 100 });
  expect(scrollTo(shape, scroll, 0, 0)).toEqual({ left: 0, top: 0 });
});

test("what is in the page is as many columns wherever the grid is scrolled to, and more than are visible", () => {
  const shape = shapeOf(run, DEFAULTS);
  const at = (left: number) => windowOf(shape, { left, top: 0, width: 900, height: 600 });
  const n = at(0).c1;
  const end = shape.cols.length * shape.col_px - (900 - shape.head_col_px);
  for (const left of [0, 1, 100, 5000, 5071, 5072, 5287, end]) {
    const { c0, c1 } = at(left);
    const seen = windowOf(shape, { left, top: 0, width: 900, height: 600 }, false);
    expect(c1 - c0).toBe(n);
    expect(c0).toBeLessThanOrEqual(Math.max(0, seen.c0 - 1));
    expect(c1).toBeGreaterThanOrEqual(Math.min(shape.cols.length, seen.c1 + 1));
  }
  // a slow scroll moves it every other column
  const places = Array.from({ length: 40 }, (_, i) => at(5000 + i * shape.col_px).c0);
  expect(new Set(places).size).toBeLessThanOrEqual(21);
});
