import type {
  Card,
  CardRef,
  CellRef,
  Incoming,
  Quality,
  RunInfo,
  Why,
  WhyRequest,
  WhyTerm,
} from "../src/kernel/protocol.ts";
import { DEFAULTS, type Traits } from "../src/kernel/traits.ts";
import type { HostModel } from "../src/kernel/transport.ts";
import { D_VOCAB, type FakeRead, fakeCard, fakeReadout, labelOf, order, VOCABULARY } from "./fakenumbers.ts";

export interface FakeOptions {
  /** What was measured of the logit lens. */
  readonly quality?: Quality;
  readonly n_layers?: number;
  readonly words?: readonly string[];
  readonly delay_ms?: number;
  readonly k?: number;
  /** Positions in the snapshot; the page must read the rest. */
  readonly n_snapshot?: number;
  /** Model inputs that came with the first prompt. */
  readonly extras?: readonly string[];
  readonly traits?: Partial<Traits>;
}

const PROMPT = "The Eiffel Tower is in the city of";
const WORDS = ["<|im_start|>", "The", "␣Eiffel", "␣Tower", "␣is", "␣in", "␣the", "␣city", "␣of"];

/** A reply, with what the kernel does after it is sent. */
interface Answer {
  readonly value: unknown;
  readonly buffers?: readonly DataView[];
  readonly after?: () => void;
}

class Refusal extends Error {
  constructor(
    readonly type: string,
    message: string,
  ) {
    super(message);
  }
}

const isEqual = (a: unknown, b: unknown) => a === b || JSON.stringify(a) === JSON.stringify(b);

/** A kernel and a host's model that speak the protocol. Its numbers are made up, and follow from run and cell. */
export class FakeKernel implements HostModel {
  readonly values: Record<string, unknown>;
  readonly sent: { id: string; kind: string; [field: string]: unknown }[] = [];
  /** A silent kernel answers nothing. */
  isSilent = false;
  readonly #callbacks = new Map<string, Set<(...args: never[]) => void>>();
  readonly #runs = new Map<string, RunInfo>();
  /** Traits that the page set and has not saved. */
  readonly #unsaved = new Set<string>();
  readonly #n_layers: number;
  readonly #options: FakeOptions;

  constructor(options: FakeOptions = {}) {
    this.#options = options;
    this.#n_layers = options.n_layers ?? 12;
    this.values = { ...DEFAULTS, k: options.k ?? 5, prompt: PROMPT, ...options.traits };
    Object.assign(this.values, this.#start(this.values.prompt as string, options.extras ?? []));
  }

  /** The run that the widget shows. */
  get run(): RunInfo {
    return this.values.run as RunInfo;
  }

  #fakeRun(run_id: string) {
    const { id, n_layers } = this.#runs.get(run_id) as RunInfo;
    return { id, n_layers, seed: 1 + Number(id.slice(3)) };
  }

