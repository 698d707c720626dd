// @vitest-environment happy-dom
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import type { Card } from "../../src/kernel/protocol.ts";
import { staticModel } from "../../src/kernel/staticModel.ts";
import type { Traits } from "../../src/kernel/traits.ts";
import { createApp } from "../../src/state/app.ts";
import { boxText, cardOf, shownCards } from "../../src/state/selectors.ts";
import { keyOf, MAIN } from "../../src/state/state.ts";
import { duringTest } from "../duringtest.ts";
import { FakeKernel, type FakeOptions } from "../fakekernel.ts";

beforeEach(() => void vi.useFakeTimers());
afterEach(() => void vi.useRealTimers());

function openWithoutReplies() {
  const kernel = new FakeKernel();
  kernel.isSilent = true;
  const controller = new AbortController();
  const app = createApp(kernel, () => {}, controller.signal);
  app.dispatch({ type: "open", cell: { layer: 3, position: 2 } });
  expect(app.transport.pending()).not.toEqual([]);
  return { kernel, app };
}

test("a kernel that does not answer for a while is waited for", () => {
  const { app } = openWithoutReplies();
  vi.advanceTimersByTime(2000);
  expect(app.get().connection).toBe("waiting");
});

test("a kernel that went while it was asked stays gone, and nothing waits for it", async () => {
  const { kernel, app } = openWithoutReplies();
  app.dispatch({ type: "run" });
  expect(app.get().running).not.toBeNull();
  vi.advanceTimersByTime(500);
  kernel.emit("comm_live_update");
  await vi.advanceTimersByTimeAsync(2000);
  expect(app.get()).toMatchObject({ connection: "gone", running: null });
});

test("a kept card asks the kernel for what it became, once, and follows what the kernel says of it", async () => {
  const kernel = new FakeKernel();
  const app = createApp(kernel, () => {}, duringTest());
  const ref = { layer: 3, position: 2, site: "resid_post", lens: "logit", k: 5, temperature: 1 };
  const asked = () => kernel.sent.filter(({ kind }) => kind === "decode");
  const settle = () => vi.advanceTimersByTimeAsync(50);
  kernel.change({ cards: [ref] });
  await settle();
  expect(asked()).toHaveLength(1);
  app.dispatch({ type: "changeKept", ref, change: { temperature: 2 } });
  await settle();
  const warm = { ...ref, temperature: 2 };
  expect(asked()).toHaveLength(2);
  expect(asked()[1]).toMatchObject({ ...warm, select: false });
  // pushed to the kernel, and what it echoes is no news
  expect(kernel.get("cards")).toEqual([warm]);
  kernel.change({ cards: [{ ...warm }] });
  await settle();
  expect(asked()).toHaveLength(2);
  expect(Object.values(shownCards(app.get())).map(({ card }) => card?.temperature)).toEqual([2]);
  kernel.change({ cards: [{ ...warm, k: 3 }] });
  await settle();
  expect(asked()).toHaveLength(3);
  expect(cardOf(app.get(), keyOf({ ...warm, k: 3 }))?.card?.ids).toHaveLength(3);
});

test("a selection that Python takes back while a click is on its way is taken back", async () => {
  const { kernel, app } = openWithoutReplies();
  const [message] = kernel.sent;
  Object.assign(kernel.values, { selection: null, decoded: null });
  for (const name of ["selection", "decoded"]) kernel.emit(`change:${name}`);
  await vi.advanceTimersByTimeAsync(0);
  kernel.emit("msg:custom", { id: message?.id, value: kernel.card(message as never) });
  await vi.advanceTimersByTimeAsync(0);
  expect(app.get().traits.selection).toBeNull();
  expect(shownCards(app.get())).toEqual({});
  expect(kernel.values.selection).toBeNull();
});

