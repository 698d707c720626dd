import type { JsonNumber, Label, RunInfo } from "../kernel/protocol.ts";

/** In place of a number that is not known. */
export const UNKNOWN = Number.NaN;
/** Where a scale from 0 to 1 has ticks. */
export const QUARTERS = [0, 0.25, 0.5, 0.75, 1];

export function clamp(x: number, low: number, high: number): number {
  return Math.max(low, Math.min(high, x));
}

/** A number from JSON, which carries NaN and infinities as text. A missing number is NaN. */
export function toNumber(x: JsonNumber | undefined): number {
  return Number(x ?? UNKNOWN);
}

/** A probability to three digits: "43.2 %", "0.730 %", "2.1e-5 %", ">99.9 %". */
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

/** With its sign, "+1.20". */
export function signed(x: number, digits = 2): string {
  return x < 0 || Number.isNaN(x) ? fixed(x, digits) : `+${fixed(x, digits)}`;
}

/** A log-prob as a probability in percent. */
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

/** A rank for people, who count from 1: rank 0 is "#1". */
export function rankText(rank: number | null | undefined): string {
  return rank != null && rank >= 0 ? `#${(rank + 1).toLocaleString("en")}` : "–";
}

/** A whole number in raised digits. */
export function superscript(n: number): string {
  return String(n).replace(/\d/g, (digit) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[Number(digit)] ?? "");
}

/** Of a run, what each layer is, where blocks run in a loop. */
type Looped = { readonly rows?: RunInfo["rows"] | undefined };

/** A layer in a head: its number, or pass and block where blocks run in a loop. */
export function layerName(layer: number, run?: Looped): string {
  return layer < 0 ? "embed" : (run?.rows?.[layer]?.name ?? `${layer}`);
}

/** A layer in a sentence: "layer 7", or "pass 2, block 3 (layer 7)". */
export function layerPhrase(layer: number, run?: Looped): string {
  if (layer < 0) return "embedding";
  const phrase = run?.rows?.[layer]?.phrase;
  return phrase ? `${phrase} (layer ${layer})` : `layer ${layer}`;
}

export function tokenCount(n: number): string {
  return `${n} token${n > 1 ? "s" : ""}`;
}

/** A token as it stands in a sentence: text in quotes, special tokens and bytes without. */
export function quoted(label: Label): string {
  const [text, kind] = label;
  return kind === "text" || kind === "space" ? `“${text}”` : text;
}
