import type { Label, RunInfo } from "./protocol.ts";

/** A probability as people read it: "43.2 %", "0.3 %", "<0.01 %". */
export function percent(p: number): string {
  if (Number.isNaN(p)) return "NaN";
  const value = p * 100;
  if (value >= 99.95 && value < 100) return ">99.9 %";
  if (value >= 10) return `${value.toFixed(1)} %`;
  if (value >= 0.095) return `${value.toFixed(2)} %`;
  if (value >= 0.00095) return `${value.toFixed(4)} %`;
  return value === 0 ? "0 %" : `${value.toExponential(1)} %`;
}

export function fixed(x: number | null | undefined, digits = 2): string {
  if (x === null || x === undefined) return "–";
  if (Number.isNaN(x)) return "NaN";
  if (!Number.isFinite(x)) return x > 0 ? "∞" : "−∞";
  return x.toFixed(digits).replace("-", "−");
}

/** A change of probability: "+16.2 %". */
export function signedPercent(x: number): string {
  return `${x < 0 ? "−" : "+"}${percent(Math.abs(x))}`;
}

/** A rank, 0 being the top: "#1" for people. */
export function rankText(rank: number | null | undefined): string {
  return rank === null || rank === undefined ? "–" : `#${(rank + 1).toLocaleString("en")}`;
}

export function layerName(layer: number): string {
  return layer < 0 ? "embed" : `${layer}`;
}

export function layerPhrase(layer: number): string {
  return layer < 0 ? "embedding" : `layer ${layer}`;
}

/** How a token is spoken of in a sentence. */
export function quoted(label: Label): string {
  const [text, kind] = label;
  return kind === "text" || kind === "space" ? `“${text}”` : text;
}

/**
 * The character that a byte fragment of the prompt is part of, put together from the fragments around it; null
 * where they do not make a whole character.
 */
export function joined(run: RunInfo, position: number): string | null {
  const at = (i: number) => run.labels[String(run.tokens[i])];
  if (at(position)?.[1] !== "bytes") return null;
  let start = position;
  while (at(start - 1)?.[1] === "bytes") start--;
  let bytes: number[] = [];
  for (let i = start; at(i)?.[1] === "bytes"; i++) {
    bytes.push(...(at(i)?.[2].match(/[0-9a-f]{2}/gi) ?? []).map((hex) => Number.parseInt(hex, 16)));
    try {
      const character = new TextDecoder("utf-8", { fatal: true }).decode(Uint8Array.from(bytes));
      if (i >= position) return character;
      bytes = [];
    } catch {
      // not whole yet
    }
  }
  return null;
}