/** A view of a kernel that answers only when it is told, and how often it was drawn. */
function openView(options: FakeOptions = {}) {
  const kernel = new FakeKernel(options);
  const draw = vi.fn();
  const app = createApp(kernel, draw, duringTest());
  vi.advanceTimersByTime(50);
  kernel.isSilent = true;
  draw.mockClear();
  const sent = (kind: string) => kernel.sent.filter((message) => message.kind === kind);
  return { kernel, app, draw, sent };
}

const cell = { layer: 3, position: 2 };
/** All that is queued but timers and frames. */
const settle = () => vi.advanceTimersByTimeAsync(0);

test("a press draws in its frame, the reply in its own task, and the traits after it draw nothing", async () => {
  const { kernel, app, draw, sent } = openView();
  app.dispatch({ type: "open", cell });
  expect(sent("decode")).toMatchObject([{ ...cell, run_id: kernel.run.id, select: true, track: [] }]);
  expect(cardOf(app.get(), MAIN)).toMatchObject({ ...cell, card: null, isPending: true });
  await vi.advanceTimersByTimeAsync(20);
  expect(draw).toHaveBeenCalledTimes(1);
  const [message] = sent("decode");
  const reply = kernel.card(message as never);
  kernel.emit("msg:custom", { id: message?.id, value: reply });
  await settle();
  expect(draw).toHaveBeenCalledTimes(2);
  expect(cardOf(app.get(), MAIN)).toMatchObject({ card: reply, isPending: false });
  kernel.change({ decoded: structuredClone(reply), selection: { ...cell } });
  await vi.advanceTimersByTimeAsync(50);
  expect(draw).toHaveBeenCalledTimes(2);
  expect(sent("decode")).toHaveLength(1);
});

test("what the page lacks is requested once the card that was pressed for is there", async () => {
  const { kernel, app, sent } = openView();
  app.dispatch({ type: "pin", ids: [7], label: "seven" });
  app.dispatch({ type: "open", cell });
  await vi.advanceTimersByTimeAsync(50);
  // what led in the upper layers was asked for before
  const asked = () => sent("read").filter((read) => (read as { track?: number[] }).track?.includes(7));
  expect(asked()).toEqual([]);
  for (const read of sent("read")) kernel.reply(read as never);
  kernel.reply(sent("decode")[0] as never);
  await settle();
  expect(asked()).toMatchObject([{ run_id: kernel.run.id, positions: [cell.position], track: [7] }]);
});

test("after a click the page sets the selection itself, once, and does not echo one that Python sets", async () => {
  const { kernel, app, sent } = openView();
  const set = vi.spyOn(kernel, "set");
  app.dispatch({ type: "open", cell });
  kernel.reply(sent("decode")[0] as never);
  await settle();
  await settle();
  expect(set.mock.calls).toEqual([["selection", cell]]);
  kernel.select({ layer: 5, position: 1 });
  kernel.select(cell);
  await vi.advanceTimersByTimeAsync(50);
  expect(set).toHaveBeenCalledTimes(1);
  expect(cardOf(app.get(), MAIN)).toMatchObject(cell);
});

test("of quick clicks the first and the last are decoded, and the kernel's selection of the first is ignored", async () => {
  const { kernel, app, sent } = openView();
  for (const layer of [1, 2, 3, 4]) app.dispatch({ type: "open", cell: { layer, position: 2 } });
  expect(sent("decode").map(({ layer }) => layer)).toEqual([1]);
  kernel.reply(sent("decode")[0] as never);
  await settle();
  expect(app.traits().selection).toEqual({ layer: 4, position: 2 });
  expect(cardOf(app.get(), MAIN)).toMatchObject({ layer: 4, card: null, isPending: true });
  expect(sent("decode").map(({ layer }) => layer)).toEqual([1, 4]);
  kernel.reply(sent("decode")[1] as never);
  await settle();
  expect(cardOf(app.get(), MAIN)?.card).toMatchObject({ layer: 4 });
  expect(kernel.values.selection).toEqual({ layer: 4, position: 2 });
});

