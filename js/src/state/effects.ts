import { storedCard } from "../cells/storedCard.ts";
import type { Card, CardRef, CellRef, Match } from "../kernel/protocol.ts";
import { runOf, VIEW_DEFAULTS } from "../kernel/traits.ts";
import type { KernelError } from "../kernel/transport.ts";
import type { App } from "./context.ts";
import type { Action } from "./reduce.ts";
import { isOffline, keptCards, sameCell } from "./selectors.ts";
import { type CardState, keyOf, MAIN, type State } from "./state.ts";

const N_MATCHES = 12;
/** A kernel nearby answers a click sooner. A frame before that would flicker, and keep kernel and card waiting. */
const PATIENCE_MS = 100;
const FORMS_ASKED = 60;
const NEEDS_KERNEL = "This needs a kernel; none is connected.";

/** The cell of a card. */
export function refOf(state: State, key: string): CardRef | null {
  const { traits } = state;
  if (key !== MAIN) return traits.cards.find((ref) => keyOf(ref) === key) ?? null;
  const card = state.cards[MAIN];
  if (!traits.selection || !card) return null;
  return { ...traits.selection, site: card.site, lens: card.lens };
}

/** What an action sets going beyond the state: requests, the clipboard. */
export class Effects {
  /** The cards with a decode on its way, and those of them that want another one after it: the latest wish wins. */
  readonly #asking = new Set<string>();
  readonly #again = new Set<string>();

  readonly #app: App;

  constructor(app: App) {
    this.#app = app;
  }

  after(action: Action, before: State, after: State): void {
    const app = this.#app;
    switch (action.type) {
      case "open":
        this.decode(MAIN);
        if (!before.isPatient)
          setTimeout(() => app.get().isPatient && app.local({ isPatient: false }), PATIENCE_MS);
        break;
      case "ask":
      case "track":
        this.decode(action.key);
        break;
      case "recast":
        this.decode(keyOf({ ...action.ref, ...action.change }));
        break;
      case "traits":
        this.#followKernel(before, after);
        break;
      case "set":
        if (action.traits.site !== undefined || action.traits.lens !== undefined) this.#followLens(after);
        break;
      case "reset":
        app.set(VIEW_DEFAULTS);
        break;
      case "search":
        void this.#search(action.key, action.query);
        break;
      case "run":
        void this.#run();
        break;
      case "stop":
        this.#stop();
        break;
      case "group":
        void this.#group(action.index);
        break;
      case "copy":
        void this.#copy(action.key);
        break;
    }
  }

  /** Decode a card's cell in the kernel; without one, from what is stored. */
  decode(key: string): void {
    const app = this.#app;
    const state = app.get();
    const run = runOf(state.traits);
    const ref = refOf(state, key);
    const card = state.cards[key];
    if (!run || !ref || !card) return;
    if (isOffline(state)) {
      const stored = storedCard(app.cells(), run, { ...ref, site: card.site, lens: card.lens }, card);
      if (stored) app.dispatch({ type: "decoded", key, card: stored });
      else app.dispatch({ type: "failed", key, error: `This cell is not stored. ${NEEDS_KERNEL}` });
      return;
    }
    if (this.#asking.has(key)) {
      this.#again.add(key);
      return;
    }
    const { k, temperature, tracked, site, lens } = card;
    const { layer, position } = ref;
    const select = key === MAIN;
    const ask = { run_id: run.id, layer, position, site, lens, k, temperature, track: tracked, select };
    this.#asking.add(key);
    const isWanted = () => !this.#again.has(key) && app.get().cards[key];
    app.transport
      .request("decode", ask)
      .reply.then(
        ({ value }) => {
          // the selected cell's card is a trait, which Python and other views have too, and which came before
          const found = (select ? app.kernelCard() : value) as Card;
          if (sameCell(found, ref) && isWanted()) app.dispatch({ type: "decoded", key, card: found });
        },
        (error: Error) => {
          if (isWanted()) app.dispatch({ type: "failed", key, error: error.message });
        },
      )
      .then(() => {
        this.#asking.delete(key);
        if (this.#again.delete(key)) this.decode(key);
        else if (select) app.tellSelection();
      });
  }

  /**
   * Does the kernel speak of a cell that is no longer the one wanted? It hears of that one only after its reply.
   * That none is selected is Python's own word, and holds.
   */
  isStale(cell: CellRef): boolean {
    return this.#asking.has(MAIN) && (this.#again.has(MAIN) || !sameCell(cell, this.#app.traits().selection));
  }

  #followKernel(before: State, after: State): void {
    const isNewRun = runOf(before.traits)?.id !== runOf(after.traits)?.id;
    const { selection, decoded, card_k } = after.traits;
    for (const ref of keptCards(after)) {
      const key = keyOf(ref);
      if (after.cards[key] && !isNewRun) continue;
      const { site, lens, k = card_k, temperature = 1 } = ref;
      this.#app.dispatch({ type: "ask", key, change: { site, lens, k, temperature } });
    }
    const isShown = decoded && decoded.run_id === runOf(after.traits)?.id;
    if (isNewRun && selection && !isShown) this.#app.dispatch({ type: "ask", key: MAIN, change: {} });
  }

