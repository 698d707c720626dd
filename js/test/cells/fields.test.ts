import { expect, test } from "vitest";
import { Cells } from "../../src/cells/cells.ts";
import { cellValue, fieldOf, inWords, METRIC_SPECS, metricName, ticksOf } from "../../src/cells/fields.ts";
import { createLoader } from "../../src/cells/loader.ts";
import { readTile, type Tile } from "../../src/cells/packed.ts";
import type { Metric } from "../../src/kernel/protocol.ts";
import type { Traits } from "../../src/kernel/traits.ts";
import { DEFAULTS } from "../../src/kernel/traits.ts";
import { createTransport } from "../../src/kernel/transport.ts";
import { duringTest } from "../duringtest.ts";
import { FakeKernel } from "../fakekernel.ts";

const kernel = new FakeKernel({ n_layers: 6, n_snapshot: 0 });
const { run } = kernel;
const traitsOf = (change: Partial<Traits>): Traits => ({ ...DEFAULTS, run, ...change });
const read = (more: object) =>
  kernel.readout({
    layers: [2, 5],
    positions: [3],
    site: "resid_post",
    lens: "logit",
    k: 2,
    track: [],
    metrics: [],
    ...more,
  });

test("without a chosen token the rank is that of the model's own next one, and it is asked for", async () => {
  const traits = traitsOf({ metric: "rank" });
  const { id } = run.next;
  expect(fieldOf(traits, run)).toBe(`rank:${id}`);
  expect(fieldOf({ ...traits, rank_token: 7 }, run)).toBe("rank:7");
  const events = { progress() {}, replyToOtherView() {}, alive() {}, lost() {} };
  const transport = createTransport(kernel, events, duringTest());
  const cells = new Cells(run);
  const view = { layers: [5], positions: [3], nearLayers: [5], nearPositions: [3], far: null };
  await new Promise<void>((done) => {
    const took = (tile: Tile) => {
      cells.add(tile);
      done();
    };
    createLoader(transport, { took, failed() {} }).update(cells, traits, view);
  });
  expect(kernel.sent[0]).toMatchObject({ kind: "read", track: [id] });
  const rank = cellValue(cells, traits, 5, 3);
  expect(rank).toBe(cells.tracked(traits, id, 5, 3)?.rank);
  expect(inWords(cells, traits, rank)).toBe(`rank of “${cells.label(id)[0]}”: #${(rank ?? 0) + 1}`);
});

test("agreement is the kernel's own, not a comparison with the row drawn", () => {
  const cells = new Cells(run);
  const { header, buffers } = read({ metrics: ["agrees"] });
  // with a lens whose last row is not the model's own, no cell agrees
  buffers[header.arrays.findIndex(({ name }) => name === "agrees")] = new DataView(new ArrayBuffer(2));
  const traits = traitsOf({ metric: "agrees" });
  expect(cellValue(cells, traits, 5, 3)).toBeUndefined();
  cells.add(readTile(header, buffers));
  expect(cellValue(cells, traits, 5, 3)).toBe(0);
  expect(inWords(cells, traits, 0)).toBe("agrees with the last layer: no");
});

test("a number has the same name within a sentence as elsewhere", () => {
  const cells = new Cells(run);
  expect(inWords(cells, traitsOf({ metric: "kl" }), 3.2)).toBe("KL(last ‖ cell): 3.20 nats");
  expect(inWords(cells, traitsOf({ metric: "log_prob" }), undefined)).toBe("log-prob: not computed");
  expect(metricName(cells, traitsOf({ metric: "entropy" }))).toBe("Entropy");
});

test.each(Object.keys(METRIC_SPECS) as Metric[])(
  "the legend of %s is in order and within its scale",
  (metric) => {
    const places = ticksOf(METRIC_SPECS[metric], { d_vocab: 49_152 }).map(({ at }) => at);
    expect(places).toEqual([...places].sort((a, b) => a - b));
    expect(places[0]).toBeCloseTo(0, 6);
    expect(places.at(-1)).toBeCloseTo(metric.endsWith("agrees") ? 0.55 : 1, 6);
  },
);
