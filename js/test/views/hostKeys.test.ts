// @vitest-environment happy-dom
import { expect, test } from "vitest";
import { isUsed } from "../../src/views/hostKeys.ts";

const HTML = `<div role="grid"><i role="gridcell"></i></div><textarea></textarea><input type="search">
  <select></select><button></button><input type="checkbox"><div class="scroll" tabindex="0"></div>`;

function parts(): Record<string, Element> {
  document.body.innerHTML = HTML;
  const at = (selector: string) => document.querySelector(selector) as Element;
  const selectors = { cell: "[role=gridcell]", box: "textarea", search: "[type=search]", choice: "select" };
  const others = { button: "button", check: "[type=checkbox]", scroll: ".scroll" };
  return Object.fromEntries(
    Object.entries({ ...selectors, ...others }).map(([name, selector]) => [name, at(selector)]),
  );
}

function usedBy(key: string, options: KeyboardEventInit = {}): string[] {
  const event = new KeyboardEvent("keydown", { key, ...options });
  // happy-dom takes Alt for AltGr
  event.getModifierState = () => false;
  return Object.entries(parts())
    .filter(([, element]) => isUsed(event, element))
    .map(([name]) => name);
}
const ALL = Object.keys(parts());

test("function keys, Tab and chords of the host are used nowhere", () => {
  for (const key of ["F1", "F2", "F5", "F12", "Escape", "Tab", "ContextMenu", "AudioVolumeUp", "Control"])
    expect(usedBy(key), key).toEqual([]);
  for (const key of ["s", "p", "a", "P"]) {
    expect(usedBy(key, { ctrlKey: true })).toEqual([]);
    expect(usedBy(key, { metaKey: true })).toEqual([]);
    expect(usedBy(key, { altKey: true })).toEqual([]);
  }
});

test("a letter is used everywhere, since hosts cut cells with letters", () => {
  for (const key of ["x", "d", "/", " ", "é"]) expect(usedBy(key)).toEqual(ALL);
  // written with Option on a Mac
  expect(usedBy("∂", { altKey: true })).toEqual(ALL);
  expect(usedBy("Dead")).toEqual(ALL);
});

test("Enter is used where it does something, with Ctrl in the prompt box alone", () => {
  expect(usedBy("Enter")).toEqual(["cell", "box", "search", "choice", "button"]);
  expect(usedBy("Enter", { shiftKey: true })).toContain("cell");
  expect(usedBy("Enter", { ctrlKey: true })).toEqual(["box"]);
  expect(usedBy("Enter", { altKey: true })).toEqual([]);
});

test("keys that move are used where something moves", () => {
  expect(usedBy("ArrowDown")).toEqual(["cell", "box", "search", "choice", "scroll"]);
  expect(usedBy("PageDown")).toEqual(["cell", "box", "choice", "scroll"]);
  expect(usedBy("End", { ctrlKey: true })).toEqual(["cell", "box", "search"]);
  expect(usedBy("ArrowDown", { altKey: true })).toEqual(["choice"]);
  expect(usedBy("Backspace")).toEqual(["box", "search"]);
});
