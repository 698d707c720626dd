import { expect, test } from "vitest";
import type { Card, CardRef, RunInfo } from "../../src/kernel/protocol.ts";
import type { Traits } from "../../src/kernel/traits.ts";
import { type Action, MAX_RUNS, reduce } from "../../src/state/reduce.ts";
import { boxText, cardOf, lossOfEdit, shownCards } from "../../src/state/selectors.ts";
import { FIRST_STATE, keyOf, MAIN, type State } from "../../src/state/state.ts";
import { FakeKernel } from "../fakekernel.ts";

const kernel = new FakeKernel({ n_layers: 6 });
const play = (state: State, ...actions: Action[]) => actions.reduce(reduce, state);
const start = () => play(FIRST_STATE, { type: "traits", traits: kernel.values as unknown as Traits });
const cell = { layer: 3, position: 4 };
const reading = { site: "resid_post", lens: "logit" };
const card = kernel.card({ ...cell, ...reading, k: 5, temperature: 1, track: [] });
const main = (state: State) => cardOf(state, MAIN);
/** The reply to what the main card asked for last. */
const reply = (state: State, value: Card = card) =>
  play(state, { type: "card", key: MAIN, ask: main(state)?.ask ?? 0, card: value });
const opened = () => play(start(), { type: "open", cell });

test("opening a cell selects it and waits for the kernel", () => {
  const state = opened();
  expect(state.traits.selection).toEqual(cell);
  expect(main(state)?.isPending).toBe(true);
  expect(main(reply(state))).toMatchObject({ card, isPending: false });
});

test("a cell outside the run is not opened", () => {
  const state = start();
  expect(play(state, { type: "open", cell: { layer: 6, position: 0 } })).toBe(state);
});

test("a card from Python appears when selection and decode agree", () => {
  const selected = play(start(), { type: "traits", traits: { selection: cell } });
  expect(main(selected)).toMatchObject({ ...cell, card: null, isPending: true, ask: 0 });
  const state = play(selected, { type: "card", key: MAIN, ask: 0, card });
  expect(main(state)?.card).toBe(card);
  expect(state.focus).toEqual(cell);
  const elsewhere = { ...card, position: 5 };
  expect(play(selected, { type: "card", key: MAIN, ask: 0, card: elsewhere })).toBe(selected);
});

test("a decode of a run that is not known is not shown", () => {
  const stale = { ...card, run_id: "earlier" };
  const selected = play(start(), { type: "traits", traits: { selection: cell } });
  expect(play(selected, { type: "card", key: MAIN, ask: 0, card: stale })).toBe(selected);
});

test("keeping a card leaves it when another cell is opened", () => {
  const kept = play(reply(opened()), { type: "keep" });
  const key = keyOf(kept.traits.cards[0] as CardRef);
  const next = play(kept, { type: "open", cell: { layer: 1, position: 1 } });
  expect(cardOf(next, key)?.card).toBe(card);
  expect(next.traits.cards).toHaveLength(1);
  expect(play(next, { type: "close", key }).traits.cards).toHaveLength(0);
});

test("an edited text stays in the box when another prompt is run", () => {
  const prompt = "Another prompt";
  const run = { ...kernel.run, id: "another", prompt };
  const isRun: Action = { type: "traits", traits: { prompt, run } };
  expect(boxText(play(start(), isRun))).toBe(prompt);
  expect(boxText(play(start(), { type: "draft", text: "half a sen" }, isRun))).toBe("half a sen");
  // an empty box follows the next run, and so does one that holds its text
  for (const text of ["", prompt]) expect(play(start(), { type: "draft", text }, isRun).draft).toBeNull();
});

test("a kept card keeps how it was decoded, and its code goes when it is decoded otherwise", () => {
  const { id: run_id } = kernel.run;
  const asked = play(reply(opened()), { type: "copied", run_id, key: MAIN, code: "print()", note: "" });
  expect(main(asked)?.code).toBe("print()");
  const warm = play(asked, { type: "change", change: { temperature: 2, k: 7 } });
  expect(main(warm)?.code).toBeNull();
  expect(play(warm, { type: "keep" }).traits.cards).toEqual([
    { ...cell, site: "resid_post", lens: "logit", k: 7, temperature: 2 },
  ]);
});

