import { expect, test } from "vitest";
import { Cells } from "../src/cells.ts";
import { percent, rankText, signedPercent, toNumber } from "../src/format.ts";
import type { CardRef, RunInfo, Traits } from "../src/protocol.ts";
import { readTile } from "../src/readout.ts";
import { type Action, reduce } from "../src/reduce.ts";
import { initialState, keyOf, MAIN, type State } from "../src/state.ts";
import { combine, storedTrack } from "../src/trajectories.ts";
import { FakeKernel } from "./fakekernel.ts";

const kernel = new FakeKernel({ n_layers: 6 });
const start = () => initialState(kernel.values as unknown as Traits);
const play = (state: State, ...actions: Action[]) => actions.reduce(reduce, state);
const cell = { layer: 3, position: 4 };
const card = kernel.card({ ...cell, site: "resid_post", lens: "logit", k: 5, temperature: 1, track: [] });

test("opening a cell selects it and waits for the kernel", () => {
  const state = play(start(), { type: "open", cell });
  expect(state.traits.selection).toEqual(cell);
  expect(state.cards[MAIN]?.isPending).toBe(true);
  expect(play(state, { type: "decoded", key: MAIN, card }).cards[MAIN]).toMatchObject({
    card,
    isPending: false,
  });
});

test("a cell outside the run is not opened", () => {
  const state = start();
  expect(play(state, { type: "open", cell: { layer: 6, position: 0 } })).toBe(state);
});

test("a card from Python appears when selection and decode agree", () => {
  const state = play(start(), { type: "traits", traits: { selection: cell, decoded: card } });
  expect(state.cards[MAIN]?.card).toBe(card);
  expect(state.focus).toEqual(cell);
});

test("a decode of an earlier run is not shown", () => {
  const stale = { ...card, run_id: "earlier" };
  expect(
    play(start(), { type: "traits", traits: { selection: cell, decoded: stale } }).cards[MAIN],
  ).toBeUndefined();
});

test("keeping a card leaves it when another cell is opened", () => {
  const kept = play(start(), { type: "open", cell }, { type: "decoded", key: MAIN, card }, { type: "keep" });
  const key = keyOf(kept.traits.cards[0] as CardRef);
  const next = play(kept, { type: "open", cell: { layer: 1, position: 1 } });
  expect(next.cards[key]?.card).toBe(card);
  expect(next.traits.cards).toHaveLength(1);
  expect(play(next, { type: "close", key }).traits.cards).toHaveLength(0);
});

test("what somebody is writing stays when another prompt is run", () => {
  const prompt = "Another prompt";
  const run = { ...kernel.run, id: "another", prompt };
  const isRun: Action = { type: "traits", traits: { prompt, run } };
  expect(play(start(), isRun).draft).toBe(prompt);
  expect(play(start(), { type: "draft", text: "half a sen" }, isRun).draft).toBe("half a sen");
});

test("a kept card keeps how it was decoded, and its code goes when it is decoded otherwise", () => {
  const asked = play(
    start(),
    { type: "open", cell },
    { type: "decoded", key: MAIN, card },
    { type: "card", key: MAIN, patch: { code: "print()" } },
  );
  expect(asked.cards[MAIN]?.code).toBe("print()");
  const warm = play(asked, { type: "ask", key: MAIN, change: { temperature: 2, k: 7 } });
  expect(warm.cards[MAIN]?.code).toBeNull();
  expect(play(warm, { type: "keep" }).traits.cards).toEqual([
    { ...cell, site: "resid_post", lens: "logit", k: 7, temperature: 2 },
  ]);
});

