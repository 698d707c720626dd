/**
 * The messages between the kernel and the page: one interface each. Fields have one spelling in both languages. The
 * traits are in `traits.ts`.
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

/** Columns that belong together, `start <= position < stop`: a message of a chat, what its template puts around it. */
export interface Band {
  readonly start: number;
  readonly stop: number;
  readonly kind: "message" | "template" | "thinking" | "image";
  /** Of a message its role. */
  readonly label: string;
  /** Whether it is one column until a person unfolds it. */
  readonly is_folded: boolean;
  /** What each column is called beside its token, or empty. */
  readonly names?: readonly string[];
}

/** Layers of one pass through blocks that run in a loop, `start <= layer < stop`. */
export interface Pass {
  readonly start: number;
  readonly stop: number;
  /** "pass 2". */
  readonly label: string;
}

/** A layer of a model whose blocks run in a loop. */
export interface Row {
  /** Pass and block, "2.3". */
  readonly name: string;
  /** The same in words: "pass 2, block 3". */
  readonly phrase: string;
  /** The block's module path. */
  readonly path: string;
}

/** A run, as the trait `run` describes it. */
export interface RunInfo {
  readonly id: string;
  /** The prompt as text; of a prompt given as ids, their text. */
  readonly prompt: string;
  /** Whether the prompt was given as text; else as ids. */
  readonly is_text: boolean;
  /** Model inputs that came with the prompt beyond its ids and mask: `["pixel_values"]`. Mostly empty. */
  readonly extras: readonly string[];
  /** Remarks on the prompt, one sentence each. */
  readonly notes?: readonly string[];
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
  /** Sorted by their start, the wider first. */
  readonly bands?: readonly Band[];
  /** Of blocks that run in a loop: the passes, and what each layer is; else empty. */
  readonly passes?: readonly Pass[];
  readonly rows?: readonly Row[];
  /** Which token a cell speaks of: the one that comes next, or in a masked language model the one that stands there. */
  readonly predicts?: "next" | "same";
  /** Whether a position sees no later one. */
  readonly is_causal?: boolean;
  /**
   * The model's own answer: the token after the prompt, or in a masked language model that at the last mask, or else
   * at the last position. Its label is among `labels`.
   */
  readonly next: { readonly id: number; readonly log_prob: JsonNumber; readonly position?: number };
  readonly sites: readonly string[];
  /** Whether the vocabulary is known to have words, so that they can be shown. */
  readonly has_words?: boolean;
  readonly lenses: readonly string[];
  /** By name of a lens that was measured, how well it reads the model. */
  readonly lens_quality?: Readonly<Record<string, Quality>>;
  readonly max_length: number | null;
  readonly fidelity: Fidelity | null;
  /** The edits of the run, in the order in which they are made; also those that are off. */
  readonly edits?: readonly EditInfo[];
  /** What is known of a run with edits that are on; else null. */
  readonly edited?: Edited | null;
  /** The run whose first columns this one took over, with their numbers; `text` says how closely both agree. */
  readonly reuse?: Reused;
  /** Of a run that stands beside another, on one grid; else it is not there. */
  readonly compared?: Compared;
  /** By column: the other side's token where it is another one; else null. */
  readonly others?: readonly (string | null)[];
}

/** A curve of a lens's top-1 agreement by layer: its SVG paths in 56 x 16, the first of layers not to be trusted. */
export interface Quality {
  readonly paths: readonly string[];
  readonly text: string;
  /** Which layers are not to be trusted, in a sentence; empty where all are. */
  readonly poor: string;
}

export interface Reused {
  readonly run_id: string | null;
  readonly n_columns: number;
  readonly text: string;
}

/** Of each token of a run: its surprise and what was expected, nats; null where it is not known, as for the first. */
export interface SpineInfo {
  readonly run_id: string;
  readonly surprise: readonly (JsonNumber | null)[];
  readonly entropy: readonly (JsonNumber | null)[];
}

/** Two runs on one grid, A and B: this one is B. Both are told with the grid's columns and rows, -1 for no token. */
export interface Compared {
  /** The run A. */
  readonly base: RunInfo;
  readonly names: readonly [a: string, b: string];
  readonly by: "prompt" | "model" | "adapter" | "run";
  /** By column: whether each side has a token there, and whether both have the same one. */
  readonly has_a: readonly boolean[];
  readonly has_b: readonly boolean[];
  readonly is_same: readonly boolean[];
  /** Why the distributions of the two have no KL; null where they have. */
  readonly why_no_kl: string | null;
}