test("a card that is closed before its reply stays closed", async () => {
  const { kernel, app, sent } = openView();
  app.dispatch({ type: "open", cell });
  app.dispatch({ type: "close", key: MAIN });
  const [message] = sent("decode");
  kernel.emit("msg:custom", { id: message?.id, value: kernel.card(message as never) });
  await vi.advanceTimersByTimeAsync(50);
  expect(app.traits().selection).toBeNull();
  expect(shownCards(app.get())).toEqual({});
});

test("a selection of Python's opens the card at once, and its numbers follow", async () => {
  const { kernel, app } = openView();
  kernel.change({ selection: cell });
  await settle();
  expect(cardOf(app.get(), MAIN)).toMatchObject({ ...cell, card: null, isPending: true });
  kernel.change({ decoded: kernel.decoded(cell) });
  await settle();
  expect(cardOf(app.get(), MAIN)).toMatchObject({ card: kernel.decoded(cell), isPending: false });
  expect(kernel.sent.filter(({ kind }) => kind === "decode")).toEqual([]);
});

test("an unedited box runs the same inputs again, and an edited one its text", async () => {
  const { kernel, app, sent } = openView({ extras: ["pixel_values"] });
  const first = kernel.run;
  kernel.isSilent = false;
  app.dispatch({ type: "run" });
  await vi.advanceTimersByTimeAsync(50);
  expect(sent("run")[0]).toMatchObject({ again: first.id });
  expect(sent("run")[0]).not.toHaveProperty("prompt");
  expect(app.get()).toMatchObject({ shown: kernel.run.id, running: null });
  expect(kernel.run).toMatchObject({ extras: ["pixel_values"], prompt: first.prompt });
  expect(kernel.run.id).not.toBe(first.id);
  app.dispatch({ type: "draft", text: "Another text" });
  app.dispatch({ type: "run" });
  await vi.advanceTimersByTimeAsync(50);
  expect(sent("run")[1]).toMatchObject({ prompt: "Another text" });
  expect(sent("run")[1]).not.toHaveProperty("again");
  expect(app.get()).toMatchObject({ shown: kernel.run.id, draft: null });
  expect([boxText(app.get()), kernel.run.extras]).toEqual(["Another text", []]);
  expect([...app.get().runs.keys()]).toHaveLength(3);
});

test("the numbers of another known run go to that run's cells, whichever view asked for them", async () => {
  const { kernel, app } = openView({ n_snapshot: 1 });
  const first = kernel.run.id;
  const asked = {
    layers: [3],
    positions: [2],
    site: "resid_post",
    lens: "logit",
    k: 5,
    track: [],
    metrics: [],
  };
  const late = kernel.readout({ ...asked, run_id: first });
  kernel.reply({ id: "elsewhere", kind: "run", again: first } as never);
  await settle();
  expect(app.get().shown).not.toBe(first);
  kernel.emit("msg:custom", { id: "other:1", value: late.header }, late.buffers);
  const reading = { site: "resid_post", lens: "logit" };
  expect(app.cells(first)?.top(reading, 3, 2)).toBeDefined();
  expect(app.cells()?.top(reading, 3, 2)).toBeUndefined();
  expect(app.cells("unknown")).toBeNull();
});

test("a selection that is not confirmed gives way to the kernel's when another run is shown", async () => {
  const { kernel, app, sent } = openView();
  app.dispatch({ type: "open", cell });
  kernel.reply({ id: "elsewhere", kind: "run", again: kernel.run.id } as never);
  await settle();
  expect(app.traits().selection).toBeNull();
  // the card of the run before gets its numbers all the same
  const [message] = sent("decode");
  kernel.emit("msg:custom", { id: message?.id, value: kernel.card(message as never) });
  await settle();
  expect(app.get().cards[String(message?.run_id)]?.[MAIN]).toMatchObject({ isPending: false, ...cell });
  expect(shownCards(app.get())).toEqual({});
});