test("a kept card that is decoded otherwise is so in the trait, in its place, with what was found on it", () => {
  const first = play(
    start(),
    { type: "open", cell: { layer: 1, position: 1 } },
    { type: "keep" },
    { type: "open", cell },
  );
  const kept = play(reply(play(first, { type: "track", key: MAIN, id: 7 })), { type: "keep" });
  const [other, ref] = kept.traits.cards as [CardRef, CardRef];
  const warm = play(kept, { type: "changeKept", ref, change: { temperature: 2 } });
  const now = { ...ref, temperature: 2 };
  expect(warm.traits.cards).toEqual([other, now]);
  expect(cardOf(warm, keyOf(now))).toMatchObject({ temperature: 2, isPending: true, card, tracked: [7] });
  expect(cardOf(warm, keyOf(ref))).toBeUndefined();
  expect(warm.traits.selection).toEqual(cell);
  // the same cell may be kept twice, at two temperatures, and never twice alike
  const both = play(warm, { type: "keep" });
  expect(both.traits.cards).toEqual([other, now, ref]);
  expect(play(both, { type: "keep" }).traits.cards).toHaveLength(3);
  expect(play(both, { type: "changeKept", ref: now, change: { temperature: 1 } }).traits.cards).toEqual([
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
  const asked = play(reply(opened()), { type: "change", change: { k: 7 } });
  const { ask = 0 } = main(asked) ?? {};
  const failure = { type: "failed", run_id: kernel.run.id, key: MAIN, error: "No." } as const;
  expect(main(play(asked, { ...failure, ask }))).toMatchObject({ card, error: "No.", isPending: false });
  // an earlier decode that fails is no news
  expect(play(asked, { ...failure, ask: ask - 1 })).toBe(asked);
});

test("a new run has no cards, and the focus stays inside it", () => {
  const before = play(start(), { type: "open", cell: { layer: 5, position: 8 } });
  const run = { ...kernel.run, id: "next", tokens: [1, 2, 3] } as RunInfo;
  const after = play(before, { type: "traits", traits: { run, selection: null } });
  expect(shownCards(after)).toEqual({});
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

/** Runs that differ in their id. */
const runNamed = (id: string): Action => ({
  type: "traits",
  traits: { run: { ...kernel.run, id }, selection: null },
});

test("a card that is shown already changes nothing, however it comes", () => {
  const shown = reply(opened());
  const again = structuredClone(card);
  expect(play(shown, { type: "traits", traits: { selection: { ...cell } } })).toBe(shown);
  expect(play(shown, { type: "card", key: MAIN, ask: 0, card: again })).toBe(shown);
  // decoded otherwise, it is another card
  const warm = { ...card, temperature: 2 };
  const changed = play(shown, { type: "card", key: MAIN, ask: 0, card: warm });
  expect(main(changed)).toMatchObject({ card: warm, temperature: 2 });
});

test("while a decode is out the kernel's earlier selection and card are ignored, but not that none is selected", () => {
  const other = { layer: 1, position: 1 };
  const moved = play(opened(), { type: "open", cell: other });
  const old: Action[] = [
    { type: "traits", traits: { selection: cell } },
    { type: "card", key: MAIN, ask: 0, card },
  ];
  expect(play(moved, ...old)).toBe(moved);
  expect(reply(moved)).toBe(moved);
  const none = play(moved, { type: "traits", traits: { selection: null } });
  expect(none.traits.selection).toBeNull();
  expect(main(none)).toBeUndefined();
});

test("a reply to an earlier question is not taken for the answer to a later one", () => {
  const first = opened();
  const second = play(first, { type: "change", change: { temperature: 2 } });
  const late: Action = { type: "card", key: MAIN, ask: main(first)?.ask ?? 0, card };
  expect(play(second, late)).toBe(second);
  expect(main(reply(second, { ...card, temperature: 2 }))).toMatchObject({
    isPending: false,
    temperature: 2,
  });
});

test("a card that arrives for another run goes to that run's cards", () => {
  const asked = opened();
  const { ask = 0 } = main(asked) ?? {};
  const later = play(asked, runNamed("next"));
  expect(later.shown).toBe("next");
  const state = play(later, { type: "card", key: MAIN, ask, card });
  expect(state.cards[kernel.run.id]?.[MAIN]).toMatchObject({ card, isPending: false });
  expect(shownCards(state)).toEqual({});
});

test("only the last runs are kept, and the cards of a dropped run go with it", () => {
  const names = Array.from({ length: MAX_RUNS + 2 }, (_, i) => `later${i}`);
  const asked = opened();
  expect(Object.keys(asked.cards)).toEqual([kernel.run.id]);
  const state = play(asked, ...names.map(runNamed));
  expect([...state.runs.keys()]).toEqual(names.slice(-MAX_RUNS));
  expect(state.shown).toBe(names.at(-1));
  expect(state.cards).toEqual({});
  // an earlier one that is shown again is the latest
  const back = play(state, runNamed("later5"), runNamed("another"));
  expect([...back.runs.keys()].slice(-2)).toEqual(["later5", "another"]);
});

test("a change of site waits for the kernel's card, and one that changes nothing waits for none", () => {
  const shown = reply(opened());
  const moved = play(shown, { type: "set", traits: { site: "resid_mid" } });
  expect(main(moved)).toMatchObject({ site: "resid_mid", isPending: true, ask: 0 });
  const there = { ...card, site: "resid_mid" };
  expect(main(play(moved, { type: "card", key: MAIN, ask: 0, card: there }))).toMatchObject({
    card: there,
    isPending: false,
  });
  expect(main(play(shown, { type: "set", traits: reading }))?.isPending).toBe(false);
});

test("a cell that is not finite has no tokens on its card, and how many were asked for stays", () => {
  const empty = { ...card, k: 0, ids: [], labels: [], log_probs: [], logits: [], rank_below: [] };
  const state = play(
    start(),
    { type: "traits", traits: { selection: cell } },
    { type: "card", key: MAIN, ask: 0, card: empty },
  );
  expect(main(state)).toMatchObject({ k: state.traits.card_k, card: empty });
});

test("an edit says what it would drop of the prompt, before it runs", () => {
  const withExtras = (extras: string[]) =>
    play(FIRST_STATE, { type: "traits", traits: { run: { ...kernel.run, extras }, prompt: "A picture of" } });
  const edit: Action = { type: "draft", text: "A picture of a" };
  expect(lossOfEdit(withExtras(["pixel_values"]))).toBeNull();
  expect(lossOfEdit(play(withExtras(["pixel_values"]), edit))).toBe(
    "Running this text drops pixel_values, which came with the prompt.",
  );
  expect(lossOfEdit(play(withExtras(["a", "b", "c"]), edit))).toBe(
    "Running this text drops a, b and c, which came with the prompt.",
  );
  expect(lossOfEdit(play(withExtras([]), edit))).toBeNull();
  // typed back to what it was, nothing is edited
  const back = play(withExtras(["pixel_values"]), edit, { type: "draft", text: "A picture of" });
  expect(back.draft).toBeNull();
});

test("a search belongs to its box, and a late answer to an earlier text is dropped", () => {
  const found = (query: string): Action => ({
    type: "found",
    box: "pins",
    query,
    matches: [],
    note: "No such token.",
  });
  const typed = play(opened(), { type: "search", box: "pins", query: "Par" });
  expect(play(typed, found("Pa"))).toBe(typed);
  const state = play(typed, found("Par"));
  expect(state.pinSearch).toMatchObject({ query: "Par", note: "No such token." });
  expect(main(state)?.search.query).toBe("");
});
