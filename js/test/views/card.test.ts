// @vitest-environment happy-dom
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { createApp } from "../../src/state/app.ts";
import { Root } from "../../src/views/root.ts";
import { duringTest } from "../duringtest.ts";
import { FakeKernel, type FakeOptions } from "../fakekernel.ts";

beforeEach(() => void vi.useFakeTimers());
afterEach(() => void vi.useRealTimers());

/** A drawn widget, with a kernel that answers when it is told. */
async function openWidget(options: FakeOptions = {}) {
  const kernel = new FakeKernel(options);
  const host = document.createElement("div");
  document.body.replaceChildren(host);
  let root: Root | null = null;
  const app = createApp(kernel, () => root?.draw(), duringTest());
  root = new Root(app, host);
  app.flush();
  await vi.advanceTimersByTimeAsync(50);
  kernel.isSilent = true;
  const card = () => root.element.querySelector("[data-card=main]") as HTMLElement;
  const press = async (layer: number, position: number) => {
    app.dispatch({ type: "open", cell: { layer, position } });
    await vi.advanceTimersByTimeAsync(20);
  };
  const reply = async () => {
    const message = kernel.sent.findLast(({ kind }) => kind === "decode");
    kernel.reply(message as never);
    await vi.advanceTimersByTimeAsync(0);
  };
  return { kernel, app, root, card, press, reply };
}

const rows = (card: Element) => [...card.querySelectorAll("tbody tr")];
const isBlank = (row: Element) => row.classList.contains("is-blank");
const texts = (row: Element | undefined) => [...(row?.children ?? [])].map((cell) => cell.textContent);

test("a press opens the card with the grid's own tokens, marked as decoding, and room for the kernel's", async () => {
  const { app, card, press } = await openWidget();
  await press(3, 2);
  expect(card().getAttribute("aria-busy")).toBe("true");
  expect(card().textContent).toContain("decoding…");
  expect(card().querySelector(".is-stale")).not.toBeNull();
  const { k, card_k } = app.traits();
  expect(rows(card())).toHaveLength(card_k);
  expect(rows(card()).filter((row) => !isBlank(row))).toHaveLength(k);
  const top = app.cells()?.top(app.traits(), 3, 2);
  expect(texts(rows(card())[0])[1]).toBe(app.cells()?.label(top?.id ?? -1)[0]);
  expect(card().querySelectorAll(".lw-moved li.is-blank")).toHaveLength(10);
});

test("the kernel's numbers fill the nodes that the press laid out", async () => {
  const { card, press, reply, kernel } = await openWidget();
  await press(3, 2);
  const before = new Set(card().querySelectorAll("*"));
  const laidOut = [...card().querySelectorAll("tr, li")];
  await reply();
  expect(card().getAttribute("aria-busy")).toBe("false");
  expect([...card().querySelectorAll("tr, li")]).toEqual(laidOut);
  expect(card().querySelectorAll(".is-blank, .is-stale")).toHaveLength(0);
  const news = [...card().querySelectorAll("*")].filter((element) => !before.has(element));
  // a mark on the token that comes next, at most
  expect(news.filter((element) => !element.matches(".lw-tag"))).toEqual([]);
  const found = kernel.values.decoded as { labels: string[][] };
  expect(rows(card()).map((row) => texts(row)[1]?.replace(/next$/, ""))).toEqual(
    found.labels.map(([text]) => text),
  );
});

test("a second press reuses the nodes of the first card", async () => {
  const { card, press, reply } = await openWidget();
  await press(3, 2);
  await reply();
  const laidOut = [...card().querySelectorAll("tr, li")];
  await press(5, 4);
  expect(card().getAttribute("aria-label")).toBe("Decoded cell, layer 5, position 4");
  expect([...card().querySelectorAll("tr, li")]).toEqual(laidOut);
});

test("a reply changes the card alone", async () => {
  const { app, root, press, reply, card } = await openWidget();
  app.dispatch({ type: "pin", ids: [2], label: "␣Paris" });
  await press(1, 1);
  await reply();
  app.dispatch({ type: "keep" });
  await press(3, 2);
  expect(root.element.querySelectorAll(".lw-kept .lw-card, .lw-pin")).toHaveLength(2);
  const changed: Node[] = [];
  const observer = new MutationObserver((records) => changed.push(...records.map(({ target }) => target)));
  observer.observe(root.element, { subtree: true, childList: true, attributes: true, characterData: true });
  await reply();
  await vi.advanceTimersByTimeAsync(50);
  observer.disconnect();
  expect(changed.length).toBeGreaterThan(0);
  expect(changed.filter((node) => !card().contains(node))).toEqual([]);
});

test("numbers of another temperature than the grid's are not shown in its place", async () => {
  const { kernel, root } = await openWidget();
  const ref = { layer: 3, position: 2, site: "resid_post", lens: "logit", k: 8, temperature: 2 };
  kernel.change({ cards: [ref] });
  await vi.advanceTimersByTimeAsync(50);
  const kept = root.element.querySelector(".lw-kept .lw-card") as Element;
  expect(rows(kept).map(isBlank)).toEqual(Array(8).fill(true));
});

test("the notes of a run are shown, that an edit is not run, and what it would drop", async () => {
  const { app, root } = await openWidget({ extras: ["pixel_values"] });
  const said = () => root.element.querySelector(".lw-top")?.textContent ?? "";
  const sentence = "Running this text drops pixel_values, which came with the prompt.";
  expect(said()).toContain("pixel_values came with the prompt");
  expect(said()).not.toContain("edited, not run");
  app.dispatch({ type: "draft", text: "Another text" });
  await vi.advanceTimersByTimeAsync(50);
  expect(said()).toContain("edited, not run");
  expect(said()).toContain(sentence);
});
