import type { Card, CardRef, CellRef, Pin, RunInfo, Traits } from "../kernel/protocol.ts";
import { runOf } from "../kernel/traits.ts";
import { N_PIN_COLORS } from "../look/scales.ts";
import { isInside, isOffline, promptText, sameCell } from "./selectors.ts";
import { type CardState, keyOf, MAIN, type State } from "./state.ts";

export type Action =
  /** The kernel (or another view) changed traits. */
  | { type: "traits"; traits: Partial<Traits> }
  /** A control changed traits; they go to the kernel. */
  | { type: "set"; traits: Partial<Traits> }
  | { type: "focus"; cell: CellRef }
  | { type: "open"; cell: CellRef }
  | { type: "close"; key: string }
  | { type: "keep" }
  /** Change how a card is decoded; it is asked for again. */
  | { type: "ask"; key: string; change: Asked }
  /** The same of a card that is kept. */
  | { type: "recast"; ref: CardRef; change: Asked }
  | { type: "decoded"; key: string; card: Card }
  | { type: "failed"; key: string; error: string }
  | { type: "search"; key: string; query: string }
  | { type: "track"; key: string; id: number }
  | { type: "pin"; ids: readonly number[]; label: string }
  | { type: "unpin"; index: number }
  | { type: "group"; index: number }
  | { type: "copy"; key: string }
  | { type: "draft"; text: string }
  | { type: "run" }
  | { type: "stop" }
  | { type: "reset" }
  /** Numbers arrived. */
  | { type: "arrived" }
  | { type: "card"; key: string; patch: Partial<CardState> }
  | { type: "local"; patch: Partial<Omit<State, "traits" | "cards">> };

/** How a card is decoded. */
export type Asked = Partial<Pick<CardState, "k" | "temperature" | "site" | "lens">>;

export function blankCard({ card_k, site, lens }: Traits): CardState {
  return {
    k: card_k,
    temperature: 1,
    site,
    lens,
    card: null,
    isPending: false,
    error: null,
    query: "",
    matches: null,
    tracked: [],
    note: null,
    code: null,
  };
}

/** The colour that is used least so far. */
export function nextColor(pins: readonly Pin[]): number {
  const uses = Array.from(
    { length: N_PIN_COLORS },
    (_, color) => pins.filter((pin) => pin.color === color).length,
  );
  return uses.indexOf(Math.min(...uses));
}

function withCard(state: State, key: string, patch: Partial<CardState>): State {
  const card = state.cards[key] ?? blankCard(state.traits);
  return { ...state, cards: { ...state.cards, [key]: { ...card, ...patch } } };
}

function withoutCard(state: State, key: string): State {
  const { [key]: _, ...cards } = state.cards;
  return { ...state, cards };
}

/** Where the focus goes when the run changes: the same cell, or the nearest that exists. */
export function clampFocus(focus: CellRef | null, run: RunInfo | null): CellRef | null {
  if (!focus || !run) return null;
  return {
    layer: Math.min(focus.layer, run.n_layers - 1),
    position: Math.min(focus.position, run.tokens.length - 1),
  };
}

/** Is this the decode that the selection asks for? */
function isCurrent(traits: Traits): boolean {
  const { decoded, selection } = traits;
  return !!decoded && sameCell(decoded, selection) && decoded.run_id === runOf(traits)?.id;
}

function fromKernel(state: State, change: Partial<Traits>): State {
  const traits = { ...state.traits, ...change };
  const hasNewRun = !!change.run && runOf(traits)?.id !== runOf(state.traits)?.id;
  let next: State = { ...state, traits };
  if (hasNewRun) {
    next = { ...next, cards: {}, focus: clampFocus(state.focus, runOf(traits)), notice: null, said: "" };
  }
  // what somebody is writing here stays
  if (!state.draft || state.draft === promptText(state.traits)) next = { ...next, draft: promptText(traits) };
  const moved = change.selection !== undefined && !sameCell(change.selection, state.traits.selection);
  if (moved || hasNewRun) next = withoutCard(next, MAIN);
  if (moved && change.selection) next = { ...next, focus: change.selection };
  if (!isCurrent(traits) || !traits.decoded) return next;
  const { decoded } = traits;
  if (change.decoded === undefined && next.cards[MAIN]) return next;
  const { k, temperature, site, lens } = decoded;
  next = { ...next, isPatient: false };
  return withCard(next, MAIN, { card: decoded, k, temperature, site, lens, isPending: false, error: null });
}

