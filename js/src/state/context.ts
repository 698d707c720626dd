import type { Asides } from "../cells/asides.ts";
import type { Cells } from "../cells/cells.ts";
import type { Trajectories } from "../cells/trajectories.ts";
import type { CellRef } from "../kernel/protocol.ts";
import type { ViewTraits } from "../kernel/traits.ts";
import type { Transport } from "../kernel/transport.ts";
import type { Theme } from "../look/scales.ts";
import type { Viewport } from "../look/viewport.ts";
import type { Action, Local } from "./reduce.ts";
import type { State } from "./state.ts";

/** What views and effects are given: the state of one view, the numbers it draws, and the ways to change them. */
export interface App {
  readonly transport: Transport;
  readonly trajectories: Trajectories;
  readonly asides: Asides;
  /** Aborted when the view closes. */
  readonly signal: AbortSignal;
  get(): State;
  traits(): ViewTraits;
  dispatch(action: Action): void;
  /** Change traits; they go to the kernel. */
  set(traits: Partial<ViewTraits>): void;
  /** Change fields of this view alone. */
  local(patch: Local): void;
  /** The cells of a run: of the shown one, unless another is named. */
  cells(run_id?: string): Cells | null;
  theme(): Theme;
  setTheme(theme: Theme): void;
  /** Tell which cells the grid has in view. */
  setViewport(viewport: Viewport): void;
  /** The same of the second prompt's grid. */
  setSourceViewport(viewport: Viewport | null): void;
  /** Draw now rather than with the next frame. */
  flush(): void;
  /** Set the selection in the host's model too: marimo runs the cells that depend on it only then. */
  tellSelection(cell: CellRef): void;
}
