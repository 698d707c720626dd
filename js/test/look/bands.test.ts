import { expect, test } from "vitest";
import type { Band } from "../../src/kernel/protocol.ts";
import { DEFAULTS } from "../../src/kernel/traits.ts";
import { bandsAt, isOfTemplate, shownColumns, stripsOf, withBandToggled } from "../../src/look/bands.ts";
import { cellAt, shapeOf, shownLayers } from "../../src/look/layout.ts";

const band = (
  start: number,
  stop: number,
  kind: Band["kind"],
  label: string = kind,
  is_folded = false,
): Band => ({
  start,
  stop,
  kind,
  label,
  is_folded,
});
const run = {
  n_layers: 12,
  tokens: Array(14).fill(1),
  special: Array.from({ length: 14 }, (_, i) => i === 0),
  bands: [
    band(0, 6, "message", "user"),
    band(0, 2, "template"),
    band(2, 5, "image", "image", true),
    band(6, 14, "message", "assistant"),
    band(6, 8, "template"),
    band(12, 14, "template"),
  ],
};
const positions = (traits: Partial<typeof DEFAULTS>) =>
  shownColumns(run, { ...DEFAULTS, ...traits }).positions;

test("a folded band is one column, its last; what is folded at first unfolds by choice", () => {
  expect(positions({})).toEqual([0, 1, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13]);
  expect(positions({ folded_bands: [] })).toHaveLength(14);
  const columns = shownColumns(run, { ...DEFAULTS, folded_bands: [2, 3] });
  expect(columns.positions).toEqual([0, 1, 4, 5, 13]);
  expect([...columns.folds]).toEqual([
    [4, run.bands[2]],
    [13, run.bands[3]],
  ]);
});

test("a band within a folded one is not seen", () => {
  const columns = shownColumns(run, { ...DEFAULTS, folded_bands: [0, 2] });
  expect(columns.positions.slice(0, 2)).toEqual([5, 6]);
  expect(stripsOf(run, columns).map(({ index }) => index)).toEqual([0, 3]);
});

test("hidden template tokens leave the messages; a folded message is then its last word", () => {
  expect(positions({ hide_template: true, folded_bands: [] })).toEqual([2, 3, 4, 5, 8, 9, 10, 11]);
  expect(positions({ hide_template: true, folded_bands: [3] })).toEqual([2, 3, 4, 5, 11]);
  // never an empty grid
  const bare = { ...run, bands: [band(0, 14, "template")] };
  expect(shownColumns(bare, { ...DEFAULTS, hide_template: true }).positions).toHaveLength(14);
});

test("strips lie over their columns, pictures on a line of their own, one colour for each role", () => {
  const shape = shapeOf(run, DEFAULTS);
  expect(shape.strips.map(({ from, to, line, isFolded }) => [from, to, line, isFolded])).toEqual([
    [0, 4, 0, false],
    [2, 3, 1, true],
    [4, 12, 0, false],
  ]);
  expect(new Set(shape.strips.map(({ color }) => color)).size).toBe(3);
  expect(shape.head_row_px).toBe(38 + 2 * 16);
  expect(shapeOf({ ...run, bands: [] }, DEFAULTS).head_row_px).toBe(38);
});

test("turning a choice over starts from what is on show", () => {
  expect(withBandToggled(run, 3, null)).toEqual([2, 3]);
  expect(withBandToggled(run, 2, null)).toEqual([]);
  expect(withBandToggled(run, 3, [2, 3])).toEqual([2]);
});

test("a position knows its bands and whether a template put it there", () => {
  expect(bandsAt(run, 3)).toEqual([0, 2]);
  expect([1, 2, 7, 13].map((position) => isOfTemplate(run, position))).toEqual([true, false, true, true]);
});

test("a folded pass is its last row, whatever the stride", () => {
  const passes = [0, 4, 8].map((start, i) => ({ start, stop: start + 4, label: `pass ${i}` }));
  expect(shownLayers(12, 1, "resid_post", [])).toHaveLength(13);
  expect(shownLayers(12, 1, "resid_post", passes.slice(0, 2))).toEqual([11, 10, 9, 8, 7, 3, -1]);
  expect(shownLayers(12, 5, "attn_out", passes.slice(0, 1))).toEqual([11, 6, 3]);
  const shape = shapeOf({ ...run, passes }, { ...DEFAULTS, folded_passes: [0, 1, 2, 9] });
  expect(shape.rows).toEqual([11, 7, 3, -1]);
  expect(cellAt(shape, 1, 0)).toEqual({ layer: 7, position: 0 });
});
