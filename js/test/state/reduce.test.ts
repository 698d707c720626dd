import { expect, test } from "vitest";
import type { CardRef, RunInfo, Traits } from "../../src/kernel/protocol.ts";
import { type Action, reduce } from "../../src/state/reduce.ts";
import { initialState, keyOf, MAIN, type State } from "../../src/state/state.ts";
import { FakeKernel } from "../fakekernel.ts";

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
