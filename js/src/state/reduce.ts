import type { Card, CardRef, CellRef, EditRequest, Fork, Match, Pin, RunInfo } from "../kernel/protocol.ts";
import type { Traits, ViewTraits } from "../kernel/traits.ts";
import { N_PIN_COLORS } from "../look/scales.ts";
import {
  ask,
  askKept,
  changeCard,
  changeKept,
  follow,
  followView,
  takeCard,
  withCard,
} from "./reduceCards.ts";
import { cardOf, drawnId, isFromStore, isInside, promptText, sameCell, shownRun } from "./selectors.ts";
import { type Decoding, keyOf, MAIN, NO_SEARCH, type Search, type State } from "./state.ts";

export type Action =
  /** The kernel, or another view, changed traits. The card in `decoded` is an action of its own. */
  | { type: "traits"; traits: Partial<Omit<Traits, "decoded">> }
  /** A control changed traits; they go to the kernel. */
  | { type: "set"; traits: Partial<ViewTraits> }
  | { type: "focus"; cell: CellRef }
  | { type: "open"; cell: CellRef }
  /** The pointer came to a cell, or left the last one. */
  | { type: "rest"; cell: CellRef | null }
  | { type: "close"; key: string }
  | { type: "keep" }
  /** Decode the selected cell otherwise. */
  | { type: "change"; change: Decoding }
  /** Decode a kept card otherwise. */
  | { type: "changeKept"; ref: CardRef; change: Decoding }
  /** A card arrived: as the reply to the decode with this number, or with 0 as the trait `decoded`. */
  | { type: "card"; key: string; ask: number; card: Card }
  /** The main card's numbers were decoded before it was asked for; the reply to its own decode replaces them. */
  | { type: "foreseen"; card: Card }
  /** A decode failed. */
  | { type: "failed"; run_id: string; key: string; ask: number; error: string }
  | { type: "track"; key: string; id: number }
  /** Search for tokens; `box` is the key of a card, or "pins". */
  | { type: "search"; box: string; query: string }
  | { type: "found"; box: string; query: string; matches: readonly Match[] | null; note: string | null }
  | { type: "pin"; ids: readonly number[]; label: string }
  | { type: "unpin"; index: number }
  /** Sum a pin with the other surface forms of its token. */
  | { type: "group"; index: number }
  | { type: "copy"; key: string }
  | { type: "copied"; run_id: string; key: string; code: string | null; note: string }
  | { type: "draft"; text: string }
  | { type: "run" }
  /** Go on with another token after a position of a run; show a run of the tree again, or the shown one beside it. */
  | { type: "branch"; run_id: string; how: "show" | "beside" | { readonly fork: Fork } }
  /** Show a run of a film; the one asked for last is shown last. */
  | { type: "frame"; frame: number }
  /** Continue the run that is shown. */
  | { type: "generate" }
  /** Run the prompt with these edits; those asked for last are run last. */
  | { type: "edits"; edits: readonly EditRequest[] }
  | { type: "stop" }
  | { type: "reset" }
  /** Numbers arrived. */
  | { type: "arrived" }
  | { type: "local"; patch: Local };

/** The fields of the state that are a view's own. */
export type Local = Partial<
  Pick<
    State,
    | "connection"
    | "running"
    | "continuing"
    | "isGenerating"
    | "isLive"
    | "playing"
    | "speed"
    | "wishedFrame"
    | "progress"
    | "notice"
    | "panel"
    | "form"
    | "said"
    | "editor"
    | "yanked"
    | "wished"
    | "isSourceOpen"
    | "sourceDraft"
    | "sourceFocus"
    | "mapForm"
    | "mapping"
    | "dropAt"
    | "span"
    | "weight"
    | "tint"
  >
>;

/** How many runs a view keeps. */
export const MAX_RUNS = 8;

/** The colour that is used least so far. */
function nextColor(pins: readonly Pin[]): number {
  const uses = Array.from(
    { length: N_PIN_COLORS },
    (_, color) => pins.filter((pin) => pin.color === color).length,
  );
  return uses.indexOf(Math.min(...uses));
}

/** Where the focus goes when the run changes: the same cell, or the nearest one of the new run. */
function clampFocus(focus: CellRef | null, run: RunInfo | null): CellRef | null {
  if (!focus || !run) return null;
  return {
    layer: Math.min(focus.layer, run.n_layers - 1),
    position: Math.min(focus.position, run.tokens.length - 1),
  };
}