function open(state: State, cell: CellRef): State {
  const run = runOf(state.traits);
  if (!run || !isInside(run, cell)) return state;
  const main = blankCard(state.traits);
  const tracked = state.cards[MAIN]?.tracked ?? [];
  return {
    ...state,
    focus: cell,
    said: "",
    isPatient: !isOffline(state),
    n_opened: state.n_opened + 1,
    traits: { ...state.traits, selection: cell },
    cards: { ...state.cards, [MAIN]: { ...main, tracked, isPending: !isOffline(state) } },
  };
}

function close(state: State, key: string): State {
  if (key === MAIN)
    return { ...withoutCard(state, MAIN), traits: { ...state.traits, selection: null, decoded: null } };
  const cards = state.traits.cards.filter((ref) => keyOf(ref) !== key);
  return { ...withoutCard(state, key), traits: { ...state.traits, cards } };
}

function keep(state: State): State {
  const { selection, cards } = state.traits;
  const main = state.cards[MAIN];
  if (!selection || !main) return state;
  const { site, lens, k, temperature } = main;
  const ref = { ...selection, site, lens, k, temperature };
  if (cards.some((other) => keyOf(other) === keyOf(ref))) return state;
  return withCard({ ...state, traits: { ...state.traits, cards: [...cards, ref] } }, keyOf(ref), main);
}

function ask(state: State, key: string, change: Asked): State {
  return withCard(state, key, {
    ...change,
    isPending: !isOffline(state),
    code: null,
    note: null,
  });
}

/** A kept card is what `cards` says, so what changes on it changes there, and with it its key. */
function recast(state: State, ref: CardRef, change: Asked): State {
  const next = { ...ref, ...change };
  const [from, to] = [keyOf(ref), keyOf(next)];
  const others = state.traits.cards.filter((other) => keyOf(other) !== to);
  const cards = others.map((other) => (keyOf(other) === from ? next : other));
  const traits = { ...state.traits, cards };
  return ask(withCard({ ...withoutCard(state, from), traits }, to, state.cards[from] ?? {}), to, change);
}

function pin(state: State, ids: readonly number[], label: string): State {
  const { pins } = state.traits;
  const index = pins.findIndex((other) => ids.every((id) => other.ids.includes(id)));
  if (index >= 0) return { ...state, said: `${label} is pinned already` };
  const added: Pin = { ids, label, color: nextColor(pins) };
  return { ...state, said: `Pinned ${label}`, traits: { ...state.traits, pins: [...pins, added] } };
}

function decoded(state: State, key: string, card: Card): State {
  const known = state.cards[key];
  if (known?.card === card && !known.isPending) return state;
  const next = withCard(state, key, { card, isPending: false, error: null });
  if (key !== MAIN) return next;
  return { ...next, isPatient: false, traits: { ...next.traits, decoded: card } };
}

/** The next state. Pure; what reaches the kernel or the page is in `effects.ts`. */
export function reduce(state: State, action: Action): State {
  switch (action.type) {
    case "traits":
      return fromKernel(state, action.traits);
    case "set":
      return { ...state, said: "", traits: { ...state.traits, ...action.traits } };
    case "focus":
      return { ...state, said: "", focus: action.cell };
    case "open":
      return open(state, action.cell);
    case "close":
      return close(state, action.key);
    case "keep":
      return keep(state);
    case "ask":
      return ask(state, action.key, action.change);
    case "recast":
      return recast(state, action.ref, action.change);
    case "decoded":
      return decoded(state, action.key, action.card);
    case "failed":
      return {
        ...withCard(state, action.key, { isPending: false, error: action.error }),
        isPatient: false,
      };
    case "card":
      return state.cards[action.key] ? withCard(state, action.key, action.patch) : state;
    case "search":
      return withCard(state, action.key, { query: action.query, matches: null });
    case "track": {
      const tracked = state.cards[action.key]?.tracked ?? [];
      const next = [action.id, ...tracked.filter((id) => id !== action.id)].slice(0, 4);
      return withCard(state, action.key, { tracked: next, query: "", matches: null });
    }
    case "pin":
      return pin(state, action.ids, action.label);
    case "unpin": {
      const { pins } = state.traits;
      const said = `Unpinned ${pins[action.index]?.label}`;
      return { ...state, said, traits: { ...state.traits, pins: pins.filter((_, i) => i !== action.index) } };
    }
    case "draft":
      return { ...state, draft: action.text };
    case "arrived":
      return { ...state, version: state.version + 1 };
    case "local":
      return { ...state, ...action.patch };
    default:
      return state;
  }
}
