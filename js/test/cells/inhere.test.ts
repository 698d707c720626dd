import { expect, test } from "vitest";
import { Cells } from "../../src/cells/cells.ts";
import { inHere, leaders } from "../../src/cells/inhere.ts";
import { readTile, type Tile } from "../../src/cells/packed.ts";
import { isNoise, standingIn } from "../../src/cells/standing.ts";
import { FakeKernel } from "../fakekernel.ts";

const kernel = new FakeKernel({ n_layers: 4, n_snapshot: 0 });
const { run } = kernel;
const reading = { site: "resid_post", lens: "logit" };
const layers = [3, 2, 1, 0];
const positions = [0, 1, 2];
const area = { layers, positions };

function tile(): Tile {
  const { header, buffers } = kernel.readout({
    layers: [0, 1, 2, 3],
    positions,
    ...reading,
    k: 5,
    track: [],
    metrics: ["entropy"],
  });
  return readTile(header, buffers);
}

function cellsOf(change: (tile: Tile) => Tile = (same) => same): Cells {
  const cells = new Cells(run);
  cells.add(change(tile()));
  return cells;
}

/** A tile with what stands in its cells: the second best of each, with a lift of ten times its layer. */
function withShown(plain: Tile, show: "words" | "lift"): Tile {
  const ids = plain.arrays.get("ids") as Int32Array;
  const log_probs = plain.arrays.get("log_probs") as Float32Array;
  const n = ids.length / 5;
  const second = <T extends Int32Array | Float32Array>(of: T) => of.filter((_, i) => i % 5 === 1) as T;
  const arrays = new Map(plain.arrays);
  arrays.set("shown_ids", second(ids));
  arrays.set("shown_log_probs", second(log_probs));
  arrays.set("shown_ranks", new Int32Array(n).fill(1));
  if (show === "lift")
    arrays.set(
      "shown_lifts",
      Float32Array.from({ length: n }, (_, i) => 10 * Math.floor(i / 3)),
    );
  return { header: { ...plain.header, show }, arrays };
}

test.each(["prob", "place"] as const)("tokens are ordered by their %s, summed over the cells", (weight) => {
  const cells = cellsOf();
  const sums = new Map<string, number>();
  for (const layer of layers)
    for (const position of positions)
      cells.tops(reading, layer, position, 100).forEach(({ id, log_prob }, place) => {
        const form = cells.label(id)[2].trim().toLowerCase();
        sums.set(form, (sums.get(form) ?? 0) + (weight === "prob" ? Math.exp(log_prob) : 1 / (place + 1)));
      });
  const found = inHere(cells, reading, area, weight, 1000);
  expect(found).toHaveLength(sums.size);
  for (const { ids, score, by_layer } of found) {
    expect(score).toBeCloseTo(
      sums.get(
        cells
          .label(ids[0] ?? -1)[2]
          .trim()
          .toLowerCase(),
      ) ?? -1,
      5,
    );
    expect(by_layer.reduce((a, b) => a + b, 0)).toBeCloseTo(score, 6);
  }
  const scores = found.map(({ score }) => score);
  expect(scores).toEqual([...scores].sort((a, b) => b - a));
});

test("forms that differ in case and space are one entry, and other tokens of one text are not", () => {
  const plain = tile();
  const ids = plain.arrays.get("ids") as Int32Array;
  ids.set([900, 901, 902, 903]);
  const cells = new Cells(run);
  cells.add(plain);
  cells.addLabels({
    900: ["␣Paris", "text", " Paris"],
    901: ["paris", "text", "paris"],
    902: ["E2", "bytes", "e2"],
    903: ["E2", "special", "E2"],
  });
  const found = inHere(cells, reading, { layers: [0], positions: [0] }, "place", 10);
  expect(found[0]).toMatchObject({ ids: [900, 901], score: 1.5, n_cells: 2 });
  expect(found.slice(1, 3).map(({ ids }) => ids)).toEqual([[902], [903]]);
});

test("where words are shown, the list counts what stands in the cells", () => {
  const cells = cellsOf((plain) => withShown(plain, "words"));
  const traits = { ...reading, show: "words" } as const;
  expect(standingIn(cells, traits, 2, 1)).toMatchObject({ ...cells.top(reading, 2, 1, 1), rank: 1 });
  const n_cells = inHere(cells, traits, area, "prob", 1000).reduce((sum, entry) => sum + entry.n_cells, 0);
  expect(n_cells).toBe(layers.length * positions.length);
});

test("what is not stored falls back to the top token, and a cell that was not read has none", () => {
  const cells = cellsOf();
  const traits = { ...reading, show: "words" } as const;
  expect(standingIn(cells, traits, 2, 1)).toMatchObject({ ...cells.top(reading, 2, 1), rank: 0 });
  expect(standingIn(cells, traits, 2, 5)).toBeUndefined();
});

test("the chart begins with tokens that stand in the upper half of the column", () => {
  const cells = cellsOf();
  const found = leaders(cells, reading, 1).flatMap(({ ids }) => ids);
  const upper = [3, 2].map((layer) => cells.top(reading, layer, 1)?.id);
  expect(new Set(found)).toEqual(new Set(upper));
});

test("a cell is noise at or below its floor, and never without one", () => {
  const cells = cellsOf((plain) => withShown(plain, "lift"));
  const traits = { ...reading, show: "lift", floor: true } as const;
  const at = (layer: number) => isNoise(cells, traits, layer, 0);
  expect([0, 1, 2, 3].map(at)).toEqual([false, false, false, false]);
  cells.floors.add(reading, "lift", { layers: [0, 1, 2, 3], values: [5, 10, 5, "NaN"] });
  expect([0, 1, 2, 3].map(at)).toEqual([true, true, false, false]);
  expect(isNoise(cells, { ...traits, floor: false }, 0, 0)).toBe(false);
  expect(isNoise(cells, { ...traits, lens: "other" }, 0, 0)).toBe(false);
});
