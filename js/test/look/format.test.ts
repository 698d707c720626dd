import { expect, test } from "vitest";
import { percent, rankText, signedPercent, toNumber } from "../../src/look/format.ts";

test("a smaller probability never reads as a larger one", () => {
  const said = [1, 0.9997, 0.9994, 0.682, 0.0721, 0.0073, 0.000607, 0.0000123, 2.1e-9, 0].map(percent);
  expect(said.join(", ")).toBe(
    "100 %, >99.9 %, 99.9 %, 68.2 %, 7.21 %, 0.730 %, 0.0607 %, 0.00123 %, 2.1e-7 %, 0 %",
  );
  expect([0.162, -0.0007].map(signedPercent)).toEqual(["+16.2 pp", "−0.0700 pp"]);
  expect(rankText(0)).toBe("#1");
  expect([toNumber("Infinity"), toNumber("-Infinity"), toNumber(2)]).toEqual([
    Number.POSITIVE_INFINITY,
    Number.NEGATIVE_INFINITY,
    2,
  ]);
  expect(toNumber("NaN")).toBeNaN();
});
