import type { Reading, TrajectoryMetric } from "../kernel/protocol.ts";
import type { Transport } from "../kernel/transport.ts";
import { UNKNOWN } from "../look/format.ts";
import { lowestRow } from "../look/layout.ts";
import type { Cells } from "./cells.ts";
import { readTile } from "./packed.ts";

/** One token at one position through all layers; index 0 is the embedding row. NaN and -1: not computed. */
export interface Track {
  readonly log_probs: Float32Array;
  readonly ranks: Int32Array;
  /** False for one made of stored top tokens, which has gaps. */
  isExact: boolean;
}

export interface Trajectories {
  /** The exact track if it was fetched, else one made of the stored cells. */
  track(cells: Cells, reading: Reading, position: number, id: number): Track;
  /** Fetch the tracks that are missing. One request is in flight; the next is chosen from the latest wishes. */
  want(cells: Cells, wishes: readonly Wish[]): void;
}

/** Tokens whose tracks are wanted at some positions. */
export interface Wish extends Reading {
  readonly positions: readonly number[];
  readonly ids: readonly number[];
}

function blank(n_rows: number, isExact: boolean): Track {
  return {
    log_probs: new Float32Array(n_rows).fill(UNKNOWN),
    ranks: new Int32Array(n_rows).fill(-1),
    isExact,
  };
}

/** A token's track from the stored cells: exact where it was tracked at every layer, else only where it is a top token. */
export function storedTrack(cells: Cells, reading: Reading, position: number, id: number): Track {
  const { n_layers } = cells.run;
  const track = blank(n_layers + 1, true);
  for (let layer = lowestRow(reading.site); layer < n_layers; layer++) {
    const tracked = cells.tracked(reading, id, layer, position);
    const tops = tracked ? [] : cells.tops(reading, layer, position, 100);
    const rank = tops.findIndex((token) => token.id === id);
    track.isExact &&= !!tracked;
    track.log_probs[layer + 1] = (tracked ?? tops[rank])?.log_prob ?? UNKNOWN;
    track.ranks[layer + 1] = tracked?.rank ?? rank;
  }
  return track;
}

/** The same along the columns of one layer. */
export function storedAlong(
  cells: Cells,
  reading: Reading,
  layer: number,
  id: number,
): Omit<Track, "isExact"> {
  const n = cells.run.tokens.length;
  const track = { log_probs: new Float32Array(n).fill(UNKNOWN), ranks: new Int32Array(n).fill(-1) };
  for (let position = 0; position < n; position++) {
    const tracked = cells.tracked(reading, id, layer, position);
    const tops = tracked ? [] : cells.tops(reading, layer, position, 100);
    const rank = tops.findIndex((token) => token.id === id);
    track.log_probs[position] = (tracked ?? tops[rank])?.log_prob ?? UNKNOWN;
    track.ranks[position] = tracked?.rank ?? rank;
  }
  return track;
}

/** Sums the probabilities of several surface forms, and takes the best of their ranks. Unknown if one form is unknown. */
export function combine(tracks: readonly Omit<Track, "isExact">[], metric: TrajectoryMetric): number[] {
  const n_rows = tracks[0]?.ranks.length ?? 0;
  return Array.from({ length: n_rows }, (_, row) => {
    if (metric === "rank") {
      const best = tracks.map((track) => track.ranks[row] ?? -1);
      return best.includes(-1) ? UNKNOWN : Math.min(...best);
    }
    const p = tracks.reduce((sum, track) => sum + Math.exp(track.log_probs[row] ?? UNKNOWN), 0);
    return metric === "prob" ? p : Math.log(p);
  });
}

export function createTrajectories(transport: Transport, arrived: () => void): Trajectories {
  /** Of each run's cells: the tracks that were fetched, and null for those that the kernel refused. */
  const fetched = new WeakMap<Cells, Map<string, Track | null>>();
  let isBusy = false;
  let wanted: { cells: Cells; wishes: readonly Wish[] } | null = null;
  const key = ({ site, lens }: Reading, position: number, id: number) =>
    [site, lens, position, id].join("\n");

  function tracksOf(cells: Cells): Map<string, Track | null> {
    let tracks = fetched.get(cells);
    if (!tracks) {
      tracks = new Map();
      fetched.set(cells, tracks);
    }
    return tracks;
  }

  async function fetch(
    cells: Cells,
    reading: Reading,
    position: number,
    ids: readonly number[],
  ): Promise<void> {
    isBusy = true;
    const { site, lens } = reading;
    const { n_layers, id: run_id } = cells.run;
    const layers = Array.from({ length: n_layers + 1 }, (_, row) => row - 1).filter(
      (layer) => layer >= lowestRow(site),
    );
    try {
      const request = {
        run_id,
        layers,
        positions: [position],
        site,
        lens,
        k: 1,
        track: ids,
        metrics: [],
        against: null,
        show: "top",
      } as const;
      const { value, buffers } = await transport.request("read", request).reply;
      const { arrays, header } = readTile(value, buffers);
      cells.addLabels(header.labels);
      ids.forEach((id) => {
        const column = header.tracked_ids.indexOf(id);
        const track = blank(n_layers + 1, true);
        header.layers.forEach((layer, row) => {
          const at = row * header.tracked_ids.length + column;
          track.log_probs[layer + 1] = arrays.get("tracked_log_probs")?.[at] ?? UNKNOWN;
          track.ranks[layer + 1] = arrays.get("tracked_ranks")?.[at] ?? -1;
        });
        tracksOf(cells).set(key(reading, position, id), track);
      });
      arrived();
    } catch {
      // the chart then draws the stored cells, and says that it has gaps
      for (const id of ids) tracksOf(cells).set(key(reading, position, id), null);
    } finally {
      isBusy = false;
      fetchNext();
    }
  }

  function fetchNext(): void {
    if (isBusy || !wanted) return;
    const { cells, wishes } = wanted;
    for (const wish of wishes) {
      for (const position of wish.positions) {
        const missing = wish.ids.filter((id) => !tracksOf(cells).has(key(wish, position, id)));
        if (missing.length) return void fetch(cells, wish, position, missing);
      }
    }
  }

  return {
    track(cells, reading, position, id) {
      return tracksOf(cells).get(key(reading, position, id)) ?? storedTrack(cells, reading, position, id);
    },
    want(cells, wishes) {
      wanted = { cells, wishes };
      fetchNext();
    },
  };
}
