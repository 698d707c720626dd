import { expect, test } from "vitest";
import { MOST_RANK, Surveyed } from "../../src/cells/surveyed.ts";
import type { SurveyHeader } from "../../src/kernel/surveyTraits.ts";

const HEADER: SurveyHeader = {
  k: 1,
  lens: "logit",
  site: "resid_post",
  n: 3,
  n_failed: 0,
  groups: ["x", "y"],
  strips: [
    { model: "m", condition: "plain", layers: [-1, 0] },
    { model: "m", condition: "edited", layers: [-1, 0] },
    { model: "o", condition: "plain", layers: [-1, 0] },
  ],
  contrasts: ["edits"],
  metrics: ["pass"],
  d_vocab: 1000,
  rows: [0, 1, 2],
  prompts: ["a", "b", "c"],
  answers: ["A", "B", "C"],
};
const [NONE, NO_LAYER] = [65_535, 32_767];

function made(): Surveyed {
  const strip = (ranks: number[], holds: number[]) => [
    new Uint16Array(ranks).buffer,
    new Int16Array(holds).buffer,
    new Float32Array([-1, -2, -3]).buffer,
  ];
  return new Surveyed(HEADER, [
    ...strip([999, 7, 3, 0, 5, 0], [NO_LAYER, 0, 0]),
    ...strip([999, 7, 3, 9, NONE, NONE], [NO_LAYER, NO_LAYER, NO_LAYER]),
    ...strip([MOST_RANK, 0, 1, 0, 2, 0], [0, 0, 0]),
    new Uint16Array([0, 1, 0]).buffer,
  ]);
}

test("columns are in the order of their arrival, then of their last rank, without those of hidden groups", () => {
  const surveyed = made();
  expect([...surveyed.order(0, () => true)]).toEqual([1, 2, 0]);
  expect([...surveyed.order(0, (group) => group === 0)]).toEqual([2, 0]);
});

test("a rank that was not measured is none, and the scale begins at the top token", () => {
  const surveyed = made();
  expect(surveyed.rank(1, 2, 0)).toBeNull();
  expect([surveyed.holds(0, 0), surveyed.holds(0, 1)]).toEqual([null, 0]);
  const [shown] = surveyed.shown(null);
  if (!shown) throw new Error("no strip");
  expect(surveyed.position(shown, 1, 1)).toBe(1);
  expect(surveyed.position(shown, 0, 0)).toBeCloseTo(0, 2);
});

test("a difference is that of the edited strip and the plain one of its model", () => {
  const surveyed = made();
  const shown = surveyed.shown("edits");
  expect(shown.map(({ name, strip, base }) => [name, strip, base])).toEqual([["m, edited − plain", 1, 0]]);
  const [difference] = shown;
  if (!difference) throw new Error("no difference");
  expect(surveyed.position(difference, 0, 1)).toBe(0.5);
  expect(surveyed.position(difference, 1, 1)).toBeLessThan(0.5);
  expect(surveyed.position(difference, 2, 0)).toBeNull();
  expect(surveyed.shown("models").map(({ strip, base }) => [strip, base])).toEqual([[2, 0]]);
});
