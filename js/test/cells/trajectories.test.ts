import { expect, test } from "vitest";
import { Cells } from "../../src/cells/cells.ts";
import { readTile } from "../../src/cells/packed.ts";
import { combine, storedTrack } from "../../src/cells/trajectories.ts";
import { FakeKernel } from "../fakekernel.ts";

const kernel = new FakeKernel({ n_layers: 6 });

test("summed surface forms add probabilities and take the best rank", () => {
  const track = (p: number[], ranks: number[]) => ({
    log_probs: Float32Array.from(p, Math.log),
    ranks: Int32Array.from(ranks),
    isExact: true,
  });
  const tracks = [track([0.25, 0.5], [3, 0]), track([0.125, Number.NaN], [9, -1])];
  expect(combine(tracks, "prob")[0]).toBeCloseTo(0.375, 6);
  expect(combine(tracks.slice(0, 1), "log_prob")[1]).toBeCloseTo(Math.log(0.5), 6);
  expect(combine(tracks, "rank")[0]).toBe(3);
  // if a form is not known, the sum is not known
  for (const metric of ["prob", "log_prob", "rank"] as const) expect(combine(tracks, metric)[1]).toBeNaN();
  expect(combine([track([Number.NaN], [-1])], "prob")[0]).toBeNaN();
});

test("a token tracked through a stored grid has its whole track without a kernel", () => {
  const cells = new Cells(kernel.run);
  const layers = [-1, 0, 1, 2, 3, 4, 5];
  const reading = { site: "resid_post", lens: "logit" };
  const ask = { layers, positions: [4], ...reading, k: 2, metrics: [] };
  const store = (track: number[]) => {
    const { header, buffers } = kernel.readout({ ...ask, track });
    cells.add(readTile(header, buffers));
  };
  store([]);
  expect(storedTrack(cells, reading, 4, 7).isExact).toBe(false);
  store([7]);
  const track = storedTrack(cells, reading, 4, 7);
  expect(track.isExact).toBe(true);
  expect([...track.log_probs].every(Number.isFinite)).toBe(true);
});