/** An edit of a run. `generated`: positions that a generation adds are edited too. */
export interface EditInfo {
  readonly op: EditOp;
  readonly site: string;
  readonly layers: readonly number[];
  readonly positions: readonly number[];
  readonly generated: boolean;
  readonly strength: JsonNumber;
  readonly is_on: boolean;
  /** Whether random directions in place of its own are its control. */
  readonly has_control: boolean;
  readonly tokens: readonly { readonly id: number; readonly label: Label }[];
  /** Of an edit of single heads, or neurons, which; null of an edit of the whole site. */
  readonly heads?: readonly number[] | null;
  readonly neurons?: readonly number[] | null;
  /** The text of the prompt that a patch is taken from. */
  readonly source: string | null;
  /** The cells that it is taken from, and their run's id if a run was given. */
  readonly taken?: {
    readonly run_id: string | null;
    readonly layers: readonly number[];
    readonly positions: readonly number[];
  } | null;
}

/** What patching, or removing, each cell of the shown run does to its answer. */
export interface CausalInfo {
  /** The tokens of the prompt that it is a map of. */
  readonly tokens: readonly number[];
  readonly site: string;
  readonly metric: "log_prob" | "logit_diff";
  readonly answer: { readonly id: number; readonly label: Label };
  readonly foil: { readonly id: number; readonly label: Label } | null;
  readonly ablate: "zero" | "mean" | null;
  readonly source_id: string | null;
  readonly layers: readonly number[];
  readonly positions: readonly number[];
  /** The metric of either prompt without a patch. */
  readonly of_source: JsonNumber;
  readonly of_shown: JsonNumber;
  /** Row by row; null where it is not known. */
  readonly estimate: readonly (number | null)[];
  readonly measured: readonly (number | null)[];
  readonly way: string;
  readonly is_done: boolean;
}

export type EditOp = "zero" | "mean" | "scale" | "add" | "steer" | "project_out" | "swap" | "patch";

/** What the edits of a run did, and what they left alone. */
export interface Edited {
  /** The run without the edits. */
  readonly base_id: string;
  /** The run with random directions in place of the edits' own; null if no edit has a direction. */
  readonly control_id: string | null;
  readonly proof: {
    readonly ok: boolean;
    readonly n_untouched: number;
    readonly n_equal: number;
    readonly text: string;
  };
  /** The log-prob at the prompt's end of the token that the model predicts without edits. */
  readonly effect: {
    readonly id: number;
    readonly label: Label | null;
    readonly before: JsonNumber;
    readonly after: JsonNumber;
    readonly control: JsonNumber | null;
  };
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
  /** The run whose same cells the arrays named `reference_...` are of; null without them. */
  readonly against?: string | null;
  /** What the arrays named `shown_...` are of. */
  readonly show?: Show;
  /** The floor of what is shown, in an exported file. */
  readonly floor?: Floor;
  readonly arrays: readonly {
    readonly name: string;
    readonly dtype: ArrayDtype;
    readonly shape: readonly number[];
  }[];
  readonly labels: Labels;
}

/** Which token stands in a cell. */
export type Show = "top" | "words" | "lift";

/** What a cell of each layer must exceed to say more than noise, in nats; NaN where there is no floor. */
export interface Floor {
  readonly layers: readonly number[];
  readonly values: readonly JsonNumber[];
}

/** A binary buffer as hosts hand it over; an exported file carries base64 text. */
export type Binary = ArrayBuffer | ArrayBufferView | string;

/** A packed readout, as the trait `snapshot` and an exported file hold it. */
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

/** JSON has no NaN and no infinity: they travel as "NaN", "Infinity" and "-Infinity". */
export type JsonNumber = number | string;

/** One cell, decoded by the kernel: the reply to `decode`, and the trait `decoded`. */
export interface Card extends CardRef {
  readonly run_id: string;
  /** How many top tokens were asked for, at most the vocabulary. */
  readonly k: number;
  readonly temperature: number;
  /** The top tokens; empty where the cell is not finite. */
  readonly ids: readonly number[];
  /** One for each of `ids`. */
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
  /** In a comparison: 0 of A, 1 of B; and the other side's card, which tracks this one's tokens, if it has the cell. */
  readonly side?: number;
  readonly beside?: Card | null;
}

/** A pinned token, or several surface forms whose probabilities are summed. */
export interface Pin {
  readonly ids: readonly number[];
  readonly label: string;
  /** Index into the pin colours. */
  readonly color: number;
}

