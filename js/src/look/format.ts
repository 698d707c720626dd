import type { JsonNumber, Label } from "../kernel/protocol.ts";

/** Stands for a number that is not known. */
export const UNKNOWN = Number.NaN;
/** Where a scale from nothing to all is named. */
export const QUARTERS = [0, 0.25, 0.5, 0.75, 1];

export function clamp(x: number, low: number, high: number): number {
  return Math.max(low, Math.min(high, x));
}

/** A number as JSON carries it: what JSON lacks comes as text, "NaN" or "-Infinity". NaN for what is not there. */
export function toNumber(x: JsonNumber | undefined): number {
  return Number(x ?? UNKNOWN);
}

/** A probability as people read it, three digits of it: "43.2 %", "0.730 %", "2.1e-5 %", ">99.9 %". */
export function percent(p: number): string {
  if (Number.isNaN(p)) return "NaN";
  const value = p * 100;
  if (value >= 99.95 && value < 100) return ">99.9 %";
  if (!value) return "0 %";
  return `${value < 0.001 ? value.toExponential(1) : value.toPrecision(3)} %`;
}

export function fixed(x: number | null | undefined, digits = 2): string {
  if (x === null || x === undefined) return "–";
  if (Number.isNaN(x)) return "NaN";
  if (!Number.isFinite(x)) return x > 0 ? "∞" : "−∞";
  return x.toFixed(digits).replace("-", "−");
}

/** A log-prob as the probability that people read. */
export function asPercent(log_prob: JsonNumber | undefined): string {
  return percent(Math.exp(toNumber(log_prob)));
}

export function nats(x: number, digits = 2): string {
  return `${fixed(x, digits)} nats`;
}

/** A change of probability, in percentage points: "+16.2 pp". */
export function signedPercent(x: number): string {
  return `${x < 0 ? "−" : "+"}${percent(Math.abs(x)).replace("%", "pp")}`;
}

/** A rank, 0 being the top: "#1" for people. */
export function rankText(rank: number | null | undefined): string {
  return rank != null && rank >= 0 ? `#${(rank + 1).toLocaleString("en")}` : "–";
}

export function layerName(layer: number): string {
  return layer < 0 ? "embed" : `${layer}`;
}

export function layerPhrase(layer: number): string {
  return layer < 0 ? "embedding" : `layer ${layer}`;
}

export function tokenCount(n: number): string {
  return `${n} token${n > 1 ? "s" : ""}`;
}

/** How a token is spoken of in a sentence. */
export function quoted(label: Label): string {
  const [text, kind] = label;
  return kind === "text" || kind === "space" ? `“${text}”` : text;
}
