import type { Cells } from "../cells/cells.ts";
import type { CardRef, CellRef, Label, Pin, Reading, RunInfo, Traits } from "../kernel/protocol.ts";
import { runOf } from "../kernel/traits.ts";
import { quoted } from "../look/format.ts";

/** A view of what is stored: a file, or a notebook without its kernel. */
export function isOffline({ connection }: { readonly connection: string }): boolean {
  return connection === "offline";
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

/** The prompt as text; of one given as ids, what the kernel made of them. */
export function promptText(traits: Pick<Traits, "prompt" | "run">): string {
  if (typeof traits.prompt === "string") return traits.prompt;
  const text = runOf(traits)?.prompt;
  return typeof text === "string" ? text : "";
}

/** Is the top token of a cell the token that follows in the prompt? */
export function isNext(run: RunInfo, position: number, top_id: number): boolean {
  return run.tokens[position + 1] === top_id;
}

/**
 * The first of the layers on show from which the final answer holds for good, all the way to the last one.
 * Undefined while a cell on the way is not computed, and at sites within a block, which do not lead to the answer.
 *
 * Args: `layers`: those on show, last first.
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

export function sameItems(a: readonly unknown[], b: readonly unknown[]): boolean {
  return a.length === b.length && a.every((value, i) => value === b[i]);
}

/** Whether a cell lies inside a run. */
export function isInside(run: RunInfo, cell: CellRef): boolean {
  return (
    cell.layer >= -1 && cell.layer < run.n_layers && cell.position >= 0 && cell.position < run.tokens.length
  );
}

/** The kept cards that the run has cells for. */
export function keptCards({ traits }: { readonly traits: Traits }): readonly CardRef[] {
  const run = runOf(traits);
  return run ? traits.cards.filter((ref) => isInside(run, ref)) : [];
}

/** The positions whose trajectories are charted: the chosen ones, else the one that is looked at. */
export function chartedPositions(
  traits: Pick<Traits, "trajectory" | "selection">,
  focus: CellRef | null,
  run: RunInfo,
): number[] {
  const chosen = traits.trajectory.positions.filter((position) => position < run.tokens.length);
  if (chosen.length) return chosen;
  return [Math.min(run.tokens.length - 1, (focus ?? traits.selection)?.position ?? run.tokens.length - 1)];
}