  /** Run a prompt; the traits that follow from it. */
  #start(prompt: string | readonly number[], extras: readonly string[]): Partial<Traits> {
    const words = this.#options.words ?? WORDS;
    const tokens = words.map((word) => Math.max(0, VOCABULARY.indexOf(word as never)));
    const id = `run${this.#runs.size}`;
    const seed = 1 + this.#runs.size;
    const next = order({ id, seed, n_layers: this.#n_layers }, this.#n_layers - 1, tokens.length - 1)[0];
    const run: RunInfo = {
      id,
      prompt: typeof prompt === "string" ? prompt : words.join(""),
      is_text: typeof prompt === "string",
      extras,
      notes: extras.map((name) => `${name} came with the prompt`),
      model: "SmolLM2-135M-Instruct",
      dtype: "float32",
      quantization: null,
      n_layers: this.#n_layers,
      d_vocab: D_VOCAB,
      tokens,
      labels: Object.fromEntries([...tokens, next?.id ?? 0].map((id) => [id, labelOf(id)])),
      next: next ?? { id: 0, log_prob: 0 },
      special: tokens.map((id) => id === 0),
      sites: ["resid_post", "resid_mid"],
      lenses: this.#options.quality ? ["logit", "tuned"] : ["logit"],
      lens_quality: this.#options.quality ? { logit: this.#options.quality } : {},
      max_length: 8192,
      fidelity: {
        ok: true,
        max_abs_error: 1.2e-5,
        tolerance: 1e-3,
        text: "Last row equals the model’s own logits within 1.2e-05 at 9 positions.",
      },
    };
    this.#runs.set(id, run);
    return { run, prompt, snapshot: this.#snapshot(run) };
  }

  #snapshot({ id, tokens }: RunInfo) {
    const { site, lens, k } = this.values as unknown as Traits;
    const n = Math.min(this.#options.n_snapshot ?? 64, tokens.length);
    return this.readout({
      run_id: id,
      layers: Array.from({ length: this.#n_layers + 1 }, (_, row) => row - 1),
      positions: Array.from({ length: n }, (_, i) => tokens.length - n + i),
      site,
      lens,
      k,
      track: [],
      metrics: ["entropy"],
    });
  }

  readout({ run_id = this.run.id, ...asked }: FakeRead & { run_id?: string }) {
    return fakeReadout(this.#fakeRun(run_id), asked);
  }

  card({
    run_id = this.run.id,
    ...asked
  }: Required<CardRef> & { track: readonly number[]; run_id?: string }) {
    const { layer, position, site, lens, k, temperature, track } = asked;
    return fakeCard(this.#fakeRun(run_id), { layer, position, site, lens, k, temperature, track });
  }

  /** The card of a cell as the grid is read. */
  decoded(cell: CellRef): Card {
    const { site, lens, card_k: k } = this.values as unknown as Traits;
    return this.card({ ...cell, site, lens, k, temperature: 1, track: [] });
  }

  #answer(message: Record<string, unknown>): Answer {
    if ("run_id" in message && !this.#runs.has(String(message.run_id)))
      throw new Refusal("CellError", "This widget has let go of that run. Ask about a run that it has.");
    switch (message.kind) {
      case "read": {
        const { header, buffers } = this.readout(message as never);
        return { value: header, buffers };
      }
      case "decode": {
        const card = this.card(message as never);
        const selection = { layer: card.layer, position: card.position };
        const select = () => this.change({ decoded: card, selection });
        return { value: card, ...(message.select ? { after: select } : {}) };
      }
      case "run":
        return { value: { run_id: this.#run(message) } };
      case "search": {
        const wanted = String(message.text).trim().toLowerCase();
        const ids = VOCABULARY.map((_, id) => id).filter((id) =>
          labelOf(id)[2].toLowerCase().includes(wanted),
        );
        return { value: { matches: ids.map((id) => ({ id, label: labelOf(id) })) } };
      }
      case "why":
        return { value: fakeWhy(message as never) };
      case "attention": {
        const { layer, position } = message as unknown as { layer: number; position: number };
        const row = Array.from({ length: this.run.tokens.length }, (_, i) =>
          i > position ? 0 : i ? 0.1 : 0.5,
        );
        return {
          value: { layer, position, weights: [row, row.map((x) => x / 2)], read: row, sinks: [0] },
        };
      }
      case "code":
        return { value: { code: "with model.trace(prompt):\n    ..." } };
      default:
        return { value: {} };
    }
  }

  /** Run a text, or the inputs of an earlier run; the traits change before the reply. */
  #run({ prompt, again }: { readonly prompt?: unknown; readonly again?: unknown }): string {
    const earlier = this.#runs.get(String(again));
    if (!earlier && !prompt)
      throw new Refusal("PromptError", "The prompt is empty. Type at least one character.");
    const { is_text, tokens } = earlier ?? { is_text: true, tokens: [] };
    const traits = this.#start(is_text ? (earlier?.prompt ?? String(prompt)) : tokens, earlier?.extras ?? []);
    const { selection } = this.values as unknown as Traits;
    this.values.run = traits.run;
    this.change({ ...traits, decoded: selection && this.decoded(selection) });
    return this.run.id;
  }

  /** Python sets the selection: two messages, as traitlets sends them. */
  select(selection: CellRef | null): void {
    this.change({ selection });
    this.change({ decoded: selection && this.decoded(selection) });
  }

  /** Traits change in the kernel; the host tells the page of those whose value is another one. */
  change(traits: Partial<Traits>): void {
    const news = Object.entries(traits).filter(
      ([name, value]) => name === "run" || !isEqual(this.values[name], value),
    );
    Object.assign(this.values, Object.fromEntries(news));
    for (const [name] of news) this.emit(`change:${name}`);
  }

  emit(event: string, ...args: unknown[]): void {
    for (const callback of this.#callbacks.get(event) ?? []) callback(...(args as never[]));
  }

  get(name: string): unknown {
    return this.values[name];
  }

  /** The page sets a trait: as with any model of a host, its views hear of that too. */
  set(name: string, value: unknown): void {
    this.#unsaved.add(name);
    if (isEqual(this.values[name], value)) return;
    this.values[name] = value;
    this.emit(`change:${name}`);
  }

  /** The kernel hears of what the page set, and follows. */
  save_changes(): void {
    const names = new Set(this.#unsaved);
    this.#unsaved.clear();
    if (this.isSilent) return;
    setTimeout(() => {
      const { selection, decoded } = this.values as unknown as Traits;
      const isRead = names.has("site") || names.has("lens");
      if (isRead) this.change({ snapshot: this.#snapshot(this.run) });
      const isDecoded =
        decoded &&
        selection &&
        isEqual([decoded.layer, decoded.position], [selection.layer, selection.position]);
      if (!selection) this.change({ decoded: null });
      else if (isRead || !isDecoded) this.change({ decoded: this.decoded(selection) });
    }, this.#options.delay_ms ?? 0);
  }

  send(content: unknown): void {
    const message = content as { id: string; kind: string };
    this.sent.push(message);
    if (!this.isSilent) setTimeout(() => this.reply(message), this.#options.delay_ms ?? 0);
  }

  /** Answer a message now. */
  reply(message: { id: string; kind: string }): void {
    let answer: Answer = { value: {} };
    let error: { type: string; message: string } | null = null;
    try {
      answer = this.#answer(message);
    } catch (refusal) {
      const { type, message } = refusal as Refusal;
      error = { type, message };
    }
    const { value, buffers = [], after } = answer;
    const { id } = message;
    this.emit("msg:custom", (error ? { id, error } : { id, value }) satisfies Incoming, buffers);
    after?.();
  }

  on(event: string, callback: (...args: never[]) => void): void {
    const set = this.#callbacks.get(event) ?? new Set();
    this.#callbacks.set(event, set.add(callback));
  }

  off(event: string, callback: (...args: never[]) => void): void {
    this.#callbacks.get(event)?.delete(callback);
  }

  n_listeners(): number {
    return [...this.#callbacks.values()].reduce((sum, set) => sum + set.size, 0);
  }
}

/** Terms of 1 for each attention and -0.5 for each MLP up to the layer; pieces of a layer likewise. */
function fakeWhy({ run_id, layer, position, lens, token, foil, by, of_layer }: WhyRequest): Why {
  const term = (kind: string, at: number, unit: number, predicted: number): WhyTerm => ({
    kind,
    layer: at,
    unit,
    name: unit < 0 ? `L${at} ${kind}` : `L${at} ${kind} ${unit}`,
    predicted,
    measured: predicted * 0.9,
  });
  const layers = Array.from({ length: layer + 1 }, (_, i) => i);
  const parts = layers.flatMap((i) => [term("attn", i, -1, 1), term("mlp", i, -1, -0.5)]);
  const units = [0, 1, 2].map((unit) => term(by, of_layer ?? 0, unit, 1 / (unit + 2)));
  const terms = by === "part" ? [term("embed", -1, -1, 2), ...parts] : units;
  const total = terms.reduce((sum, { predicted }) => sum + Number(predicted), 0);
  const named = (id: number) => ({ id, label: labelOf(id) });
  return {
    run_id,
    layer,
    position,
    lens,
    by,
    token: named(token),
    foil: foil === null ? null : named(foil),
    terms,
    total,
    remainder: 1e-6,
    before_cap: total + 1e-6,
    logit: total + 1e-6,
    cap: null,
    before: null,
    notes: [],
  };
}
