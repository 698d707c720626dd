// @vitest-environment happy-dom
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { createApp } from "../src/app.ts";
import { FakeKernel } from "./fakekernel.ts";

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
