import { sameItems } from "../base/memo.ts";
import type { Cells } from "../cells/cells.ts";
import { cellValue, coloringOf, effectAt, METRIC_SPECS } from "../cells/fields.ts";
import { isNoise, standingIn } from "../cells/standing.ts";
import type { CellRef, RunInfo } from "../kernel/protocol.ts";
import type { ViewTraits } from "../kernel/traits.ts";
import { foldedPasses } from "../look/bands.ts";
import { superscript } from "../look/format.ts";
import { shownLayers } from "../look/layout.ts";
import { type Color, colorAt, pinColor } from "../look/scales.ts";
import type { App } from "../state/context.ts";
import {
  isEdited,
  isReached,
  isTarget,
  madeAt,
  pinOf,
  sameCell,
  settledLayer,
  shownRun,
} from "../state/selectors.ts";
import type { Span } from "../state/state.ts";
import { brief } from "./heads.ts";

/** How one cell of the grid looks. */
export interface Look {
  readonly text: string;
  readonly className: string;
  readonly surface: string;
  readonly ink: string;
  readonly pin: string;
}

/** Narrower columns show no text, which would only blur the colours. */
const TEXT_FROM_PX = 30;

/** The settled layer of each column, computed once per change of cells, reading or stride. */
export function settledLayers(app: App): (position: number) => number | undefined {
  const known = new Map<number, number | undefined>();
  let last: unknown[] = [];
  return (position) => {
    const { traits, version } = app.get();
    const { site, lens, stride, folded_passes } = traits;
    const cells = app.cells();
    const key = [cells, version, site, lens, stride, folded_passes];
    if (!sameItems(key, last)) known.clear();
    last = key;
    if (cells && !known.has(position)) {
      const layers = shownLayers(cells.run.n_layers, stride, site, foldedPasses(cells.run, folded_passes));
      known.set(position, settledLayer(cells, traits, layers, position));
    }
    return known.get(position);
  };
}

/** The edges of what the edits, or the cell that is about to be patched, can change: its left and its lower one. */
function edgesOf(run: RunInfo, made: readonly CellRef[], { layer, position }: CellRef): string {
  if (!isReached(run, made, { layer, position })) return "";
  const left = isReached(run, made, { layer, position: position - 1 }) ? "" : " is-reach-left";
  return isReached(run, made, { layer: layer - 1, position }) ? left : `${left} is-reach-low`;
}

/** Whether one of the tokens is among the best of a cell or stands in it. */
function hasAny(cells: Cells, traits: ViewTraits, { layer, position }: CellRef, wanted: readonly number[]) {
  const standing = standingIn(cells, traits, layer, position);
  if (traits.show !== "top") return !!standing && wanted.includes(standing.id);
  return cells.tops(traits, layer, position, 100).some(({ id }) => wanted.includes(id));
}

function isWithin({ layers, positions }: Span, { layer, position }: CellRef): boolean {
  const within = (x: number, [from, to]: readonly [number, number]) => from <= x && x <= to;
  return within(layer, layers) && within(position, positions);
}

/** The colour of each cell; undefined where it is not computed, null where its number is none. */
export function colorsOf(app: App, cells: Cells, traits: ViewTraits) {
  const { d_vocab } = cells.run;
  const { scale, position: place } = METRIC_SPECS[coloringOf(traits, cells.run)];
  const theme = app.theme();
  return ({ layer, position }: CellRef): Color | null | undefined => {
    const value = cellValue(cells, traits, layer, position);
    if (value === undefined) return undefined;
    return Number.isNaN(value) ? null : colorAt(scale, theme, place(value, d_vocab));
  };
}

/** How cells look, from the state alone; what all of them share is found once. */
export function looksOf(app: App, cells: Cells, traits: ViewTraits) {
  const { run } = cells;
  const state = app.get();
  const { tint, span } = state;
  const shown = shownRun(state);
  const isShaped = !!shown && shown.tokens.length === run.tokens.length && traits.orientation !== "tokens";
  const made = isShaped ? madeAt(state) : [];
  const tinted = tint ? tint.split(",").map(Number) : null;
  const isMap = coloringOf(traits, run).startsWith("effect");
  const colorOf = colorsOf(app, cells, traits);
  return (cell: CellRef, settled: number | undefined): Look => {
    const { layer, position } = cell;
    const top = standingIn(cells, traits, layer, position);
    const color = colorOf(cell);
    let name = "lw-cell";
    if (sameCell(traits.selection, cell)) name += " is-selected";
    if (shown && made.length) name += edgesOf(shown, made, cell);
    if (isMap && !effectAt(traits.causal, layer, position)?.isMeasured) name += " is-estimate";
    if (isEdited(shown, cell)) name += " is-edited";
    if (!color) name += color === null ? " is-nan" : " is-missing";
    if (tinted && !hasAny(cells, traits, cell, tinted)) name += " is-untinted";
    if (span && isWithin(span, cell)) name += " is-in-span";
    if (isNoise(cells, traits, layer, position)) name += " is-noise";
    const looks = { surface: color?.css ?? "", ink: color?.ink ?? "" };
    if (!top) return { ...looks, className: name, text: "", pin: "" };
    const label = cells.label(top.id);
    if (label[1] !== "text") name += ` is-${label[1]}`;
    if (isTarget(run, position, top.id)) name += " is-next";
    if (settled === layer) name += " is-settled";
    const pinned = pinOf(traits.pins, top.id);
    if (pinned) name += " is-pinned";
    const pin = pinned ? pinColor(pinned.color, app.theme()) : "";
    const text = traits.column_width_px >= TEXT_FROM_PX ? brief(label) : "";
    const place = text && top.rank > 0 ? superscript(top.rank + 1) : "";
    return { ...looks, className: name, text: text + place, pin };
  };
}