export type Metric = "prob" | "log_prob" | "entropy" | "kl" | "rank" | "agrees";
/** Of a run with edits, or of two runs (a and b): what the grid shows, and what of the difference. */
export type View = "before" | "after" | "difference" | "control" | "a" | "b" | "map";
export type Difference = "kl" | "kl_back" | "js" | "log_prob" | "rank" | "agrees";
export type TrajectoryMetric = "prob" | "log_prob" | "rank";

export interface Trajectory {
  readonly metric: TrajectoryMetric;
  /** Empty: follow the focused position. */
  readonly positions: readonly number[];
  /** Along the prompt, in the focused layer; else over the layers. */
  readonly over?: "layers" | "tokens";
}

export interface Status {
  /** The last two are of a model in another process: it comes back by itself, or not. */
  readonly state: "idle" | "working" | "error" | "offline" | "connecting" | "lost";
  readonly text: string;
  readonly done: number;
  readonly total: number;
}

export interface Match {
  readonly id: number;
  readonly label: Label;
}

/** Decode a rectangle of cells. The reply is the header; the arrays are its buffers. */
export interface ReadRequest extends Reading {
  readonly run_id: string;
  readonly layers: readonly number[];
  readonly positions: readonly number[];
  readonly k: number;
  readonly track: readonly number[];
  readonly metrics: readonly string[];
  /** Another run whose same cells are compared with. */
  readonly against: string | null;
  readonly show: Show;
}

/** Find out what a cell must exceed to say more than noise. */
export interface FloorRequest extends Reading {
  readonly show: Show;
}

/** Decode one cell again, in full. The reply is its card. */
export interface DecodeRequest extends CellRef, Reading {
  readonly run_id: string;
  readonly k: number;
  readonly temperature: number;
  readonly track: readonly number[];
  /** Also select the cell: the kernel then sets the traits `selection` and `decoded`, after the reply. */
  readonly select: boolean;
}

/** An edit that is asked for: one of the run that is asked about, by its index, or a new one. */
export type EditRequest = {
  readonly strength: number;
  readonly is_on: boolean;
} & (
  | { readonly keep: number }
  | {
      readonly op: EditOp;
      readonly site: string;
      readonly layers: readonly number[];
      readonly positions: readonly number[];
      readonly tokens: readonly number[];
      /** Through which lens a token's direction is taken. */
      readonly lens: string;
      readonly heads?: readonly number[];
      readonly neurons?: readonly number[];
      /** The cells that a patch is taken from. */
      readonly source: {
        readonly run_id: string;
        readonly layer: number;
        readonly positions: readonly number[];
      } | null;
    }
);

/**
 * Run a text, or the very inputs of an earlier run again (with `fork` only up to a position, and then another token), with the edits that are there unless others are named. The
 * traits of the new run come before the reply.
 */
export type RunRequest =
  | (({ readonly prompt: string } | { readonly again: string; readonly fork?: Fork }) & {
      readonly edits?: readonly EditRequest[];
    })
  /** Show a run of the tree again. */
  | { readonly show: string }
  /** Show the shown run beside one of the tree; beside none where that is empty. */
  | { readonly beside: string }
  /** Show the run at a place of a film. */
  | { readonly frame: number };

/** The columns up to a position, and then another token. */
export interface Fork {
  readonly position: number;
  readonly token: number;
}

/** A run of the tree of forks. */
export interface BranchInfo {
  readonly id: string;
  /** The run that it shares most with; null of the first. */
  readonly parent: string | null;
  /** The first column that is its own, and the token there; null where it only ends earlier. */
  readonly at: number;
  readonly label: Label | null;
  /** What it has from there on, or as much as a line shows. */
  readonly text: string;
  readonly n_tokens: number;
}

export interface RunReply {
  readonly run_id: string;
}

/**
 * Continue the run that is shown, column by column; progress counts tokens. The traits of each longer run come before
 * the next one's, and a cancel keeps those that came.
 */
export interface GenerateRequest {
  readonly n_tokens: number;
  /** 0 takes the most probable token each time. */
  readonly temperature: number;
  readonly top_p: number;
  readonly seed: number;
}

/** Find tokens of the vocabulary by text, best match first. */
export interface SearchRequest {
  readonly text: string;
  readonly k: number;
}

export interface SearchReply {
  readonly matches: readonly Match[];
}

