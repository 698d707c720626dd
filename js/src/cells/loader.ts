import type { Traits } from "../kernel/protocol.ts";
import type { Pending, Transport } from "../kernel/transport.ts";
import type { Viewport } from "../look/layout.ts";
import { type Cells, type FieldName, isScalar } from "./cells.ts";
import { fieldOf, rankedToken } from "./fields.ts";
import { readTile } from "./packed.ts";
import { isWanted, nextTile, type TileRequest, TileSize, type Wanted } from "./tiles.ts";

export interface Loader {
  /** Look again at what is missing; cheap when nothing is. */
  poke(cells: Cells | null, traits: Traits, viewport: Viewport | null): void;
}

export interface LoaderEvents {
  arrived(): void;
  failed(message: string): void;
}

interface InFlight {
  readonly tile: TileRequest;
  readonly pending: Pending<"read">;
  readonly cells: Cells;
  isCancelled: boolean;
}

function wantedOf(traits: Traits, viewport: Viewport): Wanted {
  const field = fieldOf(traits);
  const fields: FieldName[] = field === "top" ? ["top"] : ["top", field];
  return { site: traits.site, lens: traits.lens, fields, ...viewport };
}

/** What was asked for, so as not to ask again for what failed. */
function nameOf(cells: Cells, traits: Traits, { layers, positions }: TileRequest): string {
  return [cells.run.id, traits.site, traits.lens, fieldOf(traits), layers, positions].join();
}

/**
 * Asks for the cells in view, then for those near it: one request in flight, the next one chosen when it is back,
 * from what is in view then. A request that scrolled out of view is cancelled.
 */
export function createLoader(transport: Transport, events: LoaderEvents): Loader {
  const size = new TileSize();
  let inFlight: InFlight | null = null;
  let latest: { cells: Cells | null; traits: Traits; viewport: Viewport | null } | null = null;
  /** What failed is not asked for again until something else is wanted. */
  let refused = "";

  async function fetch(cells: Cells, traits: Traits, tile: TileRequest): Promise<void> {
    const { metric, site, lens, k } = traits;
    const track = metric === "rank" ? [rankedToken(traits)] : [];
    const metrics = [...new Set(["entropy", ...(isScalar(metric) ? [metric] : [])])];
    const pending = transport.request("read", {
      run_id: cells.run.id,
      ...tile,
      site,
      lens,
      k,
      track,
      metrics,
    });
    const mine: InFlight = { tile, pending, cells, isCancelled: false };
    inFlight = mine;
    const started = performance.now();
    try {
      const { value, buffers } = await pending.reply;
      size.measured(tile.layers.length * tile.positions.length, performance.now() - started);
      if (cells.add(readTile(value, buffers))) events.arrived();
    } catch (error) {
      if (!mine.isCancelled) {
        refused = nameOf(cells, traits, tile);
        events.failed((error as Error).message);
      }
    } finally {
      inFlight = null;
      look();
    }
  }

  function look(): void {
    if (!latest) return;
    const { cells, traits, viewport } = latest;
    if (!cells || !viewport) return;
    if (inFlight) {
      const isStale = inFlight.cells !== cells || !isWanted(inFlight.tile, wantedOf(traits, viewport));
      if (isStale && !inFlight.isCancelled) {
        inFlight.isCancelled = true;
        transport.request("cancel", { target: inFlight.pending.id }).reply.catch(() => {});
      }
      return;
    }
    const bytes_per_cell = 8 * traits.k + 16;
    const tile = nextTile(cells, wantedOf(traits, viewport), size.max(bytes_per_cell));
    if (!tile || refused === nameOf(cells, traits, tile)) return;
    void fetch(cells, traits, tile);
  }

  return {
    poke(cells, traits, viewport) {
      latest = { cells, traits, viewport };
      look();
    },
  };
}
