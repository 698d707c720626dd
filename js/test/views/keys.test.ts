import { expect, test } from "vitest";
import { keyTarget } from "../../src/views/keys.ts";

test("keys move within the grid and stop at its edges", () => {
  const size = { rows: 31, cols: 9, page: 10 };
  expect(keyTarget("ArrowUp", false, { row: 0, col: 4 }, size)).toEqual({ row: 0, col: 4 });
  expect(keyTarget("End", true, { row: 3, col: 4 }, size)).toEqual({ row: 30, col: 8 });
  expect(keyTarget("PageDown", false, { row: 25, col: 4 }, size)).toEqual({ row: 30, col: 4 });
  expect(keyTarget("ArrowLeft", true, { row: 25, col: 4 }, size)).toBeNull();
  expect(keyTarget("x", false, { row: 25, col: 4 }, size)).toBeNull();
});
