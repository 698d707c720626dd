// @vitest-environment happy-dom
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { createApp } from "../../src/state/app.ts";
import { Root } from "../../src/views/root.ts";
import { duringTest } from "../duringtest.ts";
import { FakeKernel, type FakeOptions } from "../fakekernel.ts";

beforeEach(() => void vi.useFakeTimers());
afterEach(() => void vi.useRealTimers());

const QUALITY = {
  paths: ["M0 15L28 12", "M28 12L56 0"],
  text: "Its top token is the model’s own, by layer: embed: 6%, 1: 25%",
  poor: "embed to 1: this lens tells less of the answer than token frequencies do",
};

async function openWidget(options: FakeOptions = {}) {
  const host = document.createElement("div");
  document.body.replaceChildren(host);
  let root: Root | null = null;
  const app = createApp(new FakeKernel(options), () => root?.draw(), duringTest());
  root = new Root(app, host);
  app.flush();
  await vi.advanceTimersByTimeAsync(50);
  return { app, element: root.element };
}

test("the curve beside the lens is the kernel's, and the legend names the poor rows", async () => {
  const { app, element } = await openWidget({ quality: QUALITY });
  const curve = element.querySelector(".lw-controls .lw-quality");
  expect(curve?.getAttribute("aria-label")).toBe(QUALITY.text);
  const paths = [...(curve?.querySelectorAll("path") ?? [])].map((path) => path.getAttribute("d"));
  expect(paths).toEqual(QUALITY.paths);
  expect(element.querySelector(".lw-legend")?.textContent).toContain(QUALITY.poor);
  // it was measured on the stream
  app.set({ site: "resid_mid" });
  await vi.advanceTimersByTimeAsync(50);
  expect(element.querySelector(".lw-legend")?.textContent).not.toContain(QUALITY.poor);
});

test("a lens that was not measured has no curve, and a good one no sentence", async () => {
  expect((await openWidget()).element.querySelector(".lw-quality")).toBeNull();
  const { element } = await openWidget({ quality: { ...QUALITY, poor: "" } });
  expect(element.querySelector(".lw-quality")).not.toBeNull();
  expect(element.querySelector(".lw-legend")?.textContent).not.toContain("token frequencies");
});
