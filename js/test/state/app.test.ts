// @vitest-environment happy-dom
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { createApp } from "../../src/state/app.ts";
import { keyOf } from "../../src/state/state.ts";
import { FakeKernel } from "../fakekernel.ts";

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
  const app = createApp(kernel, () => {}, new AbortController().signal);
  const ref = { layer: 3, position: 2, site: "resid_post", lens: "logit", k: 5, temperature: 1 };
  const asked = () => kernel.sent.filter(({ kind }) => kind === "decode");
  const settle = () => vi.advanceTimersByTimeAsync(50);
  kernel.change({ cards: [ref] });
  await settle();
  expect(asked()).toHaveLength(1);
  app.dispatch({ type: "recast", ref, change: { temperature: 2 } });
  await settle();
  const warm = { ...ref, temperature: 2 };
  expect(asked()).toHaveLength(2);
  expect(asked()[1]).toMatchObject({ ...warm, select: false });
  // pushed to the kernel, and what it echoes is no news
  expect(kernel.get("cards")).toEqual([warm]);
  kernel.change({ cards: [{ ...warm }] });
  await settle();
  expect(asked()).toHaveLength(2);
  expect(Object.values(app.get().cards).map(({ card }) => card?.temperature)).toEqual([2]);
  kernel.change({ cards: [{ ...warm, k: 3 }] });
  await settle();
  expect(asked()).toHaveLength(3);
  expect(app.get().cards[keyOf({ ...warm, k: 3 })]?.card?.ids).toHaveLength(3);
});

test("a selection that Python takes back while a click is on its way is taken back", async () => {
  const { kernel, app } = openWithoutReplies();
  const [id] = app.transport.pending();
  Object.assign(kernel.values, { selection: null, decoded: null });
  for (const name of ["selection", "decoded"]) kernel.emit(`change:${name}`);
  await vi.advanceTimersByTimeAsync(0);
  kernel.emit("msg:custom", { id, value: {} });
  await vi.advanceTimersByTimeAsync(0);
  expect(app.get().traits.selection).toBeNull();
  expect(app.get().cards).toEqual({});
  expect(kernel.values.selection).toBeNull();
});
