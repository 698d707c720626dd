import type { ArrayDtype, Card, CardRef, Label, ReadoutHeader } from "../src/kernel/protocol.ts";

export const VOCABULARY = [
  "<|im_start|>",
  "␣the",
  "␣Paris",
  "Paris",
  "␣paris",
  "␣city",
  "␣of",
  "␣in",
  "⏎",
  "E2 82",
  "日本",
  "␣שלום",
  "🙂",
  "<img src=x onerror=alert(1)>",
  "␣Eiffel",
  "␣Tower",
  "␣is",
  "The",
  "␣France",
  "␣London",
  "␣capital",
  "␣a",
  "␣located",
  ",",
  ".",
  "␣and",
  "␣heart",
  "␣internationalisation",
] as const;
export const D_VOCAB = VOCABULARY.length;

export function labelOf(id: number): Label {
  const text = VOCABULARY[id] ?? `#${id}`;
  if (id === 0) return [text, "special", text];
  if (text === "⏎") return [text, "space", "\n"];
  if (text === "E2 82") return [text, "bytes", "e282"];
  return [text, id < D_VOCAB ? "text" : "none", text.replaceAll("␣", " ")];
}

function noise(...keys: number[]): number {
  let x = 2166136261;
  for (const key of keys) x = Math.imul(x ^ (key + 0x9e37), 16777619) ^ (x >>> 13);
  return ((x >>> 0) % 10007) / 10007;
}

/** Log-probs over the vocabulary of one cell; deeper cells are surer. */
export function logProbs(
  run_seed: number,
  layer: number,
  position: number,
  n_layers: number,
  temperature = 1,
): number[] {
  const depth = (layer + 1) / n_layers;
  const favourite = Math.floor(noise(run_seed, position) * (D_VOCAB - 1)) + 1;
  const logits = VOCABULARY.map(
    (_, id) =>
      (4 * noise(id, position, Math.floor(layer / 3)) + (id === favourite ? 9 * depth ** 2 : 0)) /
      temperature,
  );
  const total = Math.log(logits.reduce((sum, x) => sum + Math.exp(x), 0));
  return logits.map((x) => x - total);
}

/** A run of the fake model: its numbers follow from the seed. */
export interface FakeRun {
  readonly id: string;
  readonly seed: number;
  readonly n_layers: number;
}

type Token = { readonly id: number; readonly log_prob: number };

/** The vocabulary in one cell, most probable first. */
export function order(
  { seed, n_layers }: FakeRun,
  layer: number,
  position: number,
  temperature = 1,
): Token[] {
  const log_probs = logProbs(seed, layer, position, n_layers, temperature);
  return log_probs.map((log_prob, id) => ({ id, log_prob })).sort((a, b) => b.log_prob - a.log_prob);
}

const entropy = (tokens: readonly Token[]) =>
  -tokens.reduce((sum, { log_prob: x }) => sum + x * Math.exp(x), 0);
const rankOf = (tokens: readonly Token[], id: number) => tokens.findIndex((token) => token.id === id);

export interface FakeRead {
  readonly layers: readonly number[];
  readonly positions: readonly number[];
  readonly site: string;
  readonly lens: string;
  readonly k: number;
  readonly track: readonly number[];
  readonly metrics: readonly string[];
}

/** The arrays of a rectangle of cells: name, dtype, numbers, and the shape of one cell. */
function arraysOf(run: FakeRun, { layers, positions, track, metrics, ...asked }: FakeRead) {
  const cells = layers.flatMap((layer) => positions.map((position) => ({ layer, position })));
  const orders = cells.map(({ layer, position }) => order(run, layer, position));
  const k = Math.min(asked.k, D_VOCAB);
  const tops = orders.flatMap((tokens) => tokens.slice(0, k));
  const final = (position: number) => order(run, run.n_layers - 1, position)[0]?.id;
  const tracked = orders.flatMap((tokens) => track.map((id) => ({ tokens, rank: rankOf(tokens, id) })));
  const arrays: [string, ArrayDtype, number[], number[]][] = [
    ["ids", "int32", tops.map(({ id }) => id), [k]],
    ["log_probs", "float32", tops.map(({ log_prob }) => log_prob), [k]],
  ];
  if (metrics.includes("entropy")) arrays.push(["entropy_nats", "float32", orders.map(entropy), []]);
  if (metrics.includes("agrees")) {
    const agrees = cells.map(({ position }, i) => Number(orders[i]?.[0]?.id === final(position)));
    arrays.push(["agrees", "uint8", agrees, []]);
  }
  if (metrics.includes("kl")) {
    const kl = cells.map(({ layer }) => 6 * (1 - (layer + 1) / run.n_layers));
    arrays.push(["kl_from_final", "float32", kl, []]);
  }
  if (track.length) {
    const log_probs = tracked.map(({ tokens, rank }) => tokens[rank]?.log_prob ?? 0);
    arrays.push(["tracked_log_probs", "float32", log_probs, [track.length]]);
    arrays.push(["tracked_ranks", "int32", tracked.map(({ rank }) => rank), [track.length]]);
  }
  return arrays;
}

const ARRAY_OF_DTYPE = { int32: Int32Array, uint8: Uint8Array, float32: Float32Array };

/** A packed readout. */
export function fakeReadout(run: FakeRun, asked: FakeRead): { header: ReadoutHeader; buffers: DataView[] } {
  const { layers, positions, site, lens, track } = asked;
  const arrays = arraysOf(run, asked);
  const shape = [layers.length, positions.length];
  const header: ReadoutHeader = {
    run_id: run.id,
    site,
    lens,
    k: Math.min(asked.k, D_VOCAB),
    layers,
    positions,
    tracked_ids: track,
    arrays: arrays.map(([name, dtype, , tail]) => ({ name, dtype, shape: [...shape, ...tail] })),
    labels: Object.fromEntries(VOCABULARY.map((_, id) => [id, labelOf(id)])),
  };
  const buffers = arrays.map(
    ([, dtype, values]) => new DataView(ARRAY_OF_DTYPE[dtype].from(values).buffer as ArrayBuffer),
  );
  return { header, buffers };
}

/** A cell's card. */
export function fakeCard(run: FakeRun, asked: Required<CardRef> & { track: readonly number[] }): Card {
  const { track, ...ref } = asked;
  const tokens = order(run, ref.layer, ref.position, ref.temperature);
  const below = ref.layer < 0 ? null : order(run, ref.layer - 1, ref.position);
  const top = tokens.slice(0, ref.k);
  const moved = tokens
    .map(({ id, log_prob }) => ({
      id,
      label: labelOf(id),
      delta: log_prob - (below?.find((token) => token.id === id)?.log_prob ?? log_prob),
    }))
    .sort((a, b) => b.delta - a.delta);
  return {
    ...ref,
    run_id: run.id,
    k: top.length,
    ids: top.map(({ id }) => id),
    labels: top.map(({ id }) => labelOf(id)),
    log_probs: top.map(({ log_prob }) => log_prob),
    logits: top.map(({ log_prob }) => log_prob + 20),
    entropy_nats: entropy(tokens),
    rank_below: top.map(({ id }) => (below ? rankOf(below, id) : null)),
    layer_below: below ? ref.layer - 1 : null,
    promoted: below ? moved.slice(0, 5) : [],
    suppressed: below ? moved.slice(-5).reverse() : [],
    tracked: track.map((id) => ({
      id,
      rank: rankOf(tokens, id),
      log_prob: tokens.find((token) => token.id === id)?.log_prob ?? 0,
    })),
  };
}
