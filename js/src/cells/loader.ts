import { sameItems } from "../base/memo.ts";
import type { Traits } from "../kernel/traits.ts";
import type { Pending, Transport } from "../kernel/transport.ts";
import type { Viewport } from "../look/viewport.ts";
import { type Cells, type FieldName, isScalar } from "./cells.ts";
import {
  baseIdOf,
  coloringOf,
  fieldOf,
  isDifference,
  isOfToken,
  type MetricTraits,
  rankedToken,
  shownField,
} from "./fields.ts";
import { readTile, type Tile } from "./packed.ts";
import { isWanted, nextFarTile, nextTile, type TileRequest, TileSize, type Wanted } from "./tiles.ts";

/** The traits that say what the loader requests. */
export type LoadedTraits = MetricTraits & Pick<Traits, "k">;

export interface Loader {
  /** Request what the view lacks; cheap if no cell is missing. */
  update(cells: Cells | null, traits: LoadedTraits, viewport: Viewport | null): void;
  /** Leave the overview until the next update: the kernel is wanted for something else. */
  pause(): void;
}

export interface LoaderEvents {
  /** A tile arrived. */
  took(tile: Tile): void;
  failed(message: string, run_id: string): void;
}

interface InFlight {
  readonly tile: TileRequest;
  /** Of the overview alone. */
  readonly isFar: boolean;
  readonly pending: Pending<"read">;
  readonly cells: Cells;
  isCancelled: boolean;
}

function wantedOf({ run }: Cells, traits: LoadedTraits, viewport: Viewport): Wanted {
  const field = fieldOf(traits, run);
  const fields = [...new Set<FieldName>(["top", shownField(traits), field])];
  return { site: traits.site, lens: traits.lens, fields, ...viewport };
}

/** The overview waits until nothing was drawn or requested for so long. */
const IDLE_MS = 300;

/** Identifies a request, so that one that failed is not repeated. */
function requestKey({ run }: Cells, traits: LoadedTraits, { layers, positions }: TileRequest): string {
  return [run.id, traits.site, traits.lens, fieldOf(traits, run), traits.show, layers, positions].join();
}

/**
 * Requests the cells in view, then those near it, and in idle time those of the overview. One request is in flight; the
 * next is chosen when it returns, from the view at that time. A request whose cells scrolled out of view is cancelled,
 * and one of the overview as soon as the view lacks a cell.
 */
export function createLoader(transport: Transport, events: LoaderEvents): Loader {
  const size = new TileSize();
  let inFlight: InFlight | null = null;
  let latest: { cells: Cells | null; traits: LoadedTraits; viewport: Viewport | null } | null = null;
  /** The request that failed last; it is not repeated until another one is due. */
  let refused = "";
  let idleTimer: ReturnType<typeof setTimeout> | undefined;
  /** What the overview was complete for. */
  let complete: unknown[] = [];

  async function fetch(cells: Cells, traits: LoadedTraits, tile: TileRequest, isFar: boolean): Promise<void> {
    const { metric, site, lens, k, show = "top" } = traits;
    const { run } = cells;
    const coloring = coloringOf(traits, run);
    const track = isOfToken(coloring) ? [rankedToken(traits, run)] : [];
    const wanted = coloring === "change_js" ? ["js"] : isScalar(metric) ? [metric] : [];
    const metrics = [...new Set(["entropy", ...wanted])];
    const against = isDifference(traits, run) ? baseIdOf(run) : null;
    const request = { run_id: run.id, ...tile, site, lens, k, track, metrics, against, show };
    const pending = transport.request("read", request, isFar);
    const mine: InFlight = { tile, isFar, pending, cells, isCancelled: false };
    inFlight = mine;
    const started = performance.now();
    try {
      const { value, buffers } = await pending.reply;
      size.measured(tile.layers.length * tile.positions.length, performance.now() - started);
      events.took(readTile(value, buffers));
    } catch (error) {
      if (!mine.isCancelled) {
        refused = requestKey(cells, traits, tile);
        // nobody has asked for the overview's cells
        if (!isFar) events.failed((error as Error).message, cells.run.id);
      }
    } finally {
      inFlight = null;
      fetchNext(isFar);
    }
  }

  function cancel(stale: InFlight): void {
    if (stale.isCancelled) return;
    stale.isCancelled = true;
    transport.request("cancel", { target: stale.pending.id }).reply.catch(() => {});
  }

  function fetchNext(isIdle = false): void {
    clearTimeout(idleTimer);
    if (!latest) return;
    const { cells, traits, viewport } = latest;
    if (!cells || !viewport) return;
    const wanted = wantedOf(cells, traits, viewport);
    const max_cells = size.max(8 * traits.k + 16);
    if (inFlight) {
      const { tile, isFar } = inFlight;
      const isDue = isFar ? wanted.far && !nextTile(cells, wanted, max_cells) : isWanted(tile, wanted);
      if (inFlight.cells !== cells || !isDue) cancel(inFlight);
      return;
    }
    const near = nextTile(cells, wanted, max_cells);
    const tile = near ?? (isIdle ? nextFarTile(cells, wanted, max_cells) : null);
    if (tile) {
      if (refused !== requestKey(cells, traits, tile)) void fetch(cells, traits, tile, !near);
      return;
    }
    const { site, lens, fields, far } = wanted;
    const now = [cells, site, lens, far, ...fields];
    if (isIdle) complete = now;
    else if (far && !sameItems(now, complete)) idleTimer = setTimeout(() => fetchNext(true), IDLE_MS);
  }

  return {
    update(cells, traits, viewport) {
      latest = { cells, traits, viewport };
      fetchNext();
    },
    pause() {
      latest = null;
      clearTimeout(idleTimer);
      if (inFlight?.isFar) cancel(inFlight);
    },
  };
}
