import type { Binary, ReadoutHeader, RunInfo } from "../kernel/protocol.ts";
import { Cells } from "./cells.ts";
import { readTile, referenceTile, type Tile } from "./packed.ts";

/** The cells of each run that the page knows, by the run's id. */
export class RunCells {
  readonly #cells = new Map<string, Cells>();

  /**
   * Begin cells for new runs, empty but for the columns that a run took over from an earlier one, and let go of those
   * whose run is not among `runs`.
   */
  keep(runs: ReadonlyMap<string, RunInfo>): void {
    for (const [id, run] of runs) {
      if (this.#cells.has(id)) continue;
      const cells = new Cells(run);
      const { run_id = null, n_columns = 0 } = run.reuse ?? {};
      const earlier = this.of(run_id);
      if (earlier) cells.takeOver(earlier, n_columns);
      this.#cells.set(id, cells);
    }
    for (const id of this.#cells.keys()) if (!runs.has(id)) this.#cells.delete(id);
  }

  of(run_id: string | null): Cells | null {
    return (run_id !== null && this.#cells.get(run_id)) || null;
  }

  /** Add a readout to the cells of its own run, and of the run that it is compared with; false if that run is not known. */
  add(header: ReadoutHeader, buffers: readonly Binary[]): boolean {
    return this.addTile(readTile(header, buffers));
  }

  addTile(tile: Tile): boolean {
    const reference = referenceTile(tile);
    if (reference) this.of(reference.header.run_id)?.add(reference);
    return this.of(tile.header.run_id)?.add(tile) ?? false;
  }
}
