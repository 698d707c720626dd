import { expect, test, vi } from "vitest";
import { Cells } from "../../src/cells/cells.ts";
import { createLoader } from "../../src/cells/loader.ts";
import { readTile } from "../../src/cells/packed.ts";
import {
  isWanted,
  MAX_TILE_BYTES,
  nextFarTile,
  nextTile,
  TileSize,
  type Wanted,
} from "../../src/cells/tiles.ts";
import { DEFAULTS } from "../../src/kernel/traits.ts";
import { createTransport } from "../../src/kernel/transport.ts";
import { shapeOf } from "../../src/look/layout.ts";
import { sampleOf, type Viewport } from "../../src/look/viewport.ts";
import { duringTest } from "../duringtest.ts";
import { FakeKernel } from "../fakekernel.ts";

const words = Array.from({ length: 300 }, () => "␣the");
const range = (from: number, to: number) => Array.from({ length: to - from }, (_, i) => from + i);
const newKernel = () => new FakeKernel({ n_layers: 6, words, n_snapshot: 0 });
const wanted = (from: number, to: number): Wanted => ({
  site: "resid_post",
  lens: "logit",
  fields: ["top"],
  layers: [5, 4, 3, 2, 1, 0, -1],
  positions: range(from, to),
  nearLayers: [5, 4, 3, 2, 1, 0, -1],
  nearPositions: range(Math.max(0, from - 20), to + 20),
  far: null,
});

function answer(
  kernel: FakeKernel,
  cells: Cells,
  tile: { layers: readonly number[]; positions: readonly number[] },
) {
  const { header, buffers } = kernel.readout({
    ...tile,
    site: "resid_post",
    lens: "logit",
    k: 5,
    track: [],
    metrics: [],
  } as never);
  cells.add(readTile(header, buffers));
}

test("the view comes first, from its middle outwards, then what is near, then nothing", () => {
  const kernel = newKernel();
  const cells = new Cells(kernel.run);
  const asked: number[][] = [];
  for (let tile = nextTile(cells, wanted(100, 120), 35); tile; tile = nextTile(cells, wanted(100, 120), 35)) {
    asked.push([...tile.positions]);
    answer(kernel, cells, tile);
  }
  expect(asked[0]).toEqual([108, 109, 110, 111, 112]);
  expect(
    asked
      .slice(0, 4)
      .flat()
      .sort((a, b) => a - b),
  ).toEqual(range(100, 120));
  expect(asked.flat().sort((a, b) => a - b)).toEqual(range(80, 140));
});

test("no tile is larger than asked for, and none repeats a cell", () => {
  const kernel = newKernel();
  const cells = new Cells(kernel.run);
  const seen = new Set<string>();
  for (let tile = nextTile(cells, wanted(0, 50), 10); tile; tile = nextTile(cells, wanted(0, 50), 10)) {
    expect(tile.layers.length * tile.positions.length).toBeLessThanOrEqual(10);
    for (const layer of tile.layers) {
      for (const position of tile.positions) {
        expect(seen.has(`${layer} ${position}`)).toBe(false);
        seen.add(`${layer} ${position}`);
      }
    }
    answer(kernel, cells, tile);
  }
});

test("a metric that is missing makes its cells wanted again", () => {
  const kernel = newKernel();
  const cells = new Cells(kernel.run);
  answer(kernel, cells, { layers: [5, 4, 3, 2, 1, 0, -1], positions: range(0, 80) });
  expect(nextTile(cells, wanted(0, 20), 50)).toBeNull();
  expect(nextTile(cells, { ...wanted(0, 20), fields: ["top", "kl"] }, 50)).not.toBeNull();
});

test("a tile that scrolled far away is not wanted", () => {
  expect(isWanted({ layers: [5], positions: [100] }, wanted(100, 120))).toBe(true);
  expect(isWanted({ layers: [5], positions: [250] }, wanted(100, 120))).toBe(false);
});

test("tiles grow on a quick host, shrink on a slow one, and never pass 50 kB", () => {
  const size = new TileSize();
  const first = size.max(56);
  for (let i = 0; i < 20; i++) size.measured(1000, 10);
  expect(size.max(56)).toBeGreaterThan(first);
  expect(size.max(56) * 56).toBeLessThanOrEqual(MAX_TILE_BYTES);
  for (let i = 0; i < 20; i++) size.measured(100, 1000);
  expect(size.max(56)).toBeLessThan(first);
});

test("one request is in flight, the latest view wins, and a stale request is cancelled", async () => {
  const kernel = newKernel();
  kernel.isSilent = true;
  const cells = new Cells(kernel.run);
  const events = { progress() {}, replyToOtherView() {}, alive() {}, lost() {} };
  const loader = createLoader(createTransport(kernel, events, duringTest()), {
    took() {},
    failed() {},
  });
  for (const start of [0, 20, 100, 150, 200]) loader.update(cells, DEFAULTS, viewAt(start));
  expect(kernel.sent.map(({ kind }) => kind)).toEqual(["read", "cancel"]);
  const [first] = kernel.sent;
  kernel.isSilent = false;
  kernel.emit("msg:custom", { id: first?.id, error: { type: "Cancelled", message: "" } }, []);
  await new Promise((resolve) => setTimeout(resolve, 0));
  const next = kernel.sent[2] as unknown as { positions: number[] };
  expect(next.positions.every((position) => position >= 200)).toBe(true);
});

