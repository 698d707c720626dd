import type { Cells } from "../cells/cells.ts";
import { baseIdOf } from "../cells/fields.ts";
import type { CardRef, CellRef, EditRequest, Label, Pin, Reading, RunInfo } from "../kernel/protocol.ts";
import type { Traits } from "../kernel/traits.ts";
import { quoted, toNumber } from "../look/format.ts";
import type { CardState, Cards, State } from "./state.ts";

/** Whether no kernel is behind the view: a file, or a page that stores the widget. */
export function isOffline({ connection }: Pick<State, "connection">): boolean {
  return connection === "offline";
}

/** Whether cells are read from what is stored, because nothing says that a kernel would answer. */
export function isFromStore({ connection }: Pick<State, "connection">): boolean {
  return connection !== "live" && connection !== "waiting";
}

type Runs = Pick<State, "runs" | "shown">;

/** The run that the view shows. */
export function shownRun({ runs, shown }: Runs): RunInfo | null {
  return (shown !== null && runs.get(shown)) || null;
}

type Drawn = Runs & { readonly traits: Pick<Traits, "view"> };

/** The id of the run whose cells are drawn: of a run with edits, maybe that before them, or their control. */
export function drawnId(state: Drawn): string | null {
  const run = shownRun(state);
  const { view } = state.traits;
  const isBase = view === "before" || view === "a";
  return (isBase && run && baseIdOf(run)) || (view === "control" && run?.edited?.control_id) || state.shown;
}

/** Whether a cell of a run's grid has an edit that is on. */
export function isEdited(run: RunInfo | null, { layer, position }: CellRef): boolean {
  const edits = run?.edits ?? [];
  return edits.some((edit) => edit.is_on && edit.layers.includes(layer) && edit.positions.includes(position));
}

/** The edits of the shown run, as they are asked for again. */
export function keptEdits(run: RunInfo): EditRequest[] {
  return (run.edits ?? []).map(({ strength, is_on }, keep) => ({
    keep,
    strength: toNumber(strength),
    is_on,
  }));
}

/** The run that patches are taken from. */
export function sourceRun({ traits }: { readonly traits: Pick<Traits, "source_run"> }): RunInfo | null {
  return "id" in traits.source_run ? (traits.source_run as RunInfo) : null;
}

/** How the second prompt's grid is read: as the first, but with no edits, no map and no selected cell. */
export function asSource<T extends Pick<Traits, "view" | "selection">>(traits: T): T {
  return { ...traits, view: "after", selection: null };
}

/** Where edits that are on are made, and the cell that one is about to be dropped at. */
export function madeAt({ dropAt, ...state }: Runs & Pick<State, "dropAt">) {
  const edits = (shownRun(state)?.edits ?? []).filter(({ is_on }) => is_on);
  const found = edits.map(({ layers, positions }) => ({
    layer: Math.min(...layers),
    position: Math.min(...positions),
  }));
  return dropAt ? [...found, dropAt] : found;
}

/** Whether a cell can be changed by edits made at these cells: it lies above one of them and not before it. */
export function isReached(run: RunInfo, made: readonly CellRef[], { layer, position }: CellRef): boolean {
  const sees = (at: number) => run.is_causal === false || at <= position;
  return made.some((at) => at.layer <= layer && sees(at.position));
}

const NO_CARDS: Cards = {};

/** The cards of the run that is drawn. */
export function shownCards(state: Drawn & Pick<State, "cards">): Cards {
  const id = drawnId(state);
  return (id !== null && state.cards[id]) || NO_CARDS;
}

export function cardOf(state: Drawn & Pick<State, "cards">, key: string): CardState | undefined {
  return shownCards(state)[key];
}

/** What the kernel is asked to decode for a card. */
export function decodeRequest(run_id: string, card: Decoded) {
  const { layer, position, site, lens, k, temperature, tracked: track } = card;
  return { run_id, layer, position, site, lens, k, temperature, track };
}

type Decoded = Pick<CardState, "layer" | "position" | "site" | "lens" | "k" | "temperature" | "tracked">;

