import type { CellRef, EditInfo, EditOp, EditRequest, View } from "../kernel/protocol.ts";
import { layerName, quoted } from "../look/format.ts";
import type { App } from "../state/context.ts";
import { drawnId, keptEdits, promptLabel, shownRun } from "../state/selectors.ts";
import type { Editor, Yanked } from "../state/state.ts";

/** What each edit needs besides its place: how many tokens, and the strength that it begins with. */
export const OPS: Partial<Record<EditOp, { text: string; n_tokens: 0 | 1 | 2; strength: number }>> = {
  zero: { text: "set to 0", n_tokens: 0, strength: 1 },
  mean: { text: "set to the prompt’s mean", n_tokens: 0, strength: 1 },
  scale: { text: "scale", n_tokens: 0, strength: 2 },
  steer: { text: "steer towards a token", n_tokens: 1, strength: 1 },
  project_out: { text: "take a token out", n_tokens: 1, strength: 1 },
  swap: { text: "swap two tokens", n_tokens: 2, strength: 1 },
};

/** Tokens to choose from for an edit at a cell: pinned ones, the model's own next one, the cell's top one. */
export function candidates(app: App, cell: CellRef): number[] {
  const run = shownRun(app.get());
  const traits = app.traits();
  const top = app.cells()?.top(traits, cell.layer, cell.position)?.id ?? -1;
  const pinned = traits.pins.flatMap(({ ids }) => ids);
  const own = run ? [run.edited?.effect.id ?? run.next.id, run.next.id] : [];
  return [...new Set([...pinned, ...own, top])].filter((id) => id >= 0);
}

function edit(app: App, added: EditRequest): void {
  const run = shownRun(app.get());
  if (!run) return;
  app.dispatch({ type: "edits", edits: [...keptEdits(run), added] });
  if (app.traits().view === "before") app.set({ view: "after" });
}

/** Whether the grid is one that takes no edits; then it says so. */
function refusesEdits(app: App): boolean {
  const isRefused = !!shownRun(app.get())?.compared;
  if (isRefused) app.local({ said: "A comparison takes no edits" });
  return isRefused;
}

/** Open the form of a new edit at a cell. */
export function openEditor(app: App, cell: CellRef): void {
  if (refusesEdits(app)) return;
  const { site } = app.traits();
  const op: EditOp = "zero";
  app.local({
    editor: { cell, op, site, strength: 1, tokens: candidates(app, cell).slice(0, 2) },
    panel: null,
  });
}

/** Make the edit that the form describes. */
export function applyEditor(app: App, { cell, op, site, strength, tokens }: Editor): void {
  const n_tokens = OPS[op]?.n_tokens ?? 0;
  const { lens } = app.traits();
  edit(app, {
    op,
    site,
    layers: [cell.layer],
    positions: [cell.position],
    tokens: tokens.slice(0, n_tokens),
    lens,
    source: null,
    strength,
    is_on: true,
  });
  app.local({ editor: null });
}

/** Take a cell, to put it elsewhere. */
export function yank(app: App, { layer, position }: CellRef): void {
  if (refusesEdits(app)) return;
  const state = app.get();
  const run = shownRun(state);
  const run_id = drawnId(state);
  if (!run || run_id === null) return;
  const { site } = state.traits;
  const text = `${layerName(layer, run)} ${quoted(promptLabel(run, position))}`;
  app.local({ yanked: { run_id, layer, position, site, text }, said: `Took the cell ${text}` });
}

/** Patch a taken cell into this one, beside the edits that are there or in place of some of them. */
export function patchHere(
  app: App,
  taken: Yanked,
  { layer, position }: CellRef,
  replaces: (edit: EditInfo) => boolean = () => false,
): void {
  const run = shownRun(app.get());
  if (!run) return;
  const { run_id, site } = taken;
  const kept = keptEdits(run).filter((_, i) => !replaces((run.edits ?? [])[i] as EditInfo));
  const added: EditRequest = {
    op: "patch",
    site,
    layers: [layer],
    positions: [position],
    tokens: [],
    lens: "logit",
    source: { run_id, layer: taken.layer, positions: [taken.position] },
    strength: 1,
    is_on: true,
  };
  app.dispatch({ type: "edits", edits: [...kept, added] });
  if (app.traits().view === "before") app.set({ view: "after" });
}

/** Remove a cell, in place of the one that was removed before. */
export function removeHere(app: App, op: "zero" | "mean", site: string, { layer, position }: CellRef): void {
  const run = shownRun(app.get());
  if (!run) return;
  const isOne = (edit: EditInfo) => edit.op === op && edit.layers.length === 1 && edit.positions.length === 1;
  const kept = keptEdits(run).filter((_, i) => !isOne((run.edits ?? [])[i] as EditInfo));
  const place = { site, layers: [layer], positions: [position] };
  const added = { op, ...place, tokens: [], lens: "logit", source: null, strength: 1, is_on: true };
  app.dispatch({ type: "edits", edits: [...kept, added] });
}

/** Put the cell that was taken here, as a patch. */
export function put(app: App, cell: CellRef): void {
  if (refusesEdits(app)) return;
  const { yanked } = app.get();
  if (yanked) patchHere(app, yanked, cell);
  else app.local({ said: "Take a cell first, with y" });
}

/** Show the next of A, B and the difference. */
function flipPair(app: App): void {
  const { view } = app.traits();
  const next: View = view === "difference" ? "a" : view === "a" || view === "before" ? "b" : "difference";
  app.set({ view: next });
  app.local({ said: next === "difference" ? "The difference" : `The run ${next.toUpperCase()}` });
}

/** Show the next of after, difference and before; of two runs the next of A, B and the difference. */
export function flip(app: App): void {
  const run = shownRun(app.get());
  if (run?.compared) flipPair(app);
  if (!run?.edited) return;
  const next: Partial<Record<View, View>> = { after: "difference", difference: "before" };
  const view = next[app.traits().view] ?? "after";
  app.set({ view });
  app.local({
    said: { before: "Before the edits", after: "After the edits", difference: "The difference" }[
      view as "after"
    ],
  });
}
