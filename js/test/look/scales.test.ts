import { expect, test } from "vitest";
import {
  colorAt,
  luminance,
  N_PIN_COLORS,
  pinColor,
  ramp,
  type ScaleName,
  type Theme,
} from "../../src/look/scales.ts";

const NAMES: ScaleName[] = ["probability", "spread", "distance", "rank", "agreement"];
const THEMES: Theme[] = ["light", "dark"];
const ALL = NAMES.flatMap((name) => THEMES.map((theme) => [name, theme] as const));
const rgbOf = (css: string) => (css.match(/\d+/g) ?? []).map(Number);

/** OKLab lightness of 8-bit sRGB, from the published matrices rather than the code under test. */
function lightness(css: string): number {
  const [r = 0, g = 0, b = 0] = rgbOf(css).map((x) =>
    x / 255 <= 0.04045 ? x / 255 / 12.92 : ((x / 255 + 0.055) / 1.055) ** 2.4,
  );
  const l = Math.cbrt(0.4122214708 * r + 0.5363325363 * g + 0.0514459929 * b);
  const m = Math.cbrt(0.2119034982 * r + 0.6806995451 * g + 0.1073969566 * b);
  const s = Math.cbrt(0.0883024619 * r + 0.2817188376 * g + 0.6299787005 * b);
  return 0.2104542553 * l + 0.793617785 * m - 0.0040720468 * s;
}

/** How a colour looks to someone without red-green discrimination (Viénot, Brettel and Mollon 1999), as lightness. */
function deuteranopeLightness(css: string): number {
  const [r = 0, g = 0, b = 0] = rgbOf(css).map((x) => (x / 255) ** 2.2);
  const yellow = 0.29275 * r + 0.70725 * g;
  const blue = -0.02234 * r + 0.02234 * g + b;
  return lightness(
    `rgb(${[yellow, yellow, blue].map((x) => Math.round(255 * Math.max(0, x) ** (1 / 2.2))).join(" ")})`,
  );
}

test.each(ALL)("%s, %s: equal steps of value are equal steps of lightness", (name, theme) => {
  const steps = ramp(name, theme).map(({ css }) => lightness(css));
  const mean = ((steps.at(-1) ?? 0) - (steps[0] ?? 0)) / (steps.length - 1);
  for (let i = 4; i < steps.length; i++) {
    const step = ((steps[i] ?? 0) - (steps[i - 4] ?? 0)) / 4;
    // 8-bit channels round each colour by up to half a step in 255
    expect(Math.abs(step / mean - 1)).toBeLessThan(0.25);
  }
});

test.each(ALL)("%s, %s: the order survives red-green blindness", (name, theme) => {
  const steps = ramp(name, theme)
    .filter((_, i) => i % 4 === 0)
    .map(({ css }) => deuteranopeLightness(css));
  const sign = theme === "light" ? -1 : 1;
  for (let i = 1; i < steps.length; i++)
    expect(sign * ((steps[i] ?? 0) - (steps[i - 1] ?? 0))).toBeGreaterThan(0);
});

test.each(ALL)("%s, %s: text has a contrast of at least 4.5 on every colour", (name, theme) => {
  for (const { css, ink } of ramp(name, theme)) {
    const y = luminance(rgbOf(css));
    const contrast = ink === "#000" ? (y + 0.05) / 0.05 : 1.05 / (y + 0.05);
    expect(contrast).toBeGreaterThanOrEqual(4.5);
  }
});

test("values beyond the ends take the ends' colours", () => {
  expect(colorAt("rank", "light", 7)).toEqual(colorAt("rank", "light", 1));
  expect(colorAt("rank", "light", -7)).toEqual(colorAt("rank", "light", 0));
});

test("pin colours are distinct and repeat after the last", () => {
  for (const theme of THEMES) {
    const colors = Array.from({ length: N_PIN_COLORS }, (_, i) => pinColor(i, theme));
    expect(new Set(colors).size).toBe(N_PIN_COLORS);
    expect(pinColor(N_PIN_COLORS, theme)).toBe(colors[0]);
  }
});
