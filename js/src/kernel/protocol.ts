/**
 * What crosses between the kernel and the page. Field names have one spelling in both languages (see `wire.py`).
 *
 * Layer -1 is the embedding row everywhere; layer `i >= 0` is the stream after block `i`.
 * Ids are identity, strings are labels. Log-probs and entropies are in nats.
 */

export type LabelKind = "text" | "space" | "bytes" | "special" | "none";

/** `[text, kind, raw]`: `text` is fit to be shown, `raw` is the decoded string. */
export type Label = readonly [text: string, kind: LabelKind, raw: string];
export type Labels = Readonly<Record<string, Label>>;

export interface Fidelity {
  readonly ok: boolean;
  /** Largest difference of log-probs between our last row and the model's own. */
  readonly max_abs_error: JsonNumber;
  readonly tolerance: number;
  readonly text: string;
}

export interface RunInfo {
  readonly id: string;
  readonly prompt: string;
  readonly model: string;
  readonly dtype: string;
  readonly quantization: string | null;
  readonly n_layers: number;
  readonly d_vocab: number;
  /** Token ids of the prompt, in order. */
  readonly tokens: readonly number[];
  readonly labels: Labels;
  /** Per position: the whole character that a byte fragment is part of, else null. */
  readonly joined?: readonly (string | null)[];
  /** Per position: is this a special token (BOS, chat marker)? */
  readonly special: readonly boolean[];
  /** The model's own next token after the prompt; its label is among `labels`. */
  readonly next: { readonly id: number; readonly log_prob: JsonNumber };
  readonly sites: readonly string[];
  readonly lenses: readonly string[];
  readonly max_length: number | null;
  readonly fidelity: Fidelity | null;
}

export type ArrayDtype = "int32" | "float32" | "uint8";

/** Names and shapes of the buffers that follow: `[n_layers_asked, n_positions_asked, ...]`, little endian. */
export interface ReadoutHeader {
  readonly run_id: string;
  readonly site: string;
  readonly lens: string;
  readonly k: number;
  readonly layers: readonly number[];
  readonly positions: readonly number[];
  readonly tracked_ids: readonly number[];
  readonly arrays: readonly {
    readonly name: string;
    readonly dtype: ArrayDtype;
    readonly shape: readonly number[];
  }[];
  readonly labels: Labels;
}

/** A binary buffer as hosts hand it over; an exported file carries base64 text. */
export type Binary = ArrayBuffer | ArrayBufferView | string;

/** A packed readout that is saved with the notebook. */
export interface Snapshot {
  readonly header: ReadoutHeader;
  readonly buffers: readonly Binary[];
}

export interface CellRef {
  readonly layer: number;
  readonly position: number;
}

/** How cells are read: at which site, through which lens. */
export interface Reading {
  readonly site: string;
  readonly lens: string;
}

/** A cell and how it is decoded. */
export interface CardRef extends CellRef, Reading {
  readonly k?: number;
  readonly temperature?: number;
}

export interface Moved {
  readonly id: number;
  readonly label: Label;
  /** Change of probability against the cell one layer below. */
  readonly delta: JsonNumber;
}

/** JSON has no NaN and no infinity: those travel as "nan", "inf", "-inf". */
export type JsonNumber = number | string;

/** One cell, decoded by the kernel just now. */
export interface Card extends CardRef {
  readonly run_id: string;
  readonly k: number;
  readonly temperature: number;
  readonly ids: readonly number[];
  /** As `ids`. */
  readonly labels: readonly Label[];
  readonly log_probs: readonly JsonNumber[];
  readonly logits: readonly JsonNumber[];
  readonly entropy_nats: JsonNumber;
  /** Rank that each token had one row below; null where there is no row below. */
  readonly rank_below: readonly (number | null)[];
  readonly layer_below: number | null;
  readonly promoted: readonly Moved[];
  readonly suppressed: readonly Moved[];
  readonly tracked: readonly {
    readonly id: number;
    readonly log_prob: JsonNumber;
    readonly rank: number | null;
  }[];
}

/** A pinned token, or several surface forms whose probabilities are summed. */
export interface Pin {
  readonly ids: readonly number[];
  readonly label: string;
  /** Index into the pin colours. */
  readonly color: number;
}

export type Metric = "prob" | "log_prob" | "entropy" | "kl" | "rank" | "agrees";
export type TrajectoryMetric = "prob" | "log_prob" | "rank";

export interface Trajectory {
  readonly metric: TrajectoryMetric;
  /** Empty: follow the focused position. */
  readonly positions: readonly number[];
}

export interface Status {
  readonly state: "idle" | "working" | "error" | "offline";
  readonly text: string;
  readonly done: number;
  readonly total: number;
}

/** The synced traits of `LensWidget`. `run` and `snapshot` are empty objects before the first run. */
export interface Traits {
  readonly run: RunInfo | Record<string, never>;
  readonly snapshot: Snapshot | Record<string, never>;
  /** Text, or the ids that were run. */
  readonly prompt: string | readonly number[];
  readonly selection: CellRef | null;
  readonly decoded: Card | null;
  readonly metric: Metric;
  readonly k: number;
  readonly card_k: number;
  readonly site: string;
  readonly lens: string;
  readonly stride: number;
  readonly orientation: "layers" | "tokens";
  readonly hide_special: boolean;
  readonly column_width_px: number;
  readonly pins: readonly Pin[];
  readonly cards: readonly CardRef[];
  readonly trajectory: Trajectory;
  readonly rank_token: number | null;
  readonly status: Status;
}

export interface Match {
  readonly id: number;
  readonly label: Label;
}

/** What the page asks, and what the kernel answers: exactly one reply each. */
export interface Requests {
  read: {
    ask: {
      run_id: string;
      layers: readonly number[];
      positions: readonly number[];
      site: string;
      lens: string;
      k: number;
      track: readonly number[];
      metrics: readonly string[];
    };
    reply: ReadoutHeader;
  };
  decode: {
    ask: {
      run_id: string;
      layer: number;
      position: number;
      site: string;
      lens: string;
      k: number;
      temperature: number;
      track: readonly number[];
      /** False for a kept card, which is the reply; else the card comes before it, as the trait `decoded`. */
      select?: boolean;
    };
    reply: Card | Record<string, never>;
  };
  run: { ask: { prompt: string }; reply: { run_id: string } };
  search: { ask: { text: string; k: number }; reply: { matches: readonly Match[] } };
  code: {
    ask: { layer: number; position: number; site: string; lens: string; k: number; temperature: number };
    reply: { code: string };
  };
  cancel: { ask: { target: string }; reply: Record<string, never> };
  ping: { ask: Record<string, never>; reply: Record<string, never> };
}

export type Kind = keyof Requests;

/** What a message from the kernel may look like. */
export type Incoming =
  | { id: string; value: unknown }
  | { id: string; error: { type: string; message: string } }
  | { kind: "progress"; id: string; done: number; total: number };
