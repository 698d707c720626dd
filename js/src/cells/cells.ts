import type { Label, Labels, Reading, RunInfo } from "../kernel/protocol.ts";
import { UNKNOWN } from "../look/format.ts";
import { Floors } from "./floors.ts";
import type { Tile } from "./packed.ts";

/** Where each cell's field lies: the number of its tile, from 1 (0: not computed), and its index in the tile. */
interface Field {
  readonly tile: Uint32Array;
  readonly index: Uint32Array;
}

/** The fields that a tile may bring; each tracked token is a field, `rank:ID`. */
export type FieldName = "top" | "pair" | Scalar | `shown:${string}` | `rank:${number}` | `was:${number}`;
/**
 * The fields of one number, by the names of the kernel's metrics. Of two runs: `change` is KL(before || after),
 * `change_back` KL(after || before), `js` their Jensen-Shannon divergence.
 */
export type Scalar = "entropy" | "kl" | "agrees" | "change" | "change_back" | "js";

/** The cells of one run at one site through one lens. Grows as tiles arrive; tiles are kept, not copied. */
export interface Table {
  readonly tiles: Tile[];
  readonly fields: Map<FieldName, Field>;
}

export interface TopToken {
  readonly id: number;
  readonly log_prob: number;
}

const ARRAY_OF: Record<Scalar | "top" | "pair", string> = {
  top: "log_probs",
  pair: "reference_ids",
  entropy: "entropy_nats",
  kl: "kl_from_final",
  agrees: "agrees",
  change: "kl_from_reference",
  change_back: "kl_to_reference",
  js: "js_reference",
};

/** Fields that are of two runs. */
const OF_TWO = /^(change|change_back|js|pair|was:\d+)$/;

export function isScalar(name: string): name is Scalar {
  return name in ARRAY_OF;
}

/** The numbers of a run's cells. They lie outside the state, which only counts their versions. */
export class Cells {
  readonly labels = new Map<number, Label>();
  readonly floors = new Floors();
  readonly #tables = new Map<string, Table>();
  /** The table that was asked for last: the next cell mostly is of the same. */
  #last: (Reading & { readonly table: Table }) | null = null;
  readonly #size: number;
  readonly #seq: number;

  constructor(readonly run: RunInfo) {
    this.#seq = run.tokens.length;
    this.#size = (run.n_layers + 1) * this.#seq;
    this.addLabels(run.labels);
  }

  addLabels(labels: Labels): void {
    for (const [id, label] of Object.entries(labels)) this.labels.set(Number(id), label);
  }

  /** Take over the numbers of the first columns of another run, which are this run's too. */
  takeOver(other: Cells, n_columns: number): void {
    for (const [id, label] of other.labels) if (!this.labels.has(id)) this.labels.set(id, label);
    for (const [key, { tiles, fields }] of other.#tables) {
      const taken = new Map<FieldName, Field>();
      for (const [name, field] of fields) {
        // a comparison with another run is not of the column alone
        if (name === "change" || name.startsWith("was:")) continue;
        taken.set(name, {
          tile: this.#relaid(field.tile, other.#seq, n_columns),
          index: this.#relaid(field.index, other.#seq, n_columns),
        });
      }
      this.#tables.set(key, { tiles: [...tiles], fields: taken });
      this.#last = null;
    }
  }

