import type { Weight } from "../cells/inhere.ts";
import type { Card, CardRef, CellRef, EditOp, EditRequest, Match, RunInfo } from "../kernel/protocol.ts";
import { DEFAULTS, type ViewTraits } from "../kernel/traits.ts";

/** A search box: its text, what was found, and a remark. */
export interface Search {
  readonly query: string;
  readonly matches: readonly Match[] | null;
  readonly note: string | null;
}

/** A card on the page: which cell it shows and how that is decoded, and the numbers once they are here. */
export interface CardState extends Required<CardRef> {
  readonly card: Card | null;
  /** The number of the decode that was requested last and is not back; 0 if none is out. */
  readonly ask: number;
  /** Whether numbers are due: from that decode, or because the kernel decodes the selected cell by itself. */
  readonly isPending: boolean;
  readonly error: string | null;
  readonly search: Search;
  /** Tokens that were found by search, to be looked up in this cell and along its column. */
  readonly tracked: readonly number[];
  /** The code that was requested, to be copied by hand if the host refuses the clipboard, and a remark on it. */
  readonly code: string | null;
  readonly note: string | null;
}

/** A change of how a card is decoded. */
export type Decoding = Partial<Pick<CardState, "k" | "temperature" | "site" | "lens">>;

/** The cards of one run, by key. */
export type Cards = Readonly<Record<string, CardState>>;

/**
 * live; waiting: no answer for a while; silent: nothing was ever answered; gone: the kernel restarted or died; offline:
 * a file, or a view that a page stores, without a kernel.
 */
export type Connection = "live" | "waiting" | "silent" | "gone" | "offline";

export interface Progress {
  readonly id: string;
  readonly done: number;
  readonly total: number;
}

/** The form of a new edit, and the cell that it is for. */
export interface Editor {
  readonly cell: CellRef;
  readonly op: EditOp;
  readonly site: string;
  readonly strength: number;
  readonly tokens: readonly number[];
}

/** A cell that was yanked, to be put elsewhere as a patch. */
export interface Yanked extends CellRef {
  readonly run_id: string;
  readonly site: string;
  /** The token and the layer, in words. */
  readonly text: string;
}

/** How the prompt is continued. */
export interface Continuing {
  readonly n_tokens: number;
  readonly temperature: number;
  readonly top_p: number;
  readonly seed: number;
}

/** What a causal map is asked for. */
export interface MapForm {
  readonly answer: number;
  readonly foil: number | null;
  readonly ablate: "zero" | "mean" | null;
}

/** A rectangle of cells that was dragged: from and to, both within. */
export interface Span {
  readonly layers: readonly [number, number];
  readonly positions: readonly [number, number];
}

export interface State {
  readonly traits: ViewTraits;
  /** The last runs by id, in the order of their arrival. */
  readonly runs: ReadonlyMap<string, RunInfo>;
  /** The id of the run that the view shows. */
  readonly shown: string | null;
  /** The cards of each of the runs, by the run's id. */
  readonly cards: Readonly<Record<string, Cards>>;
  /** How many decodes were requested; numbers them. */
  readonly n_asked: number;
  /** How often a cell was opened in this view. */
  readonly n_opened: number;
  /** Counts the tiles and trajectories that arrived; the numbers themselves lie outside the state. */
  readonly version: number;
  readonly focus: CellRef | null;
  readonly span: Span | null;
  /** How the list of what is in the cells is ordered. */
  readonly weight: Weight;
  /** The ids of the token in that list that is looked at, with commas between; empty for none. */
  readonly tint: string;
  /** The edited text of the prompt box; null while the box has the prompt of the run. */
  readonly draft: string | null;
  readonly pinSearch: Search;
  readonly connection: Connection;
  /** The id of the request `run` or `generate` that is under way. */
  readonly running: string | null;
  /** How the prompt is continued, and whether it is being continued. */
  readonly continuing: Continuing;
  readonly isGenerating: boolean;
  /** Whether the grid follows the prompt as it is typed. */
  readonly isLive: boolean;
  readonly progress: Progress | null;
  readonly notice: string | null;
  readonly panel: "help" | "menu" | "continue" | "search" | null;
  /** Where the search or the editor is drawn, in px; null at its own place. */
  readonly form: { readonly left: number; readonly top: number } | null;
  readonly editor: Editor | null;
  readonly yanked: Yanked | null;
  /** The form of a second prompt: whether it is open, its edited text, and the cell in focus of its grid. */
  readonly isSourceOpen: boolean;
  readonly sourceDraft: string | null;
  readonly sourceFocus: CellRef | null;
  /** The tokens that a map is asked for; null until one is chosen. */
  readonly mapForm: MapForm | null;
  /** The id of the request `map` that is under way. */
  readonly mapping: string | null;
  /** The cell that a dragged one is over. */
  readonly dropAt: CellRef | null;
  /** The edits that were asked for last, until they have been run. */
  readonly wished: readonly EditRequest[] | null;
  /** The last thing that was done, for the live region; if empty, it describes the focused cell. */
  readonly said: string;
}

/** The key of the card that follows the selection. */
export const MAIN = "main";

/** The key of a kept card: all that it is decoded with, so that one decoded otherwise is another card. */
export function keyOf({ layer, position, site, lens, k, temperature }: CardRef): string {
  return [layer, position, site, lens, k, temperature].join(":");
}

export const NO_SEARCH: Search = { query: "", matches: null, note: null };

const {
  run: _run,
  snapshot: _snapshot,
  source_snapshot: _source,
  decoded: _decoded,
  ...VIEW_TRAITS
} = DEFAULTS;

/** The state before the first traits arrive. */
export const FIRST_STATE: State = {
  traits: VIEW_TRAITS,
  runs: new Map(),
  shown: null,
  cards: {},
  n_asked: 0,
  n_opened: 0,
  version: 0,
  focus: null,
  span: null,
  weight: "prob",
  tint: "",
  draft: null,
  pinSearch: NO_SEARCH,
  connection: "live",
  running: null,
  continuing: { n_tokens: 40, temperature: 0, top_p: 1, seed: 0 },
  isGenerating: false,
  isLive: false,
  progress: null,
  notice: null,
  panel: null,
  form: null,
  editor: null,
  yanked: null,
  isSourceOpen: false,
  sourceDraft: null,
  sourceFocus: null,
  mapForm: null,
  mapping: null,
  dropAt: null,
  wished: null,
  said: "",
};