test("the code of a card is asked for with its run and its tokens, and shown where the clipboard is refused", async () => {
  const { kernel, app, sent } = openView();
  kernel.isSilent = false;
  vi.spyOn(navigator.clipboard, "writeText").mockRejectedValue(new Error("refused"));
  app.dispatch({ type: "open", cell });
  app.dispatch({ type: "track", key: MAIN, id: 7 });
  await vi.advanceTimersByTimeAsync(50);
  app.dispatch({ type: "copy", key: MAIN });
  await vi.advanceTimersByTimeAsync(50);
  expect(sent("code")).toMatchObject([{ ...cell, run_id: kernel.run.id, track: [7] }]);
  expect(cardOf(app.get(), MAIN)?.code).toContain("model.trace");
  expect(cardOf(app.get(), MAIN)?.note).toBe("Copy the code below.");
});

test("a page without a kernel shows stored cards, and says which cells are not stored", () => {
  const { values } = new FakeKernel({ n_snapshot: 1 });
  const app = createApp(staticModel(values as Partial<Traits>), () => {}, duringTest());
  app.dispatch({ type: "open", cell: { layer: 3, position: 8 } });
  expect(cardOf(app.get(), MAIN)).toMatchObject({ isPending: false, error: null, card: { layer: 3 } });
  app.dispatch({ type: "open", cell: { layer: 3, position: 2 } });
  expect(cardOf(app.get(), MAIN)).toMatchObject({ isPending: false, card: null });
  expect(cardOf(app.get(), MAIN)?.error).toContain("This cell is not stored.");
  app.dispatch({ type: "run" });
  expect(app.get().notice).toBe("This needs a kernel, and none is connected.");
});

test("a view that its host marks as stored is offline at once, and its stored card comes back", async () => {
  const kernel = new FakeKernel({ traits: { selection: { layer: 3, position: 2 } } });
  kernel.isSilent = true;
  const asked = { site: "resid_post", lens: "logit", k: 20, temperature: 1, track: [] };
  const decoded = kernel.card({ layer: 3, position: 2, ...asked });
  kernel.values.decoded = decoded;
  const app = createApp(kernel, () => {}, duringTest(), { isStored: true });
  expect(app.get().connection).toBe("offline");
  expect(cardOf(app.get(), MAIN)).toMatchObject({ card: decoded, isPending: false });
  app.dispatch({ type: "open", cell: { layer: 1, position: 1 } });
  await vi.advanceTimersByTimeAsync(10);
  expect(cardOf(app.get(), MAIN)).toMatchObject({ layer: 1, isPending: false, error: null });
  app.dispatch({ type: "open", cell: { layer: 3, position: 2 } });
  await vi.advanceTimersByTimeAsync(10);
  expect(cardOf(app.get(), MAIN)?.card).toBe(decoded);
  expect(kernel.sent).toEqual([]);
});

test("where nothing was ever answered the stored cells are read, until the kernel answers", async () => {
  const { kernel, app } = openWithoutReplies();
  await vi.advanceTimersByTimeAsync(6000);
  expect(app.get().connection).toBe("silent");
  expect(cardOf(app.get(), MAIN)).toMatchObject({ layer: 3, isPending: false });
  const n_stored = cardOf(app.get(), MAIN)?.card?.ids.length ?? 0;
  expect(n_stored).toBeGreaterThan(0);
  // it was busy, and now answers what it was asked
  kernel.isSilent = false;
  for (const message of [...kernel.sent]) kernel.reply(message as never);
  await vi.advanceTimersByTimeAsync(100);
  expect(app.get().connection).toBe("live");
  expect(cardOf(app.get(), MAIN)?.card?.ids.length).toBeGreaterThan(n_stored);
});