type Prompt = Runs & { readonly traits: Pick<Traits, "prompt"> };

/** The prompt of the run as text; of a prompt given as ids, their text. */
export function promptText(state: Prompt): string {
  const { prompt } = state.traits;
  return typeof prompt === "string" ? prompt : (shownRun(state)?.prompt ?? "");
}

/** The text in the prompt box. */
export function boxText(state: Prompt & Pick<State, "draft">): string {
  return state.draft ?? promptText(state);
}

/** What running an edited prompt would lose, in a sentence; null if nothing. */
export function lossOfEdit(state: Runs & Pick<State, "draft">): string | null {
  const extras = shownRun(state)?.extras ?? [];
  if (state.draft === null || !extras.length) return null;
  const names = extras.length > 1 ? `${extras.slice(0, -1).join(", ")} and ${extras.at(-1)}` : extras[0];
  return `Running this text drops ${names}, which came with the prompt.`;
}

export const NO_LABEL: Label = ["", "none", ""];

/** The label of a position's token. */
export function promptLabel(run: RunInfo, position: number): Label {
  return run.labels[String(run.tokens[position])] ?? NO_LABEL;
}

/** A position's token in a sentence, with the character that a byte fragment is part of. */
export function promptWords(run: RunInfo, position: number): string {
  const whole = run.joined?.[position];
  return quoted(promptLabel(run, position)) + (whole ? ` (part of ${whole})` : "");
}

/**
 * Whether the top token of a cell is the token that the cell speaks of: the one that follows in the prompt, or in a
 * masked language model the one that stands there.
 */
export function isTarget(run: RunInfo, position: number, top_id: number): boolean {
  let target = run.predicts === "same" ? position : position + 1;
  // of two runs on one grid, columns that this one lacks
  while (run.tokens[target] === -1) target++;
  return run.tokens[target] === top_id;
}

/**
 * The lowest of the drawn layers from which up to the last one the top token is the final answer. Undefined while one
 * of these cells is not computed, and at sites within a block, which do not lead to the answer.
 *
 * Args: `layers`: the drawn layers, last first.
 */
export function settledLayer(
  cells: Cells,
  reading: Reading,
  layers: readonly number[],
  position: number,
): number | undefined {
  const final = cells.top(reading, cells.run.n_layers - 1, position);
  if (!final || final.id < 0 || reading.site !== "resid_post") return undefined;
  let settled = cells.run.n_layers - 1;
  for (const layer of layers) {
    const top = cells.top(reading, layer, position);
    if (!top) return undefined;
    if (top.id !== final.id) break;
    settled = layer;
  }
  return settled;
}

/** The pin that a token belongs to. */
export function pinOf(pins: readonly Pin[], id: number): Pin | undefined {
  return pins.find((pin) => pin.ids.includes(id));
}

export function sameCell(a: CellRef | null | undefined, b: CellRef | null | undefined): boolean {
  return !!a && !!b && a.layer === b.layer && a.position === b.position;
}

/** Whether a cell lies inside a run. */
export function isInside(run: RunInfo, cell: CellRef): boolean {
  return (
    cell.layer >= -1 && cell.layer < run.n_layers && cell.position >= 0 && cell.position < run.tokens.length
  );
}

/** The kept cards whose cells the shown run has. */
export function keptCards(state: Runs & { readonly traits: Pick<Traits, "cards"> }): readonly CardRef[] {
  const run = shownRun(state);
  return run ? state.traits.cards.filter((ref) => isInside(run, ref)) : [];
}

/** The positions whose trajectories are charted: the chosen ones, else that of the focus or the selection. */
export function chartedPositions(
  traits: Pick<Traits, "trajectory" | "selection">,
  focus: CellRef | null,
  run: RunInfo,
): number[] {
  const chosen = traits.trajectory.positions.filter((position) => position < run.tokens.length);
  if (chosen.length) return chosen;
  return [Math.min(run.tokens.length - 1, (focus ?? traits.selection)?.position ?? run.tokens.length - 1)];
}
