// @vitest-environment happy-dom
import { expect, test, vi } from "vitest";
import { delegate, h, patch } from "../../src/base/dom.ts";

test("a child of the same key keeps its node, and with it focus and scroll", () => {
  const root = document.createElement("div");
  patch(root, [h("input", { key: "a" }), h("p", { key: "b" }, "one")]);
  const [input, p] = root.children;
  patch(root, [h("p", { key: "b" }, "two"), null, h("input", { key: "a" })]);
  expect([...root.children]).toEqual([p, input]);
  expect(p?.textContent).toBe("two");
});

test("text is never read as HTML", () => {
  const root = document.createElement("div");
  patch(root, [h("p.lw-token", { title: "<b>" }, "<img src=x onerror=alert(1)>")]);
  expect(root.getElementsByTagName("img").length).toBe(0);
  expect(root.textContent).toBe("<img src=x onerror=alert(1)>");
});

test("twenty redraws leave as many listeners as one, and none after closing", () => {
  const root = document.createElement("div");
  const controller = new AbortController();
  const add = vi.spyOn(EventTarget.prototype, "addEventListener");
  delegate(root, ["click"], controller.signal);
  const attached = add.mock.calls.length;
  const clicked = vi.fn();
  for (let i = 0; i < 20; i++) patch(root, [h("button", { on: { click: () => clicked(i) } }, `${i}`)]);
  expect(add.mock.calls.length).toBe(attached);
  root.firstElementChild?.dispatchEvent(new Event("click", { bubbles: true, composed: true }));
  expect(clicked.mock.calls).toEqual([[19]]);
  controller.abort();
  root.firstElementChild?.dispatchEvent(new Event("click", { bubbles: true, composed: true }));
  expect(clicked).toHaveBeenCalledTimes(1);
  add.mockRestore();
});

test("a typed value is not overwritten by the same state, and is by a new one", () => {
  const root = document.createElement("div");
  patch(root, [h("input", { value: "a" })]);
  const input = root.firstElementChild as HTMLInputElement;
  input.value = "typed";
  patch(root, [h("input", { value: "typed" })]);
  expect(input.value).toBe("typed");
  patch(root, [h("input", { value: "b" })]);
  expect(input.value).toBe("b");
});
