import type { ReadRequest, RunInfo } from "../kernel/protocol.ts";
import type { Transport } from "../kernel/transport.ts";
import type { Cells } from "./cells.ts";
import { readTile, type Tile } from "./packed.ts";

/** How the model itself reads its last row: which token it would have gone on with. */
export const OWN_READING = { site: "resid_post", lens: "logit" } as const;
/** Alternatives to a token that are asked for. */
const N_ALTERNATIVES = 6;

/** A token along the columns, in one layer: NaN and -1 where it is not known. */
export interface Along {
  readonly log_probs: Float32Array;
  readonly ranks: Int32Array;
}

/** What is wanted beside the grid. */
export interface AsideWishes {
  /** The run that is drawn, which the chart follows, and the run that is shown, which the rest is of. */
  readonly cells: Cells;
  readonly own: Cells;
  /** Whether the surprise of the run's tokens is wanted, and not there. */
  readonly spine: boolean;
  /** The column whose alternatives are wanted; null for none. */
  readonly alternativesAt: number | null;
  /** The tokens that are followed along the columns, in a layer. */
  readonly along: {
    readonly ids: readonly number[];
    readonly layer: number;
    readonly reading: Reading;
  } | null;
  readonly k: number;
}

type Reading = Pick<ReadRequest, "site" | "lens">;
type Wish = { readonly key: string; ask(): Promise<void> };

/**
 * Asks for what stands beside the grid: one request at a time, once nothing else is asked for, and the latest wish
 * first. What was asked for once is not asked for again.
 */
export class Asides {
  readonly #asked = new Set<string>();
  readonly #along = new WeakMap<Cells, Map<string, Along>>();
  #isBusy = false;
  #latest: AsideWishes | null = null;

  constructor(
    readonly transport: Transport,
    readonly took: (tile: Tile) => void,
    readonly arrived: () => void,
  ) {}

  want(wishes: AsideWishes): void {
    this.#latest = wishes;
    void this.#next();
  }

  /** A token along the columns; undefined while it is not there. */
  along(cells: Cells, reading: Reading, layer: number, id: number): Along | undefined {
    return this.#along.get(cells)?.get(alongKey(reading, layer, id));
  }

  async #next(): Promise<void> {
    const wishes = this.#latest;
    if (this.#isBusy || !wishes || this.transport.pending().length) return;
    const wish = this.#wishesOf(wishes).find(({ key }) => !this.#asked.has(key));
    if (!wish) return;
    this.#asked.add(wish.key);
    this.#isBusy = true;
    // what is refused is told nowhere: an older kernel, or a run that is gone; the page then has a gap
    await wish.ask().catch(() => {});
    this.#isBusy = false;
    void this.#next();
  }

  #wishesOf({ cells, own, spine, alternativesAt, along, k }: AsideWishes): Wish[] {
    const { run } = own;
    const { transport } = this;
    const wishes: Wish[] = [];
    if (spine)
      wishes.push({
        key: `spine ${run.id}`,
        ask: async () => void (await transport.request("spine", {}).reply),
      });
    const last = run.n_layers - 1;
    const at = alternativesAt;
    if (
      at !== null &&
      own.tops(OWN_READING, last, at, N_ALTERNATIVES).length < Math.min(N_ALTERNATIVES, run.d_vocab)
    )
      wishes.push({
        key: `alternatives ${run.id} ${at}`,
        ask: async () => {
          const request = readOf(run, OWN_READING, [last], [at], Math.max(k, N_ALTERNATIVES), []);
          const { value, buffers } = await transport.request("read", request).reply;
          this.took(readTile(value, buffers));
        },
      });
    const missing = along?.ids.filter((id) => !this.along(cells, along.reading, along.layer, id)) ?? [];
    if (along && missing.length)
      wishes.push({
        key: `along ${cells.run.id} ${missing.map((id) => alongKey(along.reading, along.layer, id))}`,
        ask: () => this.#askAlong(cells, along.reading, along.layer, missing),
      });
    return wishes;
  }

  async #askAlong(cells: Cells, reading: Reading, layer: number, ids: readonly number[]): Promise<void> {
    const { run } = cells;
    const positions = run.tokens.map((_, position) => position);
    const request = readOf(run, reading, [layer], positions, 1, ids);
    const { value, buffers } = await this.transport.request("read", request).reply;
    const { arrays, header } = readTile(value, buffers);
    const n = header.tracked_ids.length;
    const known = this.#along.get(cells) ?? new Map<string, Along>();
    this.#along.set(cells, known);
    for (const id of ids) {
      const column = header.tracked_ids.indexOf(id);
      const log_probs = arrays.get("tracked_log_probs") as Float32Array;
      const ranks = arrays.get("tracked_ranks") as Int32Array;
      known.set(alongKey(reading, layer, id), {
        log_probs: Float32Array.from(positions, (_, i) => log_probs[i * n + column] ?? Number.NaN),
        ranks: Int32Array.from(positions, (_, i) => ranks[i * n + column] ?? -1),
      });
    }
    this.arrived();
  }
}

function alongKey({ site, lens }: Reading, layer: number, id: number): string {
  return [site, lens, layer, id].join("\n");
}

function readOf(
  run: RunInfo,
  { site, lens }: Reading,
  layers: readonly number[],
  positions: readonly number[],
  k: number,
  track: readonly number[],
): ReadRequest {
  return {
    run_id: run.id,
    layers,
    positions,
    site,
    lens,
    k: Math.min(k, run.d_vocab),
    track,
    metrics: [],
    against: null,
    show: "top",
  };
}