  /** The kernel decodes the selected cell again when site or lens change; without one, what is stored is shown. */
  #followLens(state: State): void {
    const { site, lens } = state.traits;
    if (!state.cards[MAIN]) return;
    if (isOffline(state)) this.#app.dispatch({ type: "ask", key: MAIN, change: { site, lens } });
    else this.#app.dispatch({ type: "card", key: MAIN, patch: { site, lens, isPending: true } });
  }

  /** Search the vocabulary; `key` is a card, or "pins" for the box beside the pins. */
  async #search(key: string, query: string): Promise<void> {
    const app = this.#app;
    const keep = (matches: readonly Match[] | null, note: string | null) =>
      app.dispatch({ type: "card", key, patch: { matches, note } });
    if (!query) return keep(null, null);
    if (isOffline(app.get())) return keep(this.#storedMatches(query), `Stored tokens. ${NEEDS_KERNEL}`);
    try {
      const { value } = await app.transport.request("search", { text: query, k: N_MATCHES }).reply;
      if (app.get().cards[key]?.query === query)
        keep(value.matches, value.matches.length ? null : "No such token.");
    } catch (error) {
      keep(null, (error as Error).message);
    }
  }

  #storedMatches(query: string): Match[] {
    const wanted = query.trim().toLowerCase() || query;
    const labels = [...(this.#app.cells()?.labels ?? [])];
    return labels
      .filter(([, [text, , raw]]) => raw.toLowerCase().includes(wanted) || text === query)
      .sort(([, a], [, b]) => a[2].length - b[2].length)
      .slice(0, N_MATCHES)
      .map(([id, label]) => ({ id, label }));
  }

  async #run(): Promise<void> {
    const app = this.#app;
    const { draft, running } = app.get();
    if (isOffline(app.get())) return app.local({ notice: NEEDS_KERNEL });
    if (running) return;
    const pending = app.transport.request("run", { prompt: draft });
    app.local({ running: pending.id, notice: null, said: "Running the model" });
    try {
      await pending.reply;
      app.local({ running: null, progress: null, said: "The run is ready" });
    } catch (error) {
      const notice = (error as KernelError).type === "Cancelled" ? "Stopped." : (error as Error).message;
      app.local({ running: null, progress: null, notice, said: notice });
    }
  }

  #stop(): void {
    for (const target of this.#app.transport.pending()) {
      this.#app.transport.request("cancel", { target }).reply.catch(() => {});
    }
  }

  /** Add to a pin the other surface forms of its token: those alike but for case and space. */
  async #group(index: number): Promise<void> {
    const app = this.#app;
    const pin = app.traits().pins[index];
    const raw = app
      .cells()
      ?.label(pin?.ids[0] ?? -1)[2]
      .trim();
    if (!pin || !raw) return;
    const alike = ({ label }: Match) => label[2].trim().toLowerCase() === raw.toLowerCase();
    try {
      const matches = isOffline(app.get())
        ? this.#storedMatches(raw)
        : (await app.transport.request("search", { text: raw, k: FORMS_ASKED }).reply).value.matches;
      const forms = matches.filter(alike).map(({ id }) => id);
      const ids = [...new Set([...pin.ids, ...forms])];
      const pins = app.traits().pins.map((other) => (other === pin ? { ...pin, ids } : other));
      app.set({ pins });
      app.local({ said: `${ids.length} forms are summed` });
    } catch (error) {
      app.local({ notice: (error as Error).message });
    }
  }

  async #copy(key: string): Promise<void> {
    const app = this.#app;
    const state = app.get();
    const ref = refOf(state, key);
    const card = state.cards[key] as CardState;
    const say = (note: string, code: string | null = null) =>
      app.dispatch({ type: "card", key, patch: { note, code } });
    if (!ref) return;
    if (isOffline(state)) return say(NEEDS_KERNEL);
    const { site, lens, k, temperature } = card;
    const ask = { layer: ref.layer, position: ref.position, site, lens, k, temperature };
    try {
      const { code } = (await app.transport.request("code", ask).reply).value;
      // a frame may refuse the clipboard; the code is shown either way, to be copied by hand
      const isCopied = await navigator.clipboard.writeText(code).then(
        () => true,
        () => false,
      );
      say(isCopied ? "Code copied." : "Copy it from below.", code);
    } catch (error) {
      say((error as Error).message);
    }
  }
}
