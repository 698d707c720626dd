// @vitest-environment happy-dom
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { createApp } from "../../src/state/app.ts";
import { largestRise } from "../../src/views/pins.ts";
import { Root } from "../../src/views/root.ts";
import { writtenOut } from "../../src/views/spine.ts";
import { duringTest } from "../duringtest.ts";
import { FakeKernel } from "../fakekernel.ts";

beforeEach(() => void vi.useFakeTimers());
afterEach(() => void vi.useRealTimers());

async function open(traits = {}) {
  const kernel = new FakeKernel({ traits });
  const host = document.createElement("div");
  document.body.replaceChildren(host);
  let root: Root | null = null;
  const app = createApp(kernel, () => root?.draw(), duringTest());
  root = new Root(app, host);
  app.flush();
  await vi.advanceTimersByTimeAsync(50);
  return { kernel, app, root };
}

test("the spine is asked for once, and its words are shaded once it is there", async () => {
  const { kernel, app, root } = await open({ show_spine: true });
  await vi.advanceTimersByTimeAsync(200);
  expect(kernel.sent.filter(({ kind }) => kind === "spine")).toHaveLength(1);
  const words = () => [...root.element.querySelectorAll<HTMLElement>(".lw-word")];
  expect(words().every((word) => word.classList.contains("is-unknown"))).toBe(true);
  const values = kernel.run.tokens.map((_, i) => (i ? 0.5 * i : null));
  kernel.change({ spine: { run_id: kernel.run.id, surprise: values, entropy: values } });
  await vi.advanceTimersByTimeAsync(20);
  app.flush();
  expect(words().filter((word) => word.classList.contains("is-unknown"))).toHaveLength(1);
  expect(words()[3]?.title).toContain("surprise 1.50 nats");
  expect(root.element.querySelector(".lw-spine")?.textContent).toContain("mean 2.25 nats");
  // numbers of another run are not drawn
  kernel.change({ spine: { run_id: "another", surprise: values, entropy: values } });
  await vi.advanceTimersByTimeAsync(20);
  app.flush();
  expect(words().every((word) => word.classList.contains("is-unknown"))).toBe(true);
});

test("of a long text the tokens around the one that is looked at are written out", () => {
  expect(writtenOut(40, 3)).toEqual([0, 40]);
  const [start, stop] = writtenOut(5000, 2500);
  expect(stop - start).toBe(1200);
  expect(start).toBeLessThan(2500);
  expect(writtenOut(5000, 4999)[1]).toBe(5000);
});

test("a rise is between two places that are both known", () => {
  expect(largestRise([0.1, 0.2, 0.7, 0.6])).toBe(2);
  expect(largestRise([Number.NaN, 0.9, 0.95])).toBe(2);
  expect(largestRise([0.3, 0.2])).toBe(0);
});

test("of frames asked for while one is run, the last is shown next and the others never", async () => {
  const { kernel, app } = await open({ frames: ["a", "b", "c", "d"] });
  const asked = () => kernel.sent.filter(({ kind }) => kind === "run").map(({ frame }) => frame);
  for (const frame of [1, 2, 3]) app.dispatch({ type: "frame", frame });
  expect(asked()).toEqual([1]);
  await vi.advanceTimersByTimeAsync(200);
  expect(asked()).toEqual([1, 3]);
  expect(app.get().wishedFrame).toBe(null);
});
