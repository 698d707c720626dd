import type { Traits } from "../kernel/traits.ts";
import type { Pending, Transport } from "../kernel/transport.ts";
import type { Viewport } from "../look/layout.ts";
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
import { isWanted, nextTile, type TileRequest, TileSize, type Wanted } from "./tiles.ts";

/** The traits that say what the loader requests. */
export type LoadedTraits = MetricTraits & Pick<Traits, "k">;

export interface Loader {
  /** Request what the view lacks; cheap if no cell is missing. */
  update(cells: Cells | null, traits: LoadedTraits, viewport: Viewport | null): void;
}

export interface LoaderEvents {
  /** A tile arrived. */
  took(tile: Tile): void;
  failed(message: string, run_id: string): void;
}

interface InFlight {
  readonly tile: TileRequest;
  readonly pending: Pending<"read">;
  readonly cells: Cells;
  isCancelled: boolean;
}

function wantedOf({ run }: Cells, traits: LoadedTraits, viewport: Viewport): Wanted {
  const field = fieldOf(traits, run);
  const fields = [...new Set<FieldName>(["top", shownField(traits), field])];
  return { site: traits.site, lens: traits.lens, fields, ...viewport };
}

/** Identifies a request, so that one that failed is not repeated. */
function requestKey({ run }: Cells, traits: LoadedTraits, { layers, positions }: TileRequest): string {
  return [run.id, traits.site, traits.lens, fieldOf(traits, run), traits.show, layers, positions].join();
}

/**
 * Requests the cells in view, then those near it. One request is in flight; the next is chosen when it returns, from
 * the view at that time. A request whose cells scrolled out of view is cancelled.
 */
export function createLoader(transport: Transport, events: LoaderEvents): Loader {
  const size = new TileSize();
  let inFlight: InFlight | null = null;
  let latest: { cells: Cells | null; traits: LoadedTraits; viewport: Viewport | null } | null = null;
  /** The request that failed last; it is not repeated until another one is due. */
  let refused = "";

  async function fetch(cells: Cells, traits: LoadedTraits, tile: TileRequest): Promise<void> {
    const { metric, site, lens, k, show = "top" } = traits;
    const { run } = cells;
    const coloring = coloringOf(traits, run);
    const track = isOfToken(coloring) ? [rankedToken(traits, run)] : [];
    const wanted = coloring === "change_js" ? ["js"] : isScalar(metric) ? [metric] : [];
    const metrics = [...new Set(["entropy", ...wanted])];
    const against = isDifference(traits, run) ? baseIdOf(run) : null;
    const pending = transport.request("read", {
      run_id: run.id,
      ...tile,
      site,
      lens,
      k,
      track,
      metrics,
      against,
      show,
    });
    const mine: InFlight = { tile, pending, cells, isCancelled: false };
    inFlight = mine;
    const started = performance.now();
    try {
      const { value, buffers } = await pending.reply;
      size.measured(tile.layers.length * tile.positions.length, performance.now() - started);
      events.took(readTile(value, buffers));
    } catch (error) {
      if (!mine.isCancelled) {
        refused = requestKey(cells, traits, tile);
        events.failed((error as Error).message, cells.run.id);
      }
    } finally {
      inFlight = null;
      fetchNext();
    }
  }

  function fetchNext(): void {
    if (!latest) return;
    const { cells, traits, viewport } = latest;
    if (!cells || !viewport) return;
    if (inFlight) {
      const isStale = inFlight.cells !== cells || !isWanted(inFlight.tile, wantedOf(cells, traits, viewport));
      if (isStale && !inFlight.isCancelled) {
        inFlight.isCancelled = true;
        transport.request("cancel", { target: inFlight.pending.id }).reply.catch(() => {});
      }
      return;
    }
    const bytes_per_cell = 8 * traits.k + 16;
    const tile = nextTile(cells, wantedOf(cells, traits, viewport), size.max(bytes_per_cell));
    if (!tile || refused === requestKey(cells, traits, tile)) return;
    void fetch(cells, traits, tile);
  }

  return {
    update(cells, traits, viewport) {
      latest = { cells, traits, viewport };
      fetchNext();
    },
  };
}
