/**
 * Colour scales, linear in OKLab lightness, so that equal steps of value look like equal steps. Lightness alone carries
 * the order, so a reader who confuses the hues still sees it.
 */

import { clamp } from "./format.ts";

export type Theme = "light" | "dark";
export type ScaleName = "probability" | "spread" | "distance" | "rank" | "agreement" | "change";

export interface Color {
  readonly css: string;
  /** Black or white, whichever reads better on it: at least 4.5 to 1. */
  readonly ink: "#000" | "#fff";
}

interface Ends {
  /** Hue at the low and the high end, degrees; chroma at the high end. */
  readonly hues: readonly [number, number];
  readonly chroma: number;
}

const ENDS: Record<Exclude<ScaleName, "change">, Ends> = {
  probability: { hues: [215, 262], chroma: 0.15 },
  spread: { hues: [85, 30], chroma: 0.14 },
  distance: { hues: [330, 300], chroma: 0.15 },
  rank: { hues: [170, 200], chroma: 0.1 },
  agreement: { hues: [180, 195], chroma: 0.09 },
};

/** Lightness at both ends, per theme: the low end is near the page's background, the high end far from it. */
const LIGHTNESS: Record<Theme, readonly [number, number]> = { light: [0.975, 0.42], dark: [0.25, 0.86] };

const STEPS = 64;
const SPREAD_OF_HUE = 0.02;

function oklchToLinear(l: number, c: number, h: number): [number, number, number] {
  const a = c * Math.cos((h * Math.PI) / 180);
  const b = c * Math.sin((h * Math.PI) / 180);
  const l_ = (l + 0.3963377774 * a + 0.2158037573 * b) ** 3;
  const m_ = (l - 0.1055613458 * a - 0.0638541728 * b) ** 3;
  const s_ = (l - 0.0894841775 * a - 1.291485548 * b) ** 3;
  return [
    4.0767416621 * l_ - 3.3077115913 * m_ + 0.2309699292 * s_,
    -1.2684380046 * l_ + 2.6097574011 * m_ - 0.3413193965 * s_,
    -0.0041960863 * l_ - 0.7034186147 * m_ + 1.707614701 * s_,
  ];
}

const inGamut = (rgb: readonly number[]) => rgb.every((x) => x > -1e-4 && x < 1 + 1e-4);
const toSrgb = (x: number) => (x <= 0.0031308 ? 12.92 * x : 1.055 * x ** (1 / 2.4) - 0.055);
const toLinear = (x: number) => (x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4);

/** Relative luminance of 8-bit sRGB, as WCAG defines it. */
export function luminance(rgb: readonly number[]): number {
  const [r = 0, g = 0, b = 0] = rgb.map((x) => toLinear(x / 255));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}

/** 8-bit sRGB of an OKLCH colour; chroma is lowered until the colour is in gamut. */
function oklchToRgb(l: number, c: number, h: number): [number, number, number] {
  let chroma = c;
  let linear = oklchToLinear(l, chroma, h);
  while (!inGamut(linear) && chroma > 0) {
    chroma = Math.max(0, chroma - 0.005);
    linear = oklchToLinear(l, chroma, h);
  }
  return linear.map((x) => Math.round(255 * toSrgb(clamp(x, 0, 1)))) as [number, number, number];
}

/** Fall and rise around the page's background, which stands for no change; dark at both ends, so lightness is size. */
const FALL: Ends = { hues: [55, 40], chroma: 0.15 };
const RISE: Ends = { hues: [235, 255], chroma: 0.15 };

function divergingRamp(theme: Theme): readonly Color[] {
  const half = (ends: Ends) => rampOf(ends, theme).filter((_, i) => i % 2 === 0);
  return [...half(FALL).reverse(), ...half(RISE).slice(1)];
}

function makeRamp(name: ScaleName, theme: Theme): readonly Color[] {
  return name === "change" ? divergingRamp(theme) : rampOf(ENDS[name], theme);
}

function rampOf({ hues, chroma }: Ends, theme: Theme): readonly Color[] {
  const [low, high] = LIGHTNESS[theme];
  return Array.from({ length: STEPS + 1 }, (_, i) => {
    const t = i / STEPS;
    const l = low + t * (high - low);
    const c = SPREAD_OF_HUE * (1 - t) + chroma * Math.sin((t * Math.PI) / 1.6);
    const rgb = oklchToRgb(
      l,
      Math.max(0, t === 0 ? 0.004 : c * Math.min(1, t * 3)),
      hues[0] + t * (hues[1] - hues[0]),
    );
    const y = luminance(rgb);
    return { css: `rgb(${rgb.join(" ")})`, ink: (y + 0.05) / 0.05 >= 1.05 / (y + 0.05) ? "#000" : "#fff" };
  });
}

const ramps = new Map<string, readonly Color[]>();

/** The colours of a scale from low to high, evenly spaced. */
export function ramp(name: ScaleName, theme: Theme): readonly Color[] {
  const key = `${name} ${theme}`;
  let colors = ramps.get(key);
  if (!colors) {
    colors = makeRamp(name, theme);
    ramps.set(key, colors);
  }
  return colors;
}

/** The colour at `t` in [0, 1] (clamped). */
export function colorAt(name: ScaleName, theme: Theme, t: number): Color {
  const colors = ramp(name, theme);
  const color = colors[Math.round(clamp(t, 0, 1) * STEPS)];
  if (!color) throw new Error(`No colour at ${t}`);
  return color;
}

/** Colours of pins: Okabe and Ito's set, which people with any colour vision can tell apart; lightness per theme. */
const PINS: Record<Theme, readonly string[]> = {
  light: ["#c04000", "#0062a8", "#00795a", "#a3357f", "#7a5b00", "#00788f", "#5a3fc0", "#555555"],
  dark: ["#ff9b57", "#6cbcf5", "#3fd0a3", "#f093cf", "#f0d64a", "#62d8ee", "#b3a1ff", "#c8c8c8"],
};
export const N_PIN_COLORS = PINS.light.length;

export function pinColor(index: number, theme: Theme): string {
  return PINS[theme][index % N_PIN_COLORS] ?? "currentColor";
}

/** Colours of the strips over a prompt's messages and pictures; quieter than the pins, since the text names them. */
const BANDS: Record<Theme, readonly string[]> = {
  light: ["#5b6b82", "#0f766e", "#7a4fb5", "#9a5b13", "#a63a63"],
  dark: ["#9fb0c8", "#5cc9bd", "#c3a4f2", "#e2b267", "#f097b8"],
};

export function bandColor(index: number, theme: Theme): string {
  return BANDS[theme][index % BANDS[theme].length] ?? "currentColor";
}
