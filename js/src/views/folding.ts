import type { CellRef } from "../kernel/protocol.ts";
import { bandPhrase, bandsAt, isFoldedBand, passAt, withBandToggled } from "../look/bands.ts";
import type { Shape } from "../look/layout.ts";
import type { App } from "../state/context.ts";
import { shownRun } from "../state/selectors.ts";

/** Show a band as one column, or its columns again; `index` is its place in the run's bands. */
export function toggleBand(app: App, index: number): void {
  const state = app.get();
  const run = shownRun(state);
  const band = run?.bands?.[index];
  if (!run || !band) return;
  const { folded_bands } = state.traits;
  const isFolded = isFoldedBand(run, index, folded_bands);
  app.set({ folded_bands: withBandToggled(run, index, folded_bands) });
  app.local({ said: `${isFolded ? "Unfolded" : "Folded"} ${bandPhrase(band)}` });
  if (!isFolded) keepFocusIn(app, { position: band.stop - 1 });
}

/** Show a pass by its last row alone, or all its rows again. */
export function togglePass(app: App, layer: number): void {
  const state = app.get();
  const run = shownRun(state);
  const found = run && passAt(run, layer);
  if (!found) return;
  const [index, { label, start, stop }] = found;
  const { folded_passes } = state.traits;
  const isFolded = folded_passes.includes(index);
  const others = folded_passes.filter((other) => other !== index);
  app.set({ folded_passes: isFolded ? others : [...others, index].sort((a, b) => a - b) });
  app.local({ said: `${isFolded ? "Unfolded" : "Folded"} ${label}, ${stop - start} rows` });
  if (!isFolded) keepFocusIn(app, { layer: stop - 1 });
}

/** Fold or unfold what the head of a row or a column is of: its pass, or the band that begins there. */
export function toggleHead(app: App, shape: Shape, index: number, isRow: boolean): void {
  const strip = shape.strips.filter(({ from }) => from === index).at(-1);
  if (shape.isAcross === isRow) togglePass(app, (isRow ? shape.rows : shape.cols)[index] ?? -1);
  else if (strip) toggleBand(app, strip.index);
}

/** What was folded away takes the focus to the row or column that stands for it. */
function keepFocusIn(app: App, to: Partial<CellRef>): void {
  const { focus, said } = app.get();
  if (!focus) return;
  app.dispatch({ type: "focus", cell: { ...focus, ...to } });
  app.local({ said });
}

/** Fold or unfold the narrowest message or picture that a cell is in. */
export function foldBandAt(app: App, { position }: CellRef): void {
  const run = shownRun(app.get());
  const places = run ? bandsAt(run, position) : [];
  // of bands in bands the folded one is what is seen
  const { folded_bands } = app.traits();
  const folded = places.find((place) => run && isFoldedBand(run, place, folded_bands));
  const index = folded ?? places.at(-1);
  if (index === undefined) app.local({ said: "This column is in no message or picture" });
  else toggleBand(app, index);
}

/** Fold or unfold the pass that a cell is in. */
export function foldPassAt(app: App, { layer }: CellRef): void {
  const run = shownRun(app.get());
  if (run && passAt(run, layer)) togglePass(app, layer);
  else app.local({ said: "This row is in no pass of looped blocks" });
}

/** Hide what a chat's template puts around its messages, or show it again. */
export function toggleTemplate(app: App): void {
  const run = shownRun(app.get());
  const has = run?.bands?.some(({ kind }) => kind === "template");
  const hide_template = !app.traits().hide_template;
  if (!has) app.local({ said: "This prompt has no template tokens" });
  else {
    app.set({ hide_template });
    app.local({ said: `Template tokens are ${hide_template ? "hidden" : "shown"}` });
  }
}