  /** Of an array over the cells of a grid that is `seq` columns wide, the first columns in this run's grid. */
  #relaid(array: Uint32Array, seq: number, n_columns: number): Uint32Array {
    const n = Math.min(n_columns, seq, this.#seq);
    const relaid = new Uint32Array(this.#size);
    for (let row = 0; row <= this.run.n_layers; row++)
      relaid.set(array.subarray(row * seq, row * seq + n), row * this.#seq);
    return relaid;
  }

  #at(layer: number, position: number): number {
    return (layer + 1) * this.#seq + position;
  }

  #table({ site, lens }: Reading): Table {
    if (this.#last?.site === site && this.#last.lens === lens) return this.#last.table;
    const key = `${site}\n${lens}`;
    let table = this.#tables.get(key);
    if (!table) {
      table = { tiles: [], fields: new Map() };
      this.#tables.set(key, table);
    }
    this.#last = { site, lens, table };
    return table;
  }

  /** Add a tile; a newer value of a cell replaces an older one. False, and nothing added, for a tile of another run. */
  add(tile: Tile): boolean {
    const { header, arrays } = tile;
    if (header.run_id !== this.run.id) return false;
    this.addLabels(header.labels);
    const table = this.#table(header);
    table.tiles.push(tile);
    const names = (Object.keys(ARRAY_OF) as FieldName[]).filter((name) =>
      arrays.has(ARRAY_OF[name as Scalar]),
    );
    for (const id of header.tracked_ids) {
      if (arrays.has("tracked_ranks")) names.push(`rank:${id}`);
      if (arrays.has("reference_tracked_ranks")) names.push(`was:${id}`);
    }
    if (arrays.has("shown_ids")) names.push(`shown:${header.show ?? ""}`);
    if (header.floor) this.floors.add(header, header.show ?? "top", header.floor);
    for (const name of names) this.#place(table, name, tile);
    return true;
  }

  #place(table: Table, name: FieldName, { header }: Tile): void {
    let field = table.fields.get(name);
    if (!field) {
      field = { tile: new Uint32Array(this.#size), index: new Uint32Array(this.#size) };
      table.fields.set(name, field);
    }
    let index = 0;
    for (const layer of header.layers) {
      for (const position of header.positions) {
        const cell = this.#at(layer, position);
        field.tile[cell] = table.tiles.length;
        field.index[cell] = index++;
      }
    }
  }

  /** The tiles of a reading, in the order in which they came; more are added at the end. */
  tilesOf(reading: Reading): readonly Tile[] {
    return this.#table(reading).tiles;
  }

  has(reading: Reading, field: FieldName, layer: number, position: number): boolean {
    return !!this.#table(reading).fields.get(field)?.tile[this.#at(layer, position)];
  }

  /** The arrays that hold a field of a cell, and the cell's index in them; undefined when not computed. */
  #find(reading: Reading, name: FieldName, layer: number, position: number) {
    const table = this.#table(reading);
    const field = table.fields.get(name);
    const cell = this.#at(layer, position);
    const number = field?.tile[cell];
    const tile = number ? table.tiles[number - 1] : undefined;
    const index = field?.index[cell] ?? 0;
    // the id is -1 where the cell is not finite, and -2 where there is none: the lens cannot carry the row, or one
    // of two runs lacks the column
    const isThere = (array: string) => tile?.arrays.get(array)?.[index * tile.header.k] !== -2;
    if (!tile || !isThere("ids") || (OF_TWO.test(name) && !isThere("reference_ids"))) return undefined;
    return { tile, index };
  }

  /** Whether the top tokens of two runs are the same: 1 or 0, NaN where one has none. */
  agreement(reading: Reading, layer: number, position: number): number | undefined {
    const found = this.#find(reading, "pair", layer, position);
    if (!found) return undefined;
    const [own = -1, theirs = -1] = ["ids", "reference_ids"].map(
      (name) => found.tile.arrays.get(name)?.[found.index * found.tile.header.k],
    );
    return own < 0 || theirs < 0 ? UNKNOWN : Number(own === theirs);
  }

  /** The i-th best token of a cell, or undefined when that was not computed. */
  top(reading: Reading, layer: number, position: number, i = 0): TopToken | undefined {
    const found = this.#find(reading, "top", layer, position);
    if (!found || i >= found.tile.header.k) return undefined;
    const at = found.index * found.tile.header.k + i;
    const id = found.tile.arrays.get("ids")?.[at];
    const log_prob = found.tile.arrays.get("log_probs")?.[at];
    return id === undefined || log_prob === undefined ? undefined : { id, log_prob };
  }

  /** The best tokens that are known of a cell, at most `k`. */
  tops(reading: Reading, layer: number, position: number, k: number): TopToken[] {
    const found: TopToken[] = [];
    for (let i = 0; i < k; i++) {
      const token = this.top(reading, layer, position, i);
      if (!token || (i && token.id < 0)) break;
      found.push(token);
    }
    return found;
  }

  /** The token that was chosen to stand in a cell, where that is not the top one. */
  shown(reading: Reading, show: string, layer: number, position: number) {
    const found = this.#find(reading, `shown:${show}`, layer, position);
    if (!found) return undefined;
    const { arrays } = found.tile;
    const value = (name: string) => arrays.get(`shown_${name}`)?.[found.index];
    const lift = value("lifts");
    const token = {
      id: value("ids") ?? -1,
      log_prob: value("log_probs") ?? UNKNOWN,
      rank: value("ranks") ?? -1,
    };
    return lift === undefined ? token : { ...token, lift };
  }

  scalar(reading: Reading, name: Scalar, layer: number, position: number) {
    const found = this.#find(reading, name, layer, position);
    return found?.tile.arrays.get(ARRAY_OF[name])?.[found.index];
  }

  /** A tracked token's log-prob and exact rank in a cell. */
  tracked(reading: Reading, id: number, layer: number, position: number) {
    return this.#trackedIn(`rank:${id}`, "tracked", reading, id, layer, position);
  }

  /** The same before and after the run's edits. */
  trackedChange(reading: Reading, id: number, layer: number, position: number) {
    const before = this.#trackedIn(`was:${id}`, "reference_tracked", reading, id, layer, position);
    const after = this.#trackedIn(`was:${id}`, "tracked", reading, id, layer, position);
    return before && after && { before, after };
  }

  #trackedIn(
    field: FieldName,
    prefix: string,
    reading: Reading,
    id: number,
    layer: number,
    position: number,
  ) {
    const found = this.#find(reading, field, layer, position);
    if (!found) return undefined;
    const { header, arrays } = found.tile;
    const at = found.index * header.tracked_ids.length + header.tracked_ids.indexOf(id);
    return {
      log_prob: arrays.get(`${prefix}_log_probs`)?.[at] ?? UNKNOWN,
      rank: arrays.get(`${prefix}_ranks`)?.[at],
    };
  }

  label(id: number): Label {
    return this.labels.get(id) ?? [`#${id}`, "none", ""];
  }
}
