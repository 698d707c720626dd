import { sameItems } from "../base/memo.ts";
import type { Card, CardRef } from "../kernel/protocol.ts";
import { cardOf, drawnId, isFromStore, isInside, keptCards, sameCell, shownRun } from "./selectors.ts";
import { type CardState, type Decoding, keyOf, MAIN, NO_SEARCH, type State } from "./state.ts";

/** The state with a card in place of the one with that key; null removes it. */
export function withCard(
  state: State,
  key: string,
  card: CardState | null,
  run_id: string | null = drawnId(state),
): State {
  if (run_id === null) return state;
  const { [key]: _, ...others } = state.cards[run_id] ?? {};
  const cards = card ? { ...others, [key]: card } : others;
  return { ...state, cards: { ...state.cards, [run_id]: cards } };
}

/** Change a card, if there is one with that key. */
export function changeCard(
  state: State,
  key: string,
  change: Partial<CardState>,
  run_id: string | null = drawnId(state),
): State {
  const card = run_id === null ? undefined : state.cards[run_id]?.[key];
  return card ? withCard(state, key, { ...card, ...change }, run_id) : state;
}

function blankCard(ref: Required<CardRef>): CardState {
  return {
    ...ref,
    card: null,
    ask: 0,
    isPending: false,
    error: null,
    search: NO_SEARCH,
    tracked: [],
    code: null,
    note: null,
  };
}

/** Ask for a card's numbers: `effects.ts` sends a decode for every card with a number. */
export function ask(state: State, key: string): State {
  const n_asked = state.n_asked + 1;
  return changeCard({ ...state, n_asked }, key, { ask: n_asked, isPending: true, code: null, note: null });
}

/** Make the main card that of the selected cell. A new one waits for the kernel, which decodes what is selected. */
export function follow(state: State, isAnew = false): State {
  const { selection, card_k, site, lens } = state.traits;
  const main = cardOf(state, MAIN);
  const run = shownRun(state);
  if (!selection || !run || !isInside(run, selection)) return main ? withCard(state, MAIN, null) : state;
  if (main && sameCell(main, selection) && !isAnew) return state;
  const blank = blankCard({ ...selection, site, lens, k: card_k, temperature: 1 });
  const next = withCard(state, MAIN, { ...blank, isPending: true });
  return isFromStore(state) ? ask(next, MAIN) : next;
}

/** Ask for the main card of the run that is drawn now, if another was drawn before and the kernel sends none by itself. */
export function followView(state: State, before: State): State {
  const drawn = drawnId(state);
  if (drawn === drawnId(before) || !state.traits.selection) return state;
  const next = follow(state);
  const isSent = drawn === state.shown && state.shown !== before.shown;
  return isSent || cardOf(next, MAIN)?.card ? next : ask(next, MAIN);
}

/** Ask for the kept cards that the shown run has no card of. */
export function askKept(state: State): State {
  let next = state;
  for (const ref of keptCards(state)) {
    const key = keyOf(ref);
    if (cardOf(next, key)) continue;
    const { k = state.traits.card_k, temperature = 1 } = ref;
    next = ask(withCard(next, key, blankCard({ ...ref, k, temperature })), key);
  }
  return next;
}

/** Decode a kept card otherwise: the trait `cards` says how it is decoded, so that changes, and the key with it. */
export function changeKept(state: State, ref: CardRef, change: Decoding): State {
  const now = { ...ref, ...change };
  const [from, to] = [keyOf(ref), keyOf(now)];
  const card = cardOf(state, from);
  if (!card) return state;
  const others = state.traits.cards.filter((other) => keyOf(other) !== to || to === from);
  const cards = others.map((other) => (keyOf(other) === from ? now : other));
  const moved = withCard(withCard(state, from, null), to, { ...card, ...change });
  return ask({ ...moved, traits: { ...state.traits, cards } }, to);
}

/** Whether two cards answer the same question. */
function sameCard(a: Card, b: Card | null): boolean {
  return (
    !!b &&
    sameCell(a, b) &&
    a.run_id === b.run_id &&
    a.site === b.site &&
    a.lens === b.lens &&
    a.k === b.k &&
    a.temperature === b.temperature &&
    sameItems(
      a.tracked.map(({ id }) => id),
      b.tracked.map(({ id }) => id),
    )
  );
}

/**
 * Put numbers on a card of their own run. `asked` is the number of the decode that they reply to, or 0 for the trait
 * `decoded`. They are dropped if the card asked again since, or shows another cell; nothing changes if it shows them.
 */
export function takeCard(state: State, key: string, asked: number, card: Card): State {
  const known = state.cards[card.run_id]?.[key];
  if (!known || known.ask !== asked || !sameCell(known, card)) return state;
  if (!known.isPending && !known.ask && sameCard(card, known.card)) return state;
  const { k, temperature, site, lens } = card;
  // the trait may be set by Python or by another view, which chose how to decode
  const chosen = asked ? {} : { k: k || known.k, temperature, site, lens };
  const next = { ...known, ...chosen, card, ask: 0, isPending: false, error: null };
  return withCard(state, key, next, card.run_id);
}
