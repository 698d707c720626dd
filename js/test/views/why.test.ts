// @vitest-environment happy-dom
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { createApp } from "../../src/state/app.ts";
import { Root } from "../../src/views/root.ts";
import { duringTest } from "../duringtest.ts";
import { FakeKernel } from "../fakekernel.ts";

beforeEach(() => void vi.useFakeTimers());
afterEach(() => void vi.useRealTimers());

async function openWidget() {
  const kernel = new FakeKernel({});
  const host = document.createElement("div");
  document.body.replaceChildren(host);
  let root: Root | null = null;
  const app = createApp(kernel, () => root?.draw(), duringTest());
  root = new Root(app, host);
  app.flush();
  const wait = () => vi.advanceTimersByTimeAsync(100);
  await wait();
  const card = () => root?.element.querySelector("[data-card=main]") as HTMLElement;
  const open = async (layer: number, position: number) => {
    app.dispatch({ type: "open", cell: { layer, position } });
    await wait();
  };
  const named = (name: string) =>
    [...card().querySelectorAll("button")].find(
      (each) =>
        (each.getAttribute("aria-label") ?? each.title ?? "").includes(name) || each.textContent === name,
    ) as HTMLButtonElement;
  const click = async (name: string) => {
    named(name).click();
    await wait();
  };
  const asked = () => kernel.sent.filter(({ kind }) => kind === "why");
  return { kernel, app, card, open, click, asked, wait, named };
}

test("nothing is asked until Why is opened, and then once", async () => {
  const { open, click, asked, card } = await openWidget();
  await open(3, 2);
  expect(asked()).toHaveLength(0);
  await click("Why");
  expect(asked()).toHaveLength(1);
  expect(asked()[0]).toMatchObject({ layer: 3, position: 2, by: "part", foil: null });
  expect(card().querySelectorAll("button.lw-whyrow")).toHaveLength(4);
  await click("Why");
  expect(card().querySelector(".lw-whybox")).toBeNull();
  expect(asked()).toHaveLength(1);
});

test("each row begins where the row below ended, and the last ends at the logit", async () => {
  const { open, click, card } = await openWidget();
  await open(2, 2);
  await click("Why");
  const rows = [...card().querySelectorAll(".lw-whyrow")].reverse();
  expect(rows.map((row) => row.querySelector(".lw-num")?.textContent)).toEqual([
    "+2.00",
    "+0.50",
    "+0.50",
    "+0.50",
    "1e−6",
  ]);
  const bars = rows.flatMap((row) =>
    [...row.querySelectorAll<HTMLElement>(".lw-whybar")].map(({ style, className }) => ({
      left: Number.parseFloat(style.left),
      right: Number.parseFloat(style.left) + Number.parseFloat(style.width),
      isAgainst: className.includes("is-against"),
    })),
  );
  let at = 0;
  for (const { left, right, isAgainst } of bars) {
    expect(isAgainst ? right : left).toBeCloseTo(at, 1);
    at = isAgainst ? left : right;
  }
  // 3.5 of a span that ends at 4
  expect(at).toBeCloseTo(87.5, 0);
});

test("another cell is explained once its own numbers are here", async () => {
  const { open, click, asked } = await openWidget();
  await open(3, 2);
  await click("Why");
  await open(1, 4);
  expect(asked()).toHaveLength(2);
  expect(asked()[1]).toMatchObject({ layer: 1, position: 4 });
});

test("pinned tokens and their differences can be asked for", async () => {
  const { app, open, click, asked, card, wait } = await openWidget();
  app.dispatch({ type: "pin", ids: [2], label: "a" });
  app.dispatch({ type: "pin", ids: [3], label: "b" });
  await open(3, 2);
  await click("Why");
  expect(asked()[0]).toMatchObject({ token: 2, foil: null });
  const select = card().querySelector(".lw-whybox select") as HTMLSelectElement;
  expect([...select.options].map(({ value }) => value).slice(0, 4)).toEqual(["2-3", "3-2", "2", "3"]);
  select.value = "2-3";
  select.dispatchEvent(new Event("change", { bubbles: true }));
  await wait();
  expect(asked()[1]).toMatchObject({ token: 2, foil: 3 });
});

