import type { Binary, ReadoutHeader, RunInfo } from "../kernel/protocol.ts";
import { Cells } from "./cells.ts";
import { readTile, referenceTile, type Tile } from "./packed.ts";

/** The cells of each run that the page knows, by the run's id. */
export class RunCells {
  readonly #cells = new Map<string, Cells>();

  /** Begin empty cells for new runs, and let go of those whose run is not among `runs`. */
  keep(runs: ReadonlyMap<string, RunInfo>): void {
    for (const id of this.#cells.keys()) if (!runs.has(id)) this.#cells.delete(id);
    for (const [id, run] of runs) if (!this.#cells.has(id)) this.#cells.set(id, new Cells(run));
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
