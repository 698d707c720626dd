import { type Child, h } from "../base/dom.ts";
import type { App } from "../state/context.ts";
import { button, toggle } from "./elements.ts";

const KEYS: readonly (readonly [keys: string, does: string])[] = [
  ["← → ↑ ↓", "move by a cell"],
  ["Home  End", "first or last column; with Ctrl, corner"],
  ["PageUp  PageDown", "move by a screenful"],
  ["Enter  Space", "decode the cell in the kernel"],
  ["k", "keep the card open"],
  ["p", "pin or unpin the cell’s top token"],
  ["t", "chart this position, or stop charting it"],
  ["e", "edit the run at this cell"],
  ["d", "flip between before, after and difference; or A, B and difference"],
  ["w", "why: what the card’s logit is made of"],
  ["y  P", "take this cell; put it here, as a patch"],
  ["m", "open a second prompt: patch from it, or map its effects"],
  ["f", "fold or unfold this message or picture"],
  ["F", "fold or unfold this pass of looped blocks"],
  ["T", "hide or show a chat’s template tokens"],
  ["s", "write the prompt out by its surprise, or stop that"],
  [",  .", "one token back or on"],
  ["b", "branch: go on with the cell’s token after its position"],
  ["/", "find any token"],
  ["[  ]", "narrower or wider columns"],
  ["Escape", "close what is open"],
  ["?", "this list"],
];

export function help(app: App): Child {
  if (app.get().panel !== "help") return null;
  return h(
    "section.lw-panel lw-help",
    { key: "help", "aria-label": "Keys" },
    h(
      "header.lw-cardhead",
      h("h3", "Keys in the grid"),
      button("×", () => toggle(app, "help"), { className: "lw-icon", title: "Close (Escape)" }),
    ),
    h(
      "dl",
      KEYS.map(([keys, does]) => [
        h(
          "dt",
          { key: keys },
          keys.split("  ").map((key, i) => [i > 0 && " ", h("kbd", { key }, key)]),
        ),
        h("dd", { key: `${keys} does` }, does),
      ]),
    ),
  );
}