test("a kept card that is decoded otherwise is so in the trait, in its place, with what was found on it", () => {
  const kept = play(
    start(),
    { type: "open", cell: { layer: 1, position: 1 } },
    { type: "keep" },
    { type: "open", cell },
    { type: "decoded", key: MAIN, card },
    { type: "track", key: MAIN, id: 7 },
    { type: "keep" },
  );
  const [other, ref] = kept.traits.cards as [CardRef, CardRef];
  const warm = play(kept, { type: "recast", ref, change: { temperature: 2 } });
  const now = { ...ref, temperature: 2 };
  expect(warm.traits.cards).toEqual([other, now]);
  expect(warm.cards[keyOf(now)]).toMatchObject({ temperature: 2, isPending: true, card, tracked: [7] });
  expect(warm.cards[keyOf(ref)]).toBeUndefined();
  expect(warm.traits.selection).toEqual(cell);
  // the same cell may be kept twice, at two temperatures, and never twice alike
  const both = play(warm, { type: "keep" });
  expect(both.traits.cards).toEqual([other, now, ref]);
  expect(play(both, { type: "keep" }).traits.cards).toHaveLength(3);
  expect(play(both, { type: "recast", ref: now, change: { temperature: 1 } }).traits.cards).toEqual([
    other,
    ref,
  ]);
});

test("what was just done is said until the focus moves", () => {
  const pinned = play(start(), { type: "pin", ids: [3], label: "three" });
  expect(pinned.said).toBe("Pinned three");
  expect(play(pinned, { type: "unpin", index: 0 }).said).toBe("Unpinned three");
  expect(play(pinned, { type: "focus", cell }).said).toBe("");
});

test("a failed decode keeps the card that was there", () => {
  const state = play(
    start(),
    { type: "open", cell },
    { type: "decoded", key: MAIN, card },
    { type: "failed", key: MAIN, error: "No." },
  );
  expect(state.cards[MAIN]).toMatchObject({ card, error: "No." });
});

test("a new run drops the cards and keeps the focus inside", () => {
  const before = play(start(), { type: "open", cell: { layer: 5, position: 8 } });
  const run = { ...kernel.run, id: "next", tokens: [1, 2, 3] } as RunInfo;
  const after = play(before, { type: "traits", traits: { run, selection: null } });
  expect(after.cards).toEqual({});
  expect(after.focus).toEqual({ layer: 5, position: 2 });
});

test("a typed draft survives changes of other traits", () => {
  const state = play(
    start(),
    { type: "draft", text: "half typed" },
    { type: "traits", traits: { metric: "entropy" } },
  );
  expect(state.draft).toBe("half typed");
});

test("pins take the least used colour and a token is pinned once", () => {
  const state = play(
    start(),
    { type: "pin", ids: [2], label: "a" },
    { type: "pin", ids: [3], label: "b" },
    { type: "pin", ids: [2], label: "a" },
  );
  expect(state.traits.pins.map(({ color }) => color)).toEqual([0, 1]);
  expect(play(state, { type: "unpin", index: 0 }).traits.pins.map(({ label }) => label)).toEqual(["b"]);
});

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
  // where a form is not known, neither is the sum
  for (const metric of ["prob", "log_prob", "rank"] as const) expect(combine(tracks, metric)[1]).toBeNaN();
  expect(combine([track([Number.NaN], [-1])], "prob")[0]).toBeNaN();
});

test("numbers keep their order of size in words", () => {
  const said = [1, 0.9997, 0.9994, 0.682, 0.0721, 0.0073, 0.000607, 0.0000123, 2.1e-9, 0].map(percent);
  expect(said.join(", ")).toBe(
    "100 %, >99.9 %, 99.9 %, 68.2 %, 7.21 %, 0.730 %, 0.0607 %, 0.00123 %, 2.1e-7 %, 0 %",
  );
  expect([0.162, -0.0007].map(signedPercent)).toEqual(["+16.2 pp", "−0.0700 pp"]);
  expect(rankText(0)).toBe("#1");
  expect([toNumber("Infinity"), toNumber("-Infinity"), toNumber(2)]).toEqual([
    Number.POSITIVE_INFINITY,
    Number.NEGATIVE_INFINITY,
    2,
  ]);
  expect(toNumber("NaN")).toBeNaN();
});

test("a token tracked through a stored grid has its whole course without a kernel", () => {
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