test("a layer opens into heads, sources and neurons, and a head is switched off as an edit", async () => {
  const { kernel, open, click, asked, card } = await openWidget();
  await open(3, 2);
  await click("Why");
  await click("layer 2:");
  expect(
    asked()
      .slice(1)
      .map(({ by, of_layer }) => [by, of_layer]),
  ).toEqual([
    ["head", 2],
    ["source", 2],
    ["neuron", 2],
  ]);
  const heads = [...card().querySelectorAll(".lw-whytable tbody th[scope=row]")].map((th) => th.textContent);
  expect(heads.slice(0, 5)).toEqual(["attention", "MLP", "head 0", "head 1", "head 2"]);
  // a position that is read cannot be switched off
  expect(card().querySelectorAll(".lw-whytable .lw-button")).toHaveLength(8);
  await click("Off: L2 head 1");
  const run = kernel.sent.findLast(({ kind }) => kind === "run") as unknown as { edits: unknown[] };
  expect(run.edits).toMatchObject([
    { op: "zero", site: "attn_out", layers: [2], positions: [2], heads: [1] },
  ]);
});

test("an error of the kernel is shown in its words, and no other cell's terms", async () => {
  const { kernel, open, click, card } = await openWidget();
  await open(3, 2);
  kernel.isSilent = true;
  await click("Why");
  expect(card().querySelector(".lw-whybox")?.textContent).toContain("taking it apart");
  const { id } = kernel.sent.findLast(({ kind }) => kind === "why") as unknown as { id: string };
  kernel.emit(
    "msg:custom",
    { id, error: { type: "AnatomyError", message: "It cannot be taken apart." } },
    [],
  );
  await vi.advanceTimersByTimeAsync(100);
  expect(card().querySelector(".lw-error")?.textContent).toBe("It cannot be taken apart.");
  expect(card().querySelector(".lw-why")).toBeNull();
});

test("an open layer marks the columns that were read, and a head has arcs while it is pointed at or held", async () => {
  const { open, click, card, wait } = await openWidget();
  const root = () => card().closest(".lenswidget") as HTMLElement;
  const count = (selector: string) => root().querySelectorAll(selector).length;
  await open(2, 2);
  await click("Why");
  expect(count(".is-read")).toBe(0);
  await click("layer 1:");
  // without a size only four columns are in the page
  expect(count(".lw-colhead.is-read")).toBe(3);
  expect(count(".lw-readcolumn")).toBe(3);
  expect(count(".lw-colhead.is-sink")).toBe(1);
  expect(count(".lw-arcs path")).toBe(0);
  const thumb = () => card().querySelector(".lw-thumb") as HTMLButtonElement;
  expect(thumb().getAttribute("aria-label")).toMatch(/^head \d reads .*a sink, 50.0 %/);
  thumb().dispatchEvent(new Event("pointerover", { bubbles: true }));
  await wait();
  // not from its own column
  expect(count(".lw-arcs path")).toBe(2);
  expect(count(".lw-arcs path.is-sink")).toBe(1);
  thumb().dispatchEvent(new Event("pointerout", { bubbles: true }));
  await wait();
  expect(count(".lw-arcs path")).toBe(0);
  thumb().click();
  await wait();
  expect(thumb().getAttribute("aria-pressed")).toBe("true");
  expect(count(".lw-arcs path")).toBe(2);
  // another cell has none of it until it is asked about
  await open(2, 1);
  expect(count(".lw-colhead.is-read")).toBe(2);
  expect(count(".lw-arcs path")).toBe(0);
  await click("Why");
  expect(count(".is-read, .lw-readcolumn")).toBe(0);
});