/** Print the trace that reproduces a card. */
export interface CodeRequest extends CellRef, Reading {
  /** What stands in the grid's cell. */
  readonly show: Show;
  readonly run_id: string;
  readonly k: number;
  readonly temperature: number;
  readonly track: readonly number[];
  /** What the card explains, and the layer that it has opened there. */
  readonly why: { token: number; foil: number | null; of_layer: number | null } | null;
}

export interface CodeReply {
  readonly code: string;
}

/** Take a cell's logit for a token, less that for a foil, apart; or one layer's parts by `by`. */
export interface WhyRequest extends CellRef {
  readonly run_id: string;
  readonly lens: string;
  readonly token: number;
  readonly foil: number | null;
  readonly by: "part" | "head" | "neuron" | "source";
  readonly of_layer: number | null;
}

/** One term of a logit. `unit` is a head, a neuron or a position that was read, else -1. */
export interface WhyTerm {
  readonly kind: string;
  readonly layer: number;
  readonly unit: number;
  readonly name: string;
  /** Its exact term, norms held at the cell's scale. */
  readonly predicted: JsonNumber;
  /** What the logit loses when it alone is taken out of the cell. NaN of biases. */
  readonly measured: JsonNumber;
}

/** The reply to `why`, in logits. `before` is the cell's number in the run without edits; null if there are none. */
export interface Why extends CellRef {
  readonly run_id: string;
  readonly lens: string;
  readonly by: string;
  readonly token: { readonly id: number; readonly label: Label };
  readonly foil: { readonly id: number; readonly label: Label } | null;
  readonly terms: readonly WhyTerm[];
  readonly total: JsonNumber;
  readonly remainder: JsonNumber;
  readonly before_cap: JsonNumber;
  readonly logit: JsonNumber;
  readonly cap: number | null;
  readonly before: JsonNumber | null;
  readonly notes: readonly string[];
}

/** Where a cell's attention looks: the weights of each head, and the share of all that was read from each position. */
export interface Attention extends CellRef {
  readonly weights: readonly (readonly number[])[];
  readonly read: readonly number[];
  /** Positions that take much of every head's weight, whatever stands there. */
  readonly sinks: readonly number[];
}

/** Stop the request with this id. */
export interface CancelRequest {
  readonly target: string;
}

/** Run the prompt that patches are taken from; null for none any more. The trait `source_run` comes before the reply. */
export interface SourceRequest {
  readonly prompt: string | null;
}

/** Measure the causal map of the shown run; the trait `causal` grows until the reply. */
export interface MapRequest {
  readonly answer: number;
  readonly foil: number | null;
  readonly site: string;
  readonly ablate: "zero" | "mean" | null;
}

/** A message without fields. */
export type Empty = Record<string, never>;

/** The kinds of requests; each request gets exactly one reply. On the wire: `{id, kind, ...request}`. */
/** A prompt of a survey, by its column and strip, and the layer to open a card of. */
export interface OpenRequest {
  readonly column: number;
  readonly strip: number;
  readonly layer: number | null;
}

export interface Requests {
  read: { request: ReadRequest; reply: ReadoutHeader };
  floor: { request: FloorRequest; reply: Floor };
  decode: { request: DecodeRequest; reply: Card };
  run: { request: RunRequest; reply: RunReply };
  generate: { request: GenerateRequest; reply: RunReply };
  source: { request: SourceRequest; reply: { readonly run_id: string | null } };
  map: { request: MapRequest; reply: Empty };
  search: { request: SearchRequest; reply: SearchReply };
  code: { request: CodeRequest; reply: CodeReply };
  why: { request: WhyRequest; reply: Why };
  attention: { request: CellRef & { readonly run_id: string }; reply: Attention };
  /** Work out the trait `spine` of the shown run; it has come before the reply. */
  spine: { request: Empty; reply: Empty };
  cancel: { request: CancelRequest; reply: Empty };
  /** Of a survey's widget alone. */
  open: { request: OpenRequest; reply: RunReply };
  ping: { request: Empty; reply: Empty };
}

export type Kind = keyof Requests;

export interface ReplyMessage {
  readonly id: string;
  readonly value: unknown;
}

export interface ErrorMessage {
  readonly id: string;
  readonly error: { readonly type: string; readonly message: string };
}

/** How far a request has come; any number of these before its reply. */
export interface ProgressMessage {
  readonly kind: "progress";
  readonly id: string;
  readonly done: number;
  readonly total: number;
}

/** A message from the kernel. */
export type Incoming = ReplyMessage | ErrorMessage | ProgressMessage;