test("a host that does not take a request any more has lost its kernel", async () => {
  const kernel = new FakeKernel();
  const app = createApp(kernel, () => {}, duringTest());
  await vi.advanceTimersByTimeAsync(100);
  kernel.send = () => {
    throw new Error("Kernel is dead");
  };
  app.dispatch({ type: "open", cell: { layer: 3, position: 2 } });
  await vi.advanceTimersByTimeAsync(2000);
  expect(app.get().connection).toBe("gone");
  // the cell's stored numbers, with what to do
  expect(cardOf(app.get(), MAIN)).toMatchObject({ isPending: false, error: null, layer: 3 });
  expect(cardOf(app.get(), MAIN)?.note).toContain("Run the cell again");
});

test("a cell on which the pointer rests is decoded, so that a press finds its numbers, and decodes it again", async () => {
  const kernel = new FakeKernel();
  const app = createApp(kernel, () => {}, duringTest());
  await vi.advanceTimersByTimeAsync(2000);
  const asked = () => kernel.sent.filter(({ kind }) => kind === "decode");
  // on its way across the grid it rests nowhere
  for (const position of [0, 1, 2, 3]) {
    app.dispatch({ type: "rest", cell: { layer: 3, position } });
    await vi.advanceTimersByTimeAsync(20);
  }
  expect(asked()).toHaveLength(0);
  await vi.advanceTimersByTimeAsync(100);
  expect(asked()).toHaveLength(1);
  expect(asked()[0]).toMatchObject({ layer: 3, position: 3, select: false });
  expect(app.get().traits.selection).toBeNull();
  kernel.isSilent = true;
  app.dispatch({ type: "open", cell: { layer: 3, position: 3 } });
  const card = cardOf(app.get(), MAIN);
  expect(card).toMatchObject({ isPending: false, card: { layer: 3, position: 3 } });
  expect(asked()).toHaveLength(2);
  expect(asked()[1]).toMatchObject({ layer: 3, position: 3, select: true });
  // whatever the kernel says to the press is what counts
  const value = { ...(card?.card as Card), entropy_nats: 1.25 };
  kernel.emit("msg:custom", { id: asked()[1]?.id, value }, []);
  await vi.advanceTimersByTimeAsync(0);
  expect(cardOf(app.get(), MAIN)).toMatchObject({ ask: 0, card: { entropy_nats: 1.25 } });
  // of another cell, or decoded otherwise, nothing is known
  app.dispatch({ type: "change", change: { temperature: 2 } });
  expect(cardOf(app.get(), MAIN)).toMatchObject({ isPending: true });
});

test("a press that comes before the numbers of the cell under the pointer takes them when they are there", async () => {
  const kernel = new FakeKernel();
  const app = createApp(kernel, () => {}, duringTest());
  await vi.advanceTimersByTimeAsync(2000);
  kernel.isSilent = true;
  app.dispatch({ type: "rest", cell: { layer: 3, position: 3 } });
  await vi.advanceTimersByTimeAsync(100);
  const [early] = kernel.sent.filter(({ kind }) => kind === "decode");
  // nobody waits for it
  expect(app.transport.pending()).not.toContain(early?.id);
  app.dispatch({ type: "open", cell: { layer: 3, position: 3 } });
  expect(cardOf(app.get(), MAIN)?.isPending).toBe(true);
  kernel.isSilent = false;
  kernel.send({ ...early });
  await vi.advanceTimersByTimeAsync(0);
  expect(cardOf(app.get(), MAIN)).toMatchObject({ isPending: false, card: { layer: 3, position: 3 } });
});

test("a busy kernel is not asked for the cell under the pointer", async () => {
  const { kernel, app } = openWithoutReplies();
  const n_sent = kernel.sent.length;
  app.dispatch({ type: "rest", cell: { layer: 4, position: 3 } });
  await vi.advanceTimersByTimeAsync(500);
  expect(kernel.sent.filter(({ kind }) => kind === "decode")).toHaveLength(1);
  expect(n_sent).toBeGreaterThan(0);
});
