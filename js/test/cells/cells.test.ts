import { expect, test } from "vitest";
import { Cells } from "../../src/cells/cells.ts";
import { readTile, toBytes } from "../../src/cells/packed.ts";
import type { Reading, RunInfo } from "../../src/kernel/protocol.ts";
import { settledLayer } from "../../src/state/selectors.ts";
import { FakeKernel } from "../fakekernel.ts";
import { logProbs } from "../fakenumbers.ts";

const kernel = new FakeKernel({ n_layers: 4, n_snapshot: 0 });
const run = kernel.run;
const reading: Reading = { site: "resid_post", lens: "logit" };
const read = (layers: number[], positions: number[], more: object = {}) =>
  kernel.readout({
    layers,
    positions,
    ...reading,
    k: 5,
    track: [],
    metrics: ["entropy"],
    ...more,
  });
const tileOf = ({ header, buffers }: ReturnType<typeof read>) => readTile(header, buffers);

test("a cell that was not read is undefined, never zero", () => {
  const cells = new Cells(run);
  expect(cells.top(reading, 0, 0)).toBeUndefined();
  expect(cells.scalar(reading, "entropy", 0, 0)).toBeUndefined();
});

test("a row that the lens cannot carry counts as read, and has no numbers", () => {
  const cells = new Cells(run);
  const tile = tileOf(read([1, 2], [0, 1]));
  // the kernel's layout of a rectangle whose layer 1 the lens does not cover
  tile.arrays.get("ids")?.fill(-2, 0, 2 * 5);
  tile.arrays.get("log_probs")?.fill(Number.NaN, 0, 2 * 5);
  tile.arrays.get("entropy_nats")?.fill(Number.NaN, 0, 2);
  cells.add(tile);
  expect(cells.has(reading, "top", 1, 0)).toBe(true);
  expect(cells.top(reading, 1, 0)).toBeUndefined();
  expect(cells.scalar(reading, "entropy", 1, 1)).toBeUndefined();
  expect(cells.top(reading, 2, 0)).toBeDefined();
});

test("a cell that is not finite is computed, and has no second token", () => {
  const cells = new Cells(run);
  const tile = tileOf(read([1], [0]));
  tile.arrays.get("ids")?.fill(-1);
  tile.arrays.get("log_probs")?.fill(Number.NaN);
  cells.add(tile);
  expect(cells.tops(reading, 1, 0, 5)).toEqual([{ id: -1, log_prob: Number.NaN }]);
});

test("each cell of a tile gives back its own numbers", () => {
  const cells = new Cells(run);
  cells.add(tileOf(read([-1, 2, 3], [1, 4, 7])));
  for (const layer of [-1, 2, 3]) {
    for (const position of [1, 4, 7]) {
      const log_probs = logProbs(1, layer, position, 4);
      const best = Math.max(...log_probs);
      const top = cells.top(reading, layer, position);
      expect(top?.id).toBe(log_probs.indexOf(best));
      expect(top?.log_prob).toBeCloseTo(best, 5);
    }
  }
  expect(cells.top(reading, 0, 1)).toBeUndefined();
});

test("a later tile without a metric does not take it away", () => {
  const cells = new Cells(run);
  cells.add(tileOf(read([3], [2], { metrics: ["entropy", "kl"] })));
  cells.add(tileOf(read([3], [2], { metrics: [] })));
  expect(cells.scalar(reading, "kl", 3, 2)).toBeDefined();
  expect(cells.scalar(reading, "entropy", 3, 2)).toBeGreaterThan(0);
});

test("cells of another site, lens or run are not mixed", () => {
  const cells = new Cells(run);
  cells.add(tileOf(read([3], [2], { site: "resid_mid" })));
  expect(cells.top(reading, 3, 2)).toBeUndefined();
  const { header, buffers } = read([3], [2]);
  expect(cells.add(readTile({ ...header, run_id: "other" }, buffers))).toBe(false);
});

test("the rank of a tracked token is its exact place in the vocabulary", () => {
  const cells = new Cells(run);
  cells.add(tileOf(read([0, 1], [3, 5], { track: [7, 2] })));
  const log_probs = logProbs(1, 1, 5, 4);
  const expected = log_probs.filter((x) => x > (log_probs[2] ?? 0)).length;
  expect(cells.tracked(reading, 2, 1, 5)?.rank).toBe(expected);
  expect(cells.tracked(reading, 3, 1, 5)).toBeUndefined();
});

test("the settled layer is the lowest from which the final top token holds to the end", () => {
  const tops: Record<number, number> = { 5: 1, 4: 1, 3: 1, 2: 9, 1: 1, 0: 9 };
  const stub = {
    run: { n_layers: 6 },
    top: (_: Reading, layer: number) => ({ id: tops[layer] ?? 0, log_prob: 0 }),
  };
  expect(settledLayer(stub as unknown as Cells, reading, [5, 4, 3, 2, 1, 0], 0)).toBe(3);
  // a site within a block does not lead to the answer
  const layers = [5, 4, 3, 2, 1, 0];
  expect(settledLayer(stub as unknown as Cells, { ...reading, site: "mlp_out" }, layers, 0)).toBeUndefined();
  delete tops[4];
  const gap = {
    ...stub,
    top: (_: Reading, layer: number) => (layer in tops ? { id: tops[layer] } : undefined),
  };
  expect(settledLayer(gap as unknown as Cells, reading, [5, 4, 3, 2, 1, 0], 0)).toBeUndefined();
});

test("buffers arrive as views, buffers or base64 text, aligned or not", () => {
  const bytes = Uint8Array.from([9, 1, 0, 0, 0, 2, 0, 0, 0]);
  const header = { arrays: [{ name: "ids", dtype: "int32", shape: [1, 2, 1] }] } as never;
  const unaligned = new DataView(bytes.buffer, 1, 8);
  expect([...(readTile(header, [unaligned]).arrays.get("ids") ?? [])]).toEqual([1, 2]);
  expect([...toBytes("AQAAAAIAAAA=")]).toEqual([1, 0, 0, 0, 2, 0, 0, 0]);
});

test("labels of a run without any are the ids", () => {
  expect(new Cells({ ...run, labels: {} } as RunInfo).label(3)[0]).toBe("#3");
});

test("the columns that a run took over have the earlier run's numbers, and the others none", () => {
  const cells = new Cells(run);
  const layers = [-1, 0, 3];
  const tile = tileOf(read(layers, [0, 1, 2, 3], { track: [5] }));
  cells.add(tile);
  const longer = new Cells({ ...run, id: "longer", tokens: [...run.tokens, 4, 5] });
  longer.takeOver(cells, 3);
  for (const layer of layers) {
    for (const position of [0, 1, 2]) {
      expect(longer.top(reading, layer, position)).toEqual(cells.top(reading, layer, position));
      expect(longer.tracked(reading, 5, layer, position)).toEqual(cells.tracked(reading, 5, layer, position));
    }
    expect(longer.has(reading, "top", layer, 3)).toBe(false);
    expect(longer.has(reading, "entropy", layer, 2)).toBe(true);
  }
  // what arrives for the longer run is its own
  longer.add({ ...tile, header: { ...tile.header, run_id: "longer", positions: [3, 8, 9, 10] } });
  expect(longer.top(reading, 3, 10)).toEqual(cells.top(reading, 3, 3));
  expect(longer.top(reading, 3, 2)).toEqual(cells.top(reading, 3, 2));
  expect(cells.has(reading, "top", 3, 8)).toBe(false);
});