/** The runs that a run is compared with: the same prompt before its edits, and their control; or the other of two. */
function companionsOf(run: RunInfo): RunInfo[] {
  if (run.compared) return [run.compared.base];
  if (!run.edited) return [];
  const { base_id, control_id, effect } = run.edited;
  const labels = effect.label ? { ...run.labels, [effect.id]: effect.label } : run.labels;
  const { reuse: _, ...own } = run; // what the run took over, which may be the columns of these very runs
  const plain = { ...own, labels, edits: [], edited: null };
  const base = { ...plain, id: base_id, next: { id: effect.id, log_prob: effect.before } };
  return control_id === null ? [base] : [base, { ...plain, id: control_id }];
}

/** Show a run that the kernel names: here alone `shown` is set. The oldest runs are dropped, with their cards. */
function showRun(state: State, run: RunInfo): State {
  if (state.shown === run.id) return state;
  const companions = companionsOf(run);
  const news = new Set([run.id, ...companions.map(({ id }) => id)]);
  const others = [...state.runs].filter(([id]) => !news.has(id)).slice(news.size - MAX_RUNS);
  const known = [...companions, run].map((one) => [one.id, state.runs.get(one.id) ?? one] as const);
  const runs = new Map([...others, ...known]);
  const cards = Object.fromEntries(Object.entries(state.cards).filter(([id]) => runs.has(id)));
  const focus = clampFocus(state.focus, run);
  return { ...state, runs, shown: run.id, cards, focus, notice: null, said: "" };
}

/** The traits with what changed in them; the same object if nothing did. */
function merge(traits: ViewTraits, change: Partial<ViewTraits>): ViewTraits {
  const news = Object.entries(change).filter(
    ([name, value]) =>
      value !== traits[name as keyof ViewTraits] &&
      !(name === "selection" && sameCell(change.selection, traits.selection)),
  );
  return news.length ? { ...traits, ...Object.fromEntries(news) } : traits;
}

function takeTraits(state: State, traitsNow: Partial<Omit<Traits, "decoded">>): State {
  const { run, snapshot: _, source_snapshot: __, ...change } = traitsNow;
  let next = run && "id" in run ? { ...showRun(state, run as RunInfo), span: null, tint: "" } : state;
  // the kernel selected this cell before it heard of the one that it is asked for now
  if (change.selection && cardOf(next, MAIN)?.ask) delete change.selection;
  const traits = merge(next.traits, change);
  if (traits !== next.traits) next = { ...next, traits };
  if (next === state) return state;
  if (traits.status.state === "offline") next = { ...next, connection: "offline" };
  if (traits.selection !== state.traits.selection && traits.selection)
    next = { ...next, focus: traits.selection };
  // a text that is not run stays in the box; an empty box, or one with the new prompt, follows the run again
  const isNewPrompt = promptText(next) !== promptText(state);
  if (isNewPrompt && (!next.draft || next.draft === promptText(next))) next = { ...next, draft: null };
  return askKept(followView(follow(withSource(next)), state));
}

/** The run that patches are taken from is among the runs, whatever else is shown. */
function withSource(state: State): State {
  const { source_run } = state.traits;
  if (!("id" in source_run) || state.runs.has(source_run.id)) return state;
  const runs = new Map([...state.runs, [source_run.id, source_run as RunInfo]]);
  return { ...state, runs, sourceDraft: null, sourceFocus: null };
}

function open(state: State, cell: CellRef): State {
  const run = shownRun(state);
  if (!run || !isInside(run, cell)) return state;
  const selection = { layer: cell.layer, position: cell.position };
  const { tracked = [] } = cardOf(state, MAIN) ?? {};
  const selected = { ...state, traits: { ...state.traits, selection }, focus: selection, said: "" };
  const opened = changeCard(follow(selected, true), MAIN, { tracked });
  return ask({ ...opened, n_opened: state.n_opened + 1 }, MAIN);
}

function close(state: State, key: string): State {
  if (key === MAIN) return follow({ ...state, traits: { ...state.traits, selection: null } });
  const cards = state.traits.cards.filter((ref) => keyOf(ref) !== key);
  return withCard({ ...state, traits: { ...state.traits, cards } }, key, null);
}

