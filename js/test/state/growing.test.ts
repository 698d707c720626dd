// @vitest-environment happy-dom
import { afterEach, expect, test, vi } from "vitest";
import { createApp } from "../../src/state/app.ts";
import type { App } from "../../src/state/context.ts";
import { duringTest } from "../duringtest.ts";
import { FakeKernel } from "../fakekernel.ts";

afterEach(() => vi.useRealTimers());

function open(kernel = new FakeKernel({ delay_ms: 5 })): { app: App; kernel: FakeKernel } {
  return { app: createApp(kernel, () => {}, duringTest()), kernel };
}

const runs = (kernel: FakeKernel) => kernel.sent.filter(({ kind }) => kind === "run");

test("live runs the text after a pause in typing, the latest alone", async () => {
  const { app, kernel } = open();
  app.local({ isLive: true });
  for (const text of ["The c", "The ci", "The cit"]) app.dispatch({ type: "draft", text });
  await vi.waitFor(() => expect(runs(kernel).map(({ prompt }) => prompt)).toEqual(["The cit"]));
  // what is typed while it runs is run next, and nothing in between
  for (const text of ["The city", "The city ", "The city o"]) app.dispatch({ type: "draft", text });
  await vi.waitFor(() => expect(runs(kernel).map(({ prompt }) => prompt)).toEqual(["The cit", "The city o"]));
  await vi.waitFor(() => expect(app.get().draft).toBe(null));
  expect(app.get().running).toBe(null);
});

test("live runs a single key at once, and keys in a burst when it is over", () => {
  vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout", "performance"] });
  const { app, kernel } = open();
  const prompts = () => runs(kernel).map(({ prompt }) => prompt);
  app.local({ isLive: true });
  app.dispatch({ type: "draft", text: "The c" });
  vi.advanceTimersByTime(1);
  expect(prompts()).toEqual(["The c"]);
  for (const text of ["The ci", "The cit"]) {
    vi.advanceTimersByTime(20);
    app.dispatch({ type: "draft", text });
  }
  vi.advanceTimersByTime(59);
  expect(prompts()).toEqual(["The c"]);
});

test("without live nothing runs until it is asked for, and an empty text never runs by itself", async () => {
  const { app, kernel } = open();
  app.dispatch({ type: "draft", text: "The c" });
  await new Promise((done) => setTimeout(done, 120));
  app.local({ isLive: true });
  app.dispatch({ type: "draft", text: "" });
  await new Promise((done) => setTimeout(done, 120));
  expect(runs(kernel)).toEqual([]);
});

test("live switches itself off where runs are slow, and says so", async () => {
  const { app, kernel } = open(new FakeKernel({ delay_ms: 5 }));
  let now = 0;
  vi.spyOn(performance, "now").mockImplementation(() => {
    now += 2000;
    return now;
  });
  app.local({ isLive: true });
  app.dispatch({ type: "draft", text: "one" });
  await vi.waitFor(() => expect(runs(kernel).length).toBe(1));
  await vi.waitFor(() => expect(app.get().running).toBe(null));
  expect(app.get().isLive).toBe(true);
  app.dispatch({ type: "draft", text: "one two" });
  await vi.waitFor(() => expect(app.get().isLive).toBe(false));
  expect(app.get().notice).toContain("Live is off");
  vi.restoreAllMocks();
});

test("continuing sends how, and a branch its position and token", async () => {
  const { app, kernel } = open();
  app.local({ continuing: { n_tokens: 7, temperature: 0.5, top_p: 0.9, seed: 3 } });
  app.dispatch({ type: "generate" });
  const sent = kernel.sent.find(({ kind }) => kind === "generate");
  expect(sent).toMatchObject({ n_tokens: 7, temperature: 0.5, top_p: 0.9, seed: 3 });
  expect(app.get().isGenerating).toBe(true);
  await vi.waitFor(() => expect(app.get().isGenerating).toBe(false));
  const { id } = kernel.run;
  app.dispatch({ type: "branch", run_id: id, how: { fork: { position: 3, token: 5 } } });
  expect(kernel.sent.at(-1)).toMatchObject({ kind: "run", again: id, fork: { position: 3, token: 5 } });
});
