import type { Card, CardRef, CellRef, Match, Traits } from "../kernel/protocol.ts";
import { promptText } from "./selectors.ts";

/** What one card knows: how it is asked for, what came back, and what is being searched. */
export interface CardState {
  readonly k: number;
  readonly temperature: number;
  readonly site: string;
  readonly lens: string;
  readonly card: Card | null;
  readonly isPending: boolean;
  readonly error: string | null;
  readonly query: string;
  readonly matches: readonly Match[] | null;
  /** Tokens that were searched for, looked up here and along the column. */
  readonly tracked: readonly number[];
  readonly note: string | null;
  /** Code that was asked for, to be copied by hand where the clipboard is refused. */
  readonly code: string | null;
}

/** Idle; waiting (asked, no answer for a while); gone (the kernel restarted or died); offline (a file). */
export type Connection = "live" | "waiting" | "gone" | "offline";

export interface Progress {
  readonly id: string;
  readonly done: number;
  readonly total: number;
}

export interface State {
  readonly traits: Traits;
  /** Counts the tiles and trajectories that came in; the numbers themselves lie in `Cells`. */
  readonly version: number;
  readonly focus: CellRef | null;
  readonly draft: string;
  readonly cards: Readonly<Record<string, CardState>>;
  readonly connection: Connection;
  readonly running: string | null;
  readonly progress: Progress | null;
  readonly notice: string | null;
  readonly panel: "help" | "menu" | null;
  /** A cell was opened just now: nothing is drawn until its card is there, or until it takes too long. */
  readonly isPatient: boolean;
  /** How often a cell was opened in this view. */
  readonly n_opened: number;
  /** What was just done, for the live region, until the next thing is; else it speaks of the focused cell. */
  readonly said: string;
}

/** The card that follows the selection. */
export const MAIN = "main";

/** Names a kept card by all that it is asked with: one that is decoded otherwise is another. */
export function keyOf({ layer, position, site, lens, k, temperature }: CardRef): string {
  return [layer, position, site, lens, k, temperature].join(":");
}

export function initialState(traits: Traits): State {
  return {
    traits,
    version: 0,
    focus: traits.selection,
    draft: promptText(traits),
    cards: {},
    connection: traits.status.state === "offline" ? "offline" : "live",
    running: null,
    progress: null,
    notice: null,
    panel: null,
    isPatient: false,
    n_opened: 0,
    said: "",
  };
}
