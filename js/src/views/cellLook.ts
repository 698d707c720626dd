import { sameItems } from "../base/memo.ts";
import type { Cells } from "../cells/cells.ts";
import { cellValue, coloringOf, effectAt, METRIC_SPECS } from "../cells/fields.ts";
import { isNoise, standingIn } from "../cells/standing.ts";
import type { CellRef, RunInfo } from "../kernel/protocol.ts";
import type { ViewTraits } from "../kernel/traits.ts";
import { foldedPasses } from "../look/bands.ts";
import { superscript } from "../look/format.ts";
import { shownLayers } from "../look/layout.ts";
import { colorAt, pinColor } from "../look/scales.ts";
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
function edgesOf(app: App, run: RunInfo, { layer, position }: CellRef): string[] {
  const state = app.get();
  const made = madeAt(state);
  if (!made.length || state.traits.orientation === "tokens" || !isReached(run, made, { layer, position }))
    return [];
  const edges: string[] = [];
  if (!isReached(run, made, { layer, position: position - 1 })) edges.push("is-reach-left");
  if (!isReached(run, made, { layer: layer - 1, position })) edges.push("is-reach-low");
  return edges;
}

/** Whether one of the tokens, ids with commas between, is among the best of a cell or stands in it. */
function hasAny(cells: Cells, traits: ViewTraits, { layer, position }: CellRef, ids: string): boolean {
  const wanted = ids.split(",").map(Number);
  const standing = standingIn(cells, traits, layer, position);
  if (traits.show !== "top") return !!standing && wanted.includes(standing.id);
  return cells.tops(traits, layer, position, 100).some(({ id }) => wanted.includes(id));
}

function isWithin({ layers, positions }: Span, { layer, position }: CellRef): boolean {
  const within = (x: number, [from, to]: readonly [number, number]) => from <= x && x <= to;
  return within(layer, layers) && within(position, positions);
}

/** How a cell looks, from the state alone. */
export function lookOf(
  app: App,
  cells: Cells,
  traits: ViewTraits,
  cell: CellRef,
  settled: number | undefined,
): Look {
  const { run } = cells;
  const { layer, position } = cell;
  const top = standingIn(cells, traits, layer, position);
  const value = cellValue(cells, traits, layer, position);
  const names = ["lw-cell"];
  if (sameCell(traits.selection, cell)) names.push("is-selected");
  const shown = shownRun(app.get());
  if (shown && run.tokens.length === shown.tokens.length) names.push(...edgesOf(app, shown, cell));
  if (coloringOf(traits, run).startsWith("effect") && !effectAt(traits.causal, layer, position)?.isMeasured)
    names.push("is-estimate");
  if (isEdited(shownRun(app.get()), cell)) names.push("is-edited");
  let surface = "";
  let ink = "";
  let pin = "";
  if (value === undefined) names.push("is-missing");
  else if (Number.isNaN(value)) names.push("is-nan");
  else {
    const spec = METRIC_SPECS[coloringOf(traits, run)];
    const color = colorAt(spec.scale, app.theme(), spec.position(value, run.d_vocab));
    surface = color.css;
    ink = color.ink;
  }
  const { tint, span } = app.get();
  if (tint && !hasAny(cells, traits, cell, tint)) names.push("is-untinted");
  if (span && isWithin(span, cell)) names.push("is-in-span");
  if (isNoise(cells, traits, layer, position)) names.push("is-noise");
  if (top) {
    const kind = cells.label(top.id)[1];
    if (kind !== "text") names.push(`is-${kind}`);
    if (isTarget(run, position, top.id)) names.push("is-next");
    if (settled === layer) names.push("is-settled");
    const pinned = pinOf(traits.pins, top.id);
    if (pinned) {
      pin = pinColor(pinned.color, app.theme());
      names.push("is-pinned");
    }
  }
  const text = top && traits.column_width_px >= TEXT_FROM_PX ? brief(cells.label(top.id)) : "";
  const place = text && top && top.rank > 0 ? superscript(top.rank + 1) : "";
  return { text: text + place, className: names.join(" "), surface, ink, pin };
}
