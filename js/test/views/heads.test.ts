import { expect, test } from "vitest";
import type { Band, RunInfo } from "../../src/kernel/protocol.ts";
import { DEFAULTS } from "../../src/kernel/traits.ts";
import { shapeOf } from "../../src/look/layout.ts";
import { isTarget } from "../../src/state/selectors.ts";
import { targetName, whereIs } from "../../src/views/describe.ts";
import { headOf, roleAt } from "../../src/views/heads.ts";
import { cutStrips } from "../../src/views/png.ts";
import { FakeKernel } from "../fakekernel.ts";

const band = (start: number, stop: number, kind: Band["kind"], label: string = kind): Band => ({
  start,
  stop,
  kind,
  label,
  is_folded: false,
});
const plain = new FakeKernel({ n_layers: 6 }).run;
const looped: RunInfo = {
  ...plain,
  rows: Array.from({ length: 6 }, (_, layer) => ({
    name: `${Math.floor(layer / 3)}.${layer % 3}`,
    phrase: `pass ${Math.floor(layer / 3)}, block ${layer % 3}`,
    path: `blocks.${layer % 3}`,
  })),
  passes: [
    { start: 0, stop: 3, label: "pass 0" },
    { start: 3, stop: 6, label: "pass 1" },
  ],
};
const chat: RunInfo = {
  ...plain,
  bands: [band(0, 4, "message", "user"), band(0, 1, "template"), band(4, 9, "message", "assistant")],
};

test("a row of looped blocks is named by pass and block; the first of a pass has its name", () => {
  const shape = shapeOf(looped, DEFAULTS);
  const heads = shape.rows.map((_, index) => headOf(looped, shape, index, true));
  expect(heads.map(({ text }) => text)).toEqual(["1.2", "1.1", "1.0", "0.2", "0.1", "0.0", "embed"]);
  expect(heads.map(({ at }) => at)).toEqual(["▾ pass 1", "", "", "▾ pass 0", "", "", ""]);
  expect(heads[4]?.label).toBe("pass 0, block 1, blocks.1: layer 1");
  expect(heads[5]?.className).toContain("is-final");
  expect(heads[6]?.isFolded).toBeNull();
});

test("a folded pass says how many rows it stands for", () => {
  const shape = shapeOf(looped, { ...DEFAULTS, folded_passes: [0] });
  const head = headOf(looped, shape, 3, true);
  expect([head.text, head.at, head.isFolded]).toEqual(["0.2", "▸ pass 0", true]);
  expect(head.title).toBe("pass 0, block 2, blocks.2: layer 2, the last of 3 rows of this pass");
});

test("a turned grid has the same names, from the first pass on", () => {
  const shape = shapeOf(looped, { ...DEFAULTS, orientation: "tokens" });
  const heads = shape.cols.map((_, index) => headOf(looped, shape, index, true));
  expect(heads.map(({ text }) => text)).toEqual(["embed", "0.0", "0.1", "0.2", "1.0", "1.1", "1.2"]);
  expect(heads[1]?.className).toContain("is-first");
});

test("rows of other models keep their plain numbers", () => {
  const shape = shapeOf(plain, DEFAULTS);
  expect(headOf(plain, shape, 0, true)).toMatchObject({ text: "5", at: "", label: "", isFolded: null });
  expect(shape.head_col_px).toBe(58);
});

test("a column of a chat says whose it is, and whether the template put it there", () => {
  const shape = shapeOf(chat, DEFAULTS);
  expect(headOf(chat, shape, 0, false)).toMatchObject({ at: "0", isFolded: false });
  expect(headOf(chat, shape, 0, false).label).toBe("position 0, <|im_start|>, template of user");
  expect(headOf(chat, shape, 2, false).label).toBe("position 2, “␣Eiffel”, user");
  expect(headOf(chat, shape, 2, false).className).not.toContain("is-template");
  expect([0, 3, 4].map((position) => roleAt(chat, position))).toEqual([
    "template of user",
    "user",
    "assistant",
  ]);
  expect(roleAt(plain, 3)).toBe("");
  expect(whereIs(chat, { layer: 2, position: 5 })).toBe("layer 2, position 5 (assistant) after “␣in”");
});

test("a folded message is named with its columns and its last token", () => {
  const shape = shapeOf(chat, { ...DEFAULTS, folded_bands: [2] });
  const head = headOf(chat, shape, 4, false);
  expect([head.text, head.at, head.isFolded]).toEqual(["…·of", "4–8", true]);
  expect(head.title).toBe("message of assistant, 5 columns, folded; its last is “␣of”");
});

test("a picture's columns are called by their patches", () => {
  const names = ["row 0, column 0", "row 0, column 1"];
  const run = { ...plain, bands: [{ ...band(3, 5, "image"), names }] };
  const head = headOf(run, shapeOf(run, DEFAULTS), 4, false);
  expect(head.text).toBe("row 0, column 1");
  expect(head.title).toContain("row 0, column 1");
});

test("a masked language model speaks of the token that stands there", () => {
  const masked: RunInfo = { ...plain, predicts: "same" };
  const [, first = -1, second = -1] = plain.tokens;
  expect([isTarget(plain, 1, first), isTarget(plain, 1, second)]).toEqual([false, true]);
  expect([isTarget(masked, 1, first), isTarget(masked, 1, second)]).toEqual([true, false]);
  // the last column has a token too, and nothing follows it
  expect(isTarget(masked, 8, plain.tokens[8] ?? -1)).toBe(true);
  expect([targetName(plain), targetName(masked)]).toEqual(["the next token", "the token that stands there"]);
  expect(whereIs(masked, { layer: 0, position: 2 })).toBe("layer 0, position 2 at “␣Eiffel”");
  expect(headOf(masked, shapeOf(masked, DEFAULTS), 2, false).title).toBe(
    "“␣Eiffel”; its cells say what stands here",
  );
});

test("a picture of some columns has the parts of the strips that lie over them", () => {
  const { strips } = shapeOf(chat, DEFAULTS);
  expect(cutStrips(strips, 3, 4).map(({ from, to }) => [from, to])).toEqual([
    [0, 1],
    [1, 4],
  ]);
  expect(cutStrips(strips, 5, 2).map(({ from, to }) => [from, to])).toEqual([[0, 2]]);
});
