import { expect, test } from "vitest";
import { wrapText } from "../../src/views/png.ts";

/** Every letter one pixel wide. */
const pen = { measureText: (text: string) => ({ width: text.length }) as TextMetrics };

test("a prompt is broken at spaces, and within Chinese or Japanese anywhere", () => {
  expect(wrapText(pen, "The Eiffel Tower is", 11)).toEqual(["The Eiffel ", "Tower is"]);
  expect(wrapText(pen, "東京は日本の首都", 3)).toEqual(["東京は", "日本の", "首都"]);
});

test("a word wider than the line stands alone, and the fourth line takes all that is left", () => {
  expect(wrapText(pen, "a internationalisation b", 5)).toEqual(["a ", "internationalisation ", "b"]);
  const lines = wrapText(pen, "one two three four five six", 4);
  expect(lines).toHaveLength(4);
  expect(lines.join("")).toBe("one two three four five six");
});

test("line breaks and an empty prompt take no line of their own", () => {
  expect(wrapText(pen, "a\nb", 9)).toEqual(["a⏎ b"]);
  expect(wrapText(pen, "", 9)).toEqual([""]);
});
