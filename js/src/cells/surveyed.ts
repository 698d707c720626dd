import type { Binary } from "../kernel/protocol.ts";
import type { Contrast, StripInfo, SurveyHeader } from "../kernel/surveyTraits.ts";
import { clamp } from "../look/format.ts";
import { toBytes } from "./packed.ts";

/** Stand for a rank of this and more, for none at all, and for no layer. */
export const MOST_RANK = 65_534;
const NO_RANK = 65_535;
const NO_LAYER = 32_767;
/** A change of rank by this factor has the scale's strongest colour. */
const STRONGEST = Math.log(1000);

interface Strip extends StripInfo {
  readonly ranks: Uint16Array;
  readonly holds: Int16Array;
  readonly log_probs: Float32Array;
}

/** One strip of the picture: a model under a condition, or a difference of two. */
export interface Shown {
  readonly name: string;
  readonly layers: readonly number[];
  /** The strip that a click opens, and the one that is subtracted from it. */
  readonly strip: number;
  readonly base: number | null;
}

/** Copied, because a host's buffer may not be aligned for the element type. */
const copied = (buffer: Binary | undefined) => toBytes(buffer ?? "").slice().buffer;

/** The ranks of all prompts of a survey, by strip, column and row. */
export class Surveyed {
  readonly header: SurveyHeader;
  readonly #strips: readonly Strip[];
  readonly #groups: Uint16Array;

  constructor(header: SurveyHeader, buffers: readonly Binary[]) {
    this.header = header;
    this.#strips = header.strips.map((strip, i) => ({
      ...strip,
      ranks: new Uint16Array(copied(buffers[3 * i])),
      holds: new Int16Array(copied(buffers[3 * i + 1])),
      log_probs: new Float32Array(copied(buffers[3 * i + 2])),
    }));
    this.#groups = new Uint16Array(copied(buffers[3 * header.strips.length]));
  }

  group(column: number): number {
    return this.#groups[column] ?? 0;
  }

  /** A rank, `MOST_RANK` for that and more; null where there is none. */
  rank(strip: number, column: number, row: number): number | null {
    const { ranks, layers } = this.#strip(strip);
    const rank = ranks[column * layers.length + row] ?? NO_RANK;
    return rank === NO_RANK ? null : rank;
  }

  /** The layer from which on the answer holds; null for none. */
  holds(strip: number, column: number): number | null {
    const layer = this.#strip(strip).holds[column] ?? NO_LAYER;
    return layer === NO_LAYER ? null : layer;
  }

  log_prob(strip: number, column: number): number {
    return this.#strip(strip).log_probs[column] ?? Number.NaN;
  }

  has(strip: number, column: number): boolean {
    return this.rank(strip, column, 0) !== null;
  }

  /** Where a cell is on its scale, from 0 to 1: of a rank 1 is the top, of a difference the middle is no change. */
  position({ strip, base }: Shown, column: number, row: number): number | null {
    const rank = this.rank(strip, column, row);
    if (rank === null) return null;
    if (base === null) return 1 - clamp(Math.log1p(rank) / Math.log(this.header.d_vocab), 0, 1);
    const before = this.rank(base, column, row);
    if (before === null) return null;
    return clamp(0.5 + (Math.log1p(before) - Math.log1p(rank)) / (2 * STRONGEST), 0, 1);
  }

  /** The strips to draw: one for each model and condition, or for each difference. */
  shown(contrast: Contrast | null): Shown[] {
    const { strips } = this.header;
    const nameOf = ({ model, condition }: StripInfo) =>
      condition === "plain" ? model : `${model}, ${condition}`;
    if (!contrast)
      return strips.map((each, strip) => ({ name: nameOf(each), layers: each.layers, strip, base: null }));
    return strips.flatMap((each, strip) => {
      const base = strips.findIndex((other) =>
        contrast === "edits"
          ? other.model === each.model && other.condition === "plain"
          : other.model === strips[0]?.model && other.condition === each.condition,
      );
      if (base < 0 || base === strip) return [];
      const of = strips[base] as StripInfo;
      const name = contrast === "edits" ? `${each.model}, edited − plain` : `${nameOf(each)} − ${of.model}`;
      return [{ name, layers: each.layers, strip, base }];
    });
  }

  /** The columns of the groups that are shown, by arrival in a strip, then by their last rank. */
  order(strip: number, isShown: (group: number) => boolean): Int32Array {
    const { holds, ranks, layers } = this.#strip(strip);
    const n_rows = layers.length;
    const columns = Int32Array.from({ length: this.header.n }, (_, column) => column).filter((column) =>
      isShown(this.group(column)),
    );
    const last = (column: number) => ranks[(column + 1) * n_rows - 1] ?? NO_RANK;
    return columns.sort((a, b) => (holds[a] ?? 0) - (holds[b] ?? 0) || last(a) - last(b) || a - b);
  }

  #strip(index: number): Strip {
    const strip = this.#strips[index];
    if (!strip) throw new Error(`The survey has no strip ${index}.`);
    return strip;
  }
}