const shape = shapeOf({ n_layers: 6, tokens: words.map(() => 0), special: [] } as never, DEFAULTS as never);
const viewAt = (from: number): Viewport => {
  const { site, lens, fields, ...view } = wanted(from, from + 20);
  return view;
};
const farViewAt = (from: number): Viewport => ({ ...viewAt(from), far: sampleOf(shape) });

test("the overview is requested last, a coarse picture before a finer one, and each cell once", () => {
  const kernel = newKernel();
  const cells = new Cells(kernel.run);
  const view = { ...wanted(100, 120), ...farViewAt(100) };
  for (let tile = nextTile(cells, view, 70); tile; tile = nextTile(cells, view, 70))
    answer(kernel, cells, tile);
  const columns: number[] = [];
  for (let tile = nextFarTile(cells, view, 70); tile; tile = nextFarTile(cells, view, 70)) {
    columns.push(...tile.positions);
    answer(kernel, cells, tile);
  }
  // 300 columns: every second one, first every 16th; those near 100 are known
  const coarse = range(0, 300).filter((at) => at % 16 === 0 && !(80 <= at && at < 140));
  expect(columns.slice(0, 10)).toEqual(coarse.slice(0, 10));
  expect(columns.slice(0, 20)).toEqual(expect.arrayContaining(coarse));
  const all = range(0, 300).filter((at) => at % 2 === 0 && !(80 <= at && at < 140));
  expect([...columns].sort((a, b) => a - b)).toEqual(all);
});

test("the overview waits for an idle moment, and gives way to what the person waits for", async () => {
  vi.useFakeTimers();
  try {
    const kernel = newKernel();
    const cells = new Cells(kernel.run);
    const events = { progress() {}, replyToOtherView() {}, alive() {}, lost() {} };
    const transport = createTransport(kernel, events, duringTest());
    const failures: string[] = [];
    const loader = createLoader(transport, {
      took: (tile) => cells.add(tile),
      failed: (message) => failures.push(message),
    });
    const layers = [5, 4, 3, 2, 1, 0, -1];
    answer(kernel, cells, { layers, positions: range(80, 140) });
    loader.update(cells, DEFAULTS, farViewAt(100));
    await vi.advanceTimersByTimeAsync(200);
    expect(kernel.sent.filter(({ kind }) => kind === "read")).toHaveLength(0);
    kernel.isSilent = true;
    await vi.advanceTimersByTimeAsync(200);
    expect(kernel.sent.map(({ kind }) => kind)).toEqual(["read"]);
    // nobody waits for it
    expect(transport.pending()).toEqual([]);
    // a cell comes into view that is not known
    loader.update(cells, DEFAULTS, farViewAt(180));
    const [first, cancel] = kernel.sent;
    expect(cancel).toMatchObject({ kind: "cancel", target: first?.id });
    kernel.isSilent = false;
    kernel.emit("msg:custom", { id: first?.id, error: { type: "Cancelled", message: "" } }, []);
    await vi.advanceTimersByTimeAsync(0);
    const next = kernel.sent[2] as unknown as { positions: number[] };
    expect(next.positions.every((position) => 160 <= position && position < 220)).toBe(true);
    // all of it, one after another, until nothing is missing
    await vi.advanceTimersByTimeAsync(60_000);
    expect(nextFarTile(cells, { ...wanted(180, 200), ...farViewAt(180) }, 70)).toBeNull();
    const n_sent = kernel.sent.length;
    loader.update(cells, DEFAULTS, farViewAt(180));
    await vi.advanceTimersByTimeAsync(60_000);
    expect(kernel.sent).toHaveLength(n_sent);
    expect(failures).toEqual([]);
  } finally {
    vi.useRealTimers();
  }
});

test("a card that is asked for stops the overview, which goes on at the next update", async () => {
  vi.useFakeTimers();
  try {
    const kernel = newKernel();
    kernel.isSilent = true;
    const cells = new Cells(kernel.run);
    const events = { progress() {}, replyToOtherView() {}, alive() {}, lost() {} };
    const loader = createLoader(createTransport(kernel, events, duringTest()), { took() {}, failed() {} });
    answer(kernel, cells, { layers: [5, 4, 3, 2, 1, 0, -1], positions: range(80, 140) });
    loader.update(cells, DEFAULTS, farViewAt(100));
    await vi.advanceTimersByTimeAsync(400);
    expect(kernel.sent.map(({ kind }) => kind)).toEqual(["read"]);
    loader.pause();
    expect(kernel.sent.map(({ kind }) => kind)).toEqual(["read", "cancel"]);
    kernel.emit("msg:custom", { id: kernel.sent[0]?.id, error: { type: "Cancelled", message: "" } }, []);
    await vi.advanceTimersByTimeAsync(5000);
    expect(kernel.sent).toHaveLength(2);
    loader.update(cells, DEFAULTS, farViewAt(100));
    await vi.advanceTimersByTimeAsync(400);
    expect(kernel.sent.map(({ kind }) => kind)).toEqual(["read", "cancel", "read"]);
  } finally {
    vi.useRealTimers();
  }
});
