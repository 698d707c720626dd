import type { ArrayDtype, Card, Label, ReadoutHeader, RunInfo, Traits } from "../src/kernel/protocol.ts";
import { DEFAULTS } from "../src/kernel/traits.ts";
import type { HostModel } from "../src/kernel/transport.ts";

/** A kernel that speaks the protocol from made-up numbers, which are a pure function of the cell. */
export interface FakeOptions {
  readonly n_layers?: number;
  readonly words?: readonly string[];
  readonly delay_ms?: number;
  readonly k?: number;
  /** Positions in the snapshot; the rest must be read. */
  readonly n_snapshot?: number;
  readonly traits?: Partial<Traits>;
}

const VOCABULARY = [
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

export class FakeKernel implements HostModel {
  readonly values: Record<string, unknown>;
  readonly sent: { id: string; kind: string; [field: string]: unknown }[] = [];
  isSilent = false;
  private readonly callbacks = new Map<string, Set<(...args: never[]) => void>>();
  private n_runs = 0;
  private readonly n_layers: number;
  private readonly delay_ms: number;

  constructor(private readonly options: FakeOptions = {}) {
    this.n_layers = options.n_layers ?? 12;
    this.delay_ms = options.delay_ms ?? 0;
    this.values = {
      ...DEFAULTS,
      k: options.k ?? 5,
      prompt: "The Eiffel Tower is in the city of",
      ...options.traits,
    };
    this.start();
  }

  get run(): RunInfo {
    return this.values.run as RunInfo;
  }

  private start(): void {
    const words = this.options.words ?? [
      "<|im_start|>",
      "The",
      "␣Eiffel",
      "␣Tower",
      "␣is",
      "␣in",
      "␣the",
      "␣city",
      "␣of",
    ];
    const tokens = words.map((word) => Math.max(0, VOCABULARY.indexOf(word as never)));
    const next = this.order(this.n_layers - 1, tokens.length - 1)[0];
    this.values.run = {
      id: `run${this.n_runs++}`,
      prompt: this.values.prompt,
      model: "SmolLM2-135M-Instruct",
      dtype: "float32",
      quantization: null,
      n_layers: this.n_layers,
      d_vocab: D_VOCAB,
      tokens,
      labels: Object.fromEntries([...tokens, next?.id ?? 0].map((id) => [id, labelOf(id)])),
      next,
      special: tokens.map((id) => id === 0),
      sites: ["resid_post", "resid_mid"],
      lenses: ["logit"],
      max_length: 8192,
      fidelity: {
        ok: true,
        max_abs_error: 1.2e-5,
        tolerance: 1e-3,
        text: "Last row equals the model’s own logits within 1.2e-05 at 9 positions.",
      },
    };
    const n = Math.min(this.options.n_snapshot ?? 64, tokens.length);
    const layers = Array.from({ length: this.n_layers + 1 }, (_, row) => row - 1);
    const positions = Array.from({ length: n }, (_, i) => tokens.length - n + i);
    const { header, buffers } = this.readout({
      layers,
      positions,
      site: "resid_post",
      lens: "logit",
      k: this.values.k as number,
      track: [],
      metrics: ["entropy"],
    });
    this.values.snapshot = { header, buffers };
  }

  private order(layer: number, position: number, temperature = 1) {
    const log_probs = logProbs(1, layer, position, this.n_layers, temperature);
    return log_probs.map((log_prob, id) => ({ id, log_prob })).sort((a, b) => b.log_prob - a.log_prob);
  }

  readout(ask: {
    layers: number[];
    positions: number[];
    site: string;
    lens: string;
    k: number;
    track: number[];
    metrics: string[];
  }) {
    const cells = ask.layers.flatMap((layer) => ask.positions.map((position) => ({ layer, position })));
    const orders = cells.map(({ layer, position }) => this.order(layer, position));
    const k = Math.min(ask.k, D_VOCAB);
    const named: [string, ArrayDtype, number[], number[]][] = [
      ["ids", "int32", orders.flatMap((order) => order.slice(0, k).map(({ id }) => id)), [k]],
      [
        "log_probs",
        "float32",
        orders.flatMap((order) => order.slice(0, k).map(({ log_prob }) => log_prob)),
        [k],
      ],
    ];
    const entropy = (order: { log_prob: number }[]) =>
      -order.reduce((sum, { log_prob: x }) => sum + x * Math.exp(x), 0);
    if (ask.metrics.includes("entropy")) named.push(["entropy_nats", "float32", orders.map(entropy), []]);
    if (ask.metrics.includes("agrees"))
      named.push([
        "agrees",
        "uint8",
        cells.map(({ position }, i) =>
          Number(orders[i]?.[0]?.id === this.order(this.n_layers - 1, position)[0]?.id),
        ),
        [],
      ]);
    if (ask.metrics.includes("kl"))
      named.push([
        "kl_from_final",
        "float32",
        cells.map(({ layer }) => 6 * (1 - (layer + 1) / this.n_layers)),
        [],
      ]);
    if (ask.track.length) {
      const ranks = orders.flatMap((order) =>
        ask.track.map((id) => order.findIndex((token) => token.id === id)),
      );
      named.push([
        "tracked_log_probs",
        "float32",
        orders.flatMap((order, i) =>
          ask.track.map((_, t) => order[ranks[i * ask.track.length + t] ?? 0]?.log_prob ?? 0),
        ),
        [ask.track.length],
      ]);
      named.push(["tracked_ranks", "int32", ranks, [ask.track.length]]);
    }
    const shape = [ask.layers.length, ask.positions.length];
    const header: ReadoutHeader = {
      run_id: this.run.id,
      site: ask.site,
      lens: ask.lens,
      k,
      layers: ask.layers,
      positions: ask.positions,
      tracked_ids: ask.track,
      arrays: named.map(([name, dtype, , tail]) => ({ name, dtype, shape: [...shape, ...tail] })),
      labels: Object.fromEntries(VOCABULARY.map((_, id) => [id, labelOf(id)])),
    };
    const buffers = named.map(
      ([, dtype, values]) =>
        new DataView(
          (dtype === "int32"
            ? Int32Array.from(values)
            : dtype === "uint8"
              ? Uint8Array.from(values)
              : Float32Array.from(values)
          ).buffer,
        ),
    );
    return { header, buffers };
  }

  card(ask: {
    layer: number;
    position: number;
    site: string;
    lens: string;
    k: number;
    temperature: number;
    track: number[];
  }): Card {
    const order = this.order(ask.layer, ask.position, ask.temperature);
    const below = ask.layer < 0 ? null : this.order(ask.layer - 1, ask.position);
    const rank = (where: { id: number }[] | null, id: number) =>
      where?.findIndex((token) => token.id === id) ?? null;
    const top = order.slice(0, ask.k);
    const moved = order.map(({ id, log_prob }) => ({
      id,
      label: labelOf(id),
      delta: log_prob - (below?.find((token) => token.id === id)?.log_prob ?? log_prob),
    }));
    moved.sort((a, b) => b.delta - a.delta);
    return {
      run_id: this.run.id,
      layer: ask.layer,
      position: ask.position,
      site: ask.site,
      lens: ask.lens,
      k: ask.k,
      temperature: ask.temperature,
      ids: top.map(({ id }) => id),
      labels: top.map(({ id }) => labelOf(id)),
      log_probs: top.map(({ log_prob }) => log_prob),
      logits: top.map(({ log_prob }) => log_prob + 20),
      entropy_nats: -order.reduce((sum, { log_prob: x }) => sum + x * Math.exp(x), 0),
      rank_below: top.map(({ id }) => rank(below, id)),
      layer_below: ask.layer < 0 ? null : ask.layer - 1,
      promoted: below ? moved.slice(0, 5) : [],
      suppressed: below ? moved.slice(-5).reverse() : [],
      tracked: ask.track.map((id) => ({
        id,
        rank: rank(order, id) ?? 0,
        log_prob: order.find((token) => token.id === id)?.log_prob ?? 0,
      })),
    };
  }

  private answer(
    message: Record<string, unknown>,
  ): { value: unknown; buffers?: DataView[] } | { error: { type: string; message: string } } {
    switch (message.kind) {
      case "read": {
        const { header, buffers } = this.readout(message as never);
        return { value: header, buffers };
      }
      case "decode": {
        const card = this.card(message as never);
        if (message.select !== false)
          this.change({ selection: { layer: card.layer, position: card.position }, decoded: card });
        return { value: card };
      }
      case "run": {
        if (!message.prompt)
          return {
            error: { type: "PromptError", message: "The prompt is empty. Type at least one character." },
          };
        this.values.prompt = message.prompt;
        this.start();
        this.change({
          prompt: this.values.prompt as string,
          run: this.values.run as RunInfo,
          snapshot: this.values.snapshot as never,
        });
        return { value: { run_id: this.run.id } };
      }
      case "search": {
        const wanted = String(message.text).trim().toLowerCase();
        const ids = VOCABULARY.map((_, id) => id).filter((id) =>
          labelOf(id)[2].toLowerCase().includes(wanted),
        );
        return { value: { matches: ids.map((id) => ({ id, label: labelOf(id) })) } };
      }
      case "code":
        return { value: { code: "with model.trace(prompt):\n    ..." } };
      default:
        return { value: {} };
    }
  }

  /** Traits change in the kernel. */
  change(traits: Partial<Traits>): void {
    Object.assign(this.values, traits);
    for (const name of Object.keys(traits)) this.emit(`change:${name}`);
  }

  emit(event: string, ...args: unknown[]): void {
    for (const callback of this.callbacks.get(event) ?? []) callback(...(args as never[]));
  }

  get(name: string): unknown {
    return this.values[name];
  }
  set(name: string, value: unknown): void {
    this.values[name] = value;
  }
  save_changes(): void {}
  send(content: unknown): void {
    const message = content as { id: string; kind: string };
    this.sent.push(message);
    if (this.isSilent) return;
    const reply = () => {
      const { buffers, ...answer } = { buffers: [] as DataView[], ...this.answer(message) };
      this.emit("msg:custom", { id: message.id, ...answer }, buffers);
    };
    setTimeout(reply, this.delay_ms);
  }
  on(event: string, callback: (...args: never[]) => void): void {
    const set = this.callbacks.get(event) ?? new Set();
    this.callbacks.set(event, set.add(callback));
  }
  off(event: string, callback: (...args: never[]) => void): void {
    this.callbacks.get(event)?.delete(callback);
  }
  n_listeners(): number {
    return [...this.callbacks.values()].reduce((sum, set) => sum + set.size, 0);
  }
}
