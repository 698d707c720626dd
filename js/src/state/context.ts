import type { Cells } from "../cells/cells.ts";
import type { Trajectories } from "../cells/trajectories.ts";
import type { Card, Traits } from "../kernel/protocol.ts";
import type { Transport } from "../kernel/transport.ts";
import type { Viewport } from "../look/layout.ts";
import type { Theme } from "../look/scales.ts";
import type { Action } from "./reduce.ts";
import type { State } from "./state.ts";

export type Local = Partial<Omit<State, "traits" | "cards">>;

/** One view's state and what moves it. Views read `get`, `cells` and `trajectories`, and dispatch. */
export interface App {
  readonly transport: Transport;
  readonly trajectories: Trajectories;
  readonly signal: AbortSignal;
  get(): State;
  traits(): Traits;
  dispatch(action: Action): void;
  /** Change traits; they go to the kernel. */
  set(traits: Partial<Traits>): void;
  /** Change what is this view's own. */
  local(patch: Local): void;
  /** The cells of the run on show. */
  cells(): Cells | null;
  theme(): Theme;
  setTheme(theme: Theme): void;
  /** What the grid shows now. */
  setViewport(viewport: Viewport): void;
  /** Draw now rather than with the next frame. */
  flush(): void;
  /** The card of the selected cell that the kernel sent last. */
  kernelCard(): Card | null;
  /** Set the selection that the kernel made of a click as this page's own: marimo runs what depends on it only then. */
  tellSelection(): void;
}