function keep(state: State): State {
  const { cards } = state.traits;
  const main = cardOf(state, MAIN);
  if (!main) return state;
  const { layer, position, site, lens, k, temperature } = main;
  const ref = { layer, position, site, lens, k, temperature };
  if (cards.some((other) => keyOf(other) === keyOf(ref))) return state;
  // what the selected card waits for does not come to the kept one, which asks for itself
  const kept = withCard(state, keyOf(ref), { ...main, search: NO_SEARCH, ask: 0, isPending: false });
  const next = { ...kept, traits: { ...state.traits, cards: [...cards, ref] } };
  return main.isPending ? ask(next, keyOf(ref)) : next;
}

/** A change of site or lens: the kernel decodes the selected cell again by itself; offline, the page does. */
function set(state: State, change: Partial<ViewTraits>): State {
  const next = { ...state, said: "", traits: { ...state.traits, ...change } };
  const { site, lens } = next.traits;
  const isReadAnew = site !== state.traits.site || lens !== state.traits.lens;
  if (!isReadAnew) return askKept(followView(next, state));
  const isAsked = isFromStore(next) || drawnId(next) !== next.shown;
  if (isAsked) return ask(changeCard(next, MAIN, { site, lens }), MAIN);
  return askKept(changeCard(next, MAIN, { site, lens, isPending: true, ask: 0 }));
}

function search(state: State, box: string, patch: Search): State {
  if (box === "pins") return { ...state, pinSearch: patch };
  return changeCard(state, box, { search: patch });
}

function queryOf(state: State, box: string): string | undefined {
  return (box === "pins" ? state.pinSearch : cardOf(state, box)?.search)?.query;
}

function track(state: State, key: string, id: number): State {
  const { tracked = [] } = cardOf(state, key) ?? {};
  const latest = [id, ...tracked.filter((other) => other !== id)].slice(0, 4);
  return ask(changeCard(state, key, { tracked: latest, search: NO_SEARCH }), key);
}

function pin(state: State, ids: readonly number[], label: string): State {
  const { pins } = state.traits;
  const index = pins.findIndex((other) => ids.every((id) => other.ids.includes(id)));
  if (index >= 0) return { ...state, said: `${label} is pinned already` };
  const added: Pin = { ids, label, color: nextColor(pins) };
  return { ...state, said: `Pinned ${label}`, traits: { ...state.traits, pins: [...pins, added] } };
}

function unpin(state: State, index: number): State {
  const { pins } = state.traits;
  const said = `Unpinned ${pins[index]?.label}`;
  return { ...state, said, traits: { ...state.traits, pins: pins.filter((_, i) => i !== index) } };
}

/** The next state. Pure: requests and other side effects are in `effects.ts`. */
export function reduce(state: State, action: Action): State {
  switch (action.type) {
    case "traits":
      return takeTraits(state, action.traits);
    case "set":
      return set(state, action.traits);
    case "focus":
      return { ...state, said: "", focus: action.cell };
    case "open":
      return open(state, action.cell);
    case "close":
      return close(state, action.key);
    case "keep":
      return keep(state);
    case "change":
      return ask(changeCard(state, MAIN, action.change), MAIN);
    case "changeKept":
      return changeKept(state, action.ref, action.change);
    case "card":
      return takeCard(state, action.key, action.ask, action.card);
    case "foreseen":
      return changeCard(state, MAIN, { card: action.card, isPending: false });
    case "failed": {
      const failed = state.cards[action.run_id]?.[action.key];
      if (failed?.ask !== action.ask) return state;
      const { run_id, key, error } = action;
      return withCard(state, key, { ...failed, ask: 0, isPending: false, error }, run_id);
    }
    case "track":
      return track(state, action.key, action.id);
    case "search":
      return search(state, action.box, { ...NO_SEARCH, query: action.query });
    case "found": {
      const { box, query, matches, note } = action;
      return queryOf(state, box) === query ? search(state, box, { query, matches, note }) : state;
    }
    case "pin":
      return pin(state, action.ids, action.label);
    case "unpin":
      return unpin(state, action.index);
    case "copied": {
      const { run_id, key, code, note } = action;
      return changeCard(state, key, { code, note }, run_id);
    }
    case "draft":
      return { ...state, draft: action.text === promptText(state) ? null : action.text };
    case "arrived":
      return { ...state, version: state.version + 1 };
    case "frame":
      return { ...state, wishedFrame: action.frame };
    case "edits":
      return { ...state, wished: action.edits };
    case "local":
      return { ...state, ...action.patch };
    default:
      return state;
  }
}
