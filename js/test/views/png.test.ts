import { expect, test } from "vitest";
import { linesOf } from "../../src/views/png.ts";

/** Every letter one pixel wide. */
const pen = { measureText: (text: string) => ({ width: text.length }) as TextMetrics };

test("a prompt is broken at spaces, and within Chinese or Japanese anywhere", () => {
  expect(linesOf(pen, "The Eiffel Tower is", 11)).toEqual(["The Eiffel ", "Tower is"]);
  expect(linesOf(pen, "東京は日本の首都", 3)).toEqual(["東京は", "日本の", "首都"]);
});

test("a word wider than the line stands alone, and what does not fit into four lines is in the fourth", () => {
  expect(linesOf(pen, "a internationalisation b", 5)).toEqual(["a ", "internationalisation ", "b"]);
  const lines = linesOf(pen, "one two three four five six", 4);
  expect(lines).toHaveLength(4);
  expect(lines.join("")).toBe("one two three four five six");
});

test("line breaks and an empty prompt take no line of their own", () => {
  expect(linesOf(pen, "a\nb", 9)).toEqual(["a⏎ b"]);
  expect(linesOf(pen, "", 9)).toEqual([""]);
});
