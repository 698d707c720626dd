import type { Band, Pass, RunInfo } from "../kernel/protocol.ts";
import type { Traits } from "../kernel/traits.ts";

/** How high one line of strips over the columns is. */
export const STRIP_PX = 16;
/** What a template puts around messages is hidden as a whole, and has no strip. */
const HAS_STRIP = ({ kind }: Band) => kind !== "template";

type Banded = Pick<RunInfo, "tokens" | "special" | "bands">;
type Folds = Pick<Traits, "hide_special" | "hide_template" | "folded_bands">;

/** A band's strip over the columns from `from` up to `to`, in the shape's columns. */
export interface Strip {
  readonly index: number;
  readonly band: Band;
  readonly from: number;
  readonly to: number;
  /** The line of strips, from the top. */
  readonly line: number;
  /** Index into the colours of bands: one for each role, and for each other kind. */
  readonly color: number;
  readonly isFolded: boolean;
}

export interface Columns {
  /** The positions that have a column, in order. */
  readonly positions: readonly number[];
  /** The bands that are one column, by the position of that column: their last. */
  readonly folds: ReadonlyMap<number, Band>;
}

/** Whether the band at a place is shown as one column: as chosen, or else as it is at first. */
export function isFoldedBand(
  run: Pick<RunInfo, "bands">,
  index: number,
  chosen: Folds["folded_bands"],
): boolean {
  const band = run.bands?.[index];
  return !!band && HAS_STRIP(band) && (chosen ? chosen.includes(index) : band.is_folded);
}

/** The places of the bands that a position lies in and that fold, the widest first. */
export function bandsAt(run: Pick<RunInfo, "bands">, position: number): number[] {
  const bands = run.bands ?? [];
  return bands.flatMap((band, index) =>
    HAS_STRIP(band) && band.start <= position && position < band.stop ? [index] : [],
  );
}

/** The choice of folded bands with one of them the other way round. */
export function withBandToggled(
  run: Pick<RunInfo, "bands">,
  index: number,
  chosen: Folds["folded_bands"],
): number[] {
  const places = (run.bands ?? []).map((_, place) => place);
  return places.filter((place) => isFoldedBand(run, place, chosen) !== (place === index));
}

/** Per position whether a template of a chat put it there. */
export function isOfTemplate(run: Pick<RunInfo, "bands">, position: number): boolean {
  return (run.bands ?? []).some(
    ({ kind, start, stop }) => kind === "template" && start <= position && position < stop,
  );
}

/** The columns: without what is hidden, and with one for each band that is folded. Never none at all. */
export function shownColumns(run: Banded, traits: Folds): Columns {
  const all = run.tokens.map((_, position) => position);
  const bands = run.bands ?? [];
  const hidden = new Set(traits.hide_special ? all.filter((position) => run.special[position]) : []);
  if (traits.hide_template)
    for (const { kind, start, stop } of bands)
      if (kind === "template") for (let at = start; at < stop; at++) hidden.add(at);
  const seen = hidden.size ? all.filter((position) => !hidden.has(position)) : all;
  let positions = seen.length ? seen : all;
  const folds = new Map<number, Band>();
  // the wider come first, so a band within a folded one has one column left
  for (const [index, band] of bands.entries()) {
    if (!isFoldedBand(run, index, traits.folded_bands)) continue;
    const within = positions.filter((position) => band.start <= position && position < band.stop);
    const last = within.at(-1);
    if (last === undefined || band.stop - band.start < 2 || folds.has(last)) continue;
    folds.set(last, band);
    positions = positions.filter(
      (position) => position === last || position < band.start || position >= band.stop,
    );
  }
  return { positions, folds };
}

/** The strips over the columns, in the order of the run's bands. */
export function stripsOf(run: Banded, { positions, folds }: Columns): Strip[] {
  const bands = run.bands ?? [];
  const hasMessages = bands.some(({ kind }) => kind === "message");
  const names = [
    ...new Set(bands.filter(HAS_STRIP).map(({ kind, label }) => (kind === "message" ? label : kind))),
  ];
  const folded = [...folds.values()];
  return bands.flatMap((band, index) => {
    const { kind, label, start, stop } = band;
    const from = positions.findIndex((position) => position >= start);
    const end = positions.findIndex((position) => position >= stop);
    const to = end < 0 ? positions.length : end;
    if (!HAS_STRIP(band) || from < 0 || from >= to) return [];
    const isInside = folded.some((one) => one !== band && one.start <= start && stop <= one.stop);
    if (isInside && !(kind === "message")) return [];
    const isMessage = kind === "message";
    const line = hasMessages && !isMessage ? 1 : 0;
    const color = names.indexOf(isMessage ? label : kind);
    return [{ index, band, from, to, line, color, isFolded: folded.includes(band) }];
  });
}

/** A band in few words: "user", and folded "image · 64". */
export function stripText({ band, isFolded }: Pick<Strip, "band" | "isFolded">): string {
  return isFolded ? `▸ ${band.label} · ${band.stop - band.start}` : band.label;
}

/** A band in a sentence: "image, 64 columns". */
export function bandPhrase({ kind, label, start, stop }: Band): string {
  const n = stop - start;
  return `${kind === "message" ? `message of ${label}` : label}, ${n} column${n > 1 ? "s" : ""}`;
}

/** The pass that a layer is of, with its place; undefined where blocks run once. */
export function passAt(run: Pick<RunInfo, "passes">, layer: number): readonly [number, Pass] | undefined {
  const index = (run.passes ?? []).findIndex(({ start, stop }) => start <= layer && layer < stop);
  const pass = run.passes?.[index];
  return pass && [index, pass];
}

/** Whether a pass has several rows, and so a name beside them and a bracket. */
export function hasLongPass({ passes = [] }: Pick<RunInfo, "passes">): boolean {
  return passes.some(({ start, stop }) => stop - start > 1);
}

/** The passes that are shown by their last row alone. */
export function foldedPasses(run: Pick<RunInfo, "passes">, chosen: readonly number[]): Pass[] {
  return (run.passes ?? []).filter(({ start, stop }, index) => chosen.includes(index) && stop - start > 1);
}
