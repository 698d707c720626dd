import { storedCard } from "../cells/storedCard.ts";
import type { Card, CellRef, Fork, Match } from "../kernel/protocol.ts";
import { VIEW_DEFAULTS } from "../kernel/traits.ts";
import type { KernelError } from "../kernel/transport.ts";
import type { App } from "./context.ts";
import { Foresight } from "./foresight.ts";
import type { Action } from "./reduce.ts";
import { boxText, cardOf, decodeRequest, drawnId, isFromStore, isOffline, sameCell } from "./selectors.ts";
import { type CardState, MAIN, type State } from "./state.ts";
import { Typing } from "./typing.ts";
import { followWhy, whyCoded } from "./why.ts";

const N_MATCHES = 12;
const FORMS_ASKED = 60;
const NOT_ANSWERED = "These are the stored numbers: no kernel answers.";
const NEEDS_KERNEL = "This needs a kernel, and none is connected.";

/** The side effects of actions: requests to the kernel, and the clipboard. */
export class Effects {
  /** The run and key of each card with a decode under way. A card has one; a later one waits for it to return. */
  readonly #underWay = new Set<string>();
  /** The cell that the kernel was asked to select last, until it says that the cell is selected. */
  #untold: CellRef | null = null;
  /** The card of the selected cell that the host's model holds. */
  #decoded: Card | null = null;

  readonly #app: App;
  readonly #typing: Typing;
  readonly #foresight: Foresight;

  constructor(app: App) {
    this.#app = app;
    this.#typing = new Typing(app, () => this.#run());
    this.#foresight = new Foresight(app);
  }

  after(action: Action, before: State, after: State): void {
    if (action.type === "card" && !action.ask) this.#decoded = action.card;
    if (before.cards !== after.cards) this.#decodeDue(after);
    const isTyped = after.draft !== before.draft || (before.running && !after.running);
    if (after.isLive && after.draft !== null && isTyped) this.#typing.changed();
    if (before !== after) followWhy(this.#app);
    switch (action.type) {
      case "traits":
        this.#tellSelection(action.traits.selection);
        break;
      case "rest":
        this.#foresight.rest(action.cell);
        break;
      case "open":
        this.#foresight.offer();
        break;
      case "reset":
        this.#app.set(VIEW_DEFAULTS);
        break;
      case "search":
        void this.#search(action.box, action.query);
        break;
      case "run":
      case "edits":
        void this.#run();
        break;
      case "branch":
        void this.#branch(action.run_id, action.how);
        break;
      case "frame":
        void this.#showFrame();
        break;
      case "generate":
        void this.#generate();
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

  /** Decode every card that asks for it, unless a decode of it is under way. */
  #decodeDue({ cards }: State): void {
    for (const [run_id, ofRun] of Object.entries(cards))
      for (const [key, card] of Object.entries(ofRun)) if (card.ask) void this.#decode(run_id, key, card);
  }

  async #decode(run_id: string, key: string, wanted: CardState): Promise<void> {
    const app = this.#app;
    const { ask, layer, position } = wanted;
    if (isFromStore(app.get())) return this.#readStored(run_id, key, wanted);
    const name = `${run_id}\n${key}`;
    if (this.#underWay.has(name)) return;
    this.#underWay.add(name);
    const select = key === MAIN;
    if (select) this.#untold = { layer, position };
    const { card, error } = await app.transport
      .request("decode", { ...decodeRequest(run_id, wanted), select })
      .reply.then(({ value }) => ({ card: value, error: "" }))
      .catch(({ message }: Error) => ({ card: null, error: message }));
    this.#underWay.delete(name);
    if (card) this.#take(key, ask, card);
    else if (isFromStore(app.get())) this.#readStored(run_id, key, wanted, error);
    else app.dispatch({ type: "failed", run_id, key, ask, error });
    // the card may have asked again meanwhile
    const now = app.get().cards[run_id]?.[key];
    if (now?.ask) void this.#decode(run_id, key, now);
  }

  /** A card without a kernel: the one that was stored with the widget, else the cell's own numbers. */
  #readStored(run_id: string, key: string, wanted: CardState, note = NOT_ANSWERED): void {
    const app = this.#app;
    const { ask, site, lens, k, temperature } = wanted;
    const whole = this.#decoded;
    const isWhole =
      sameCell(whole, wanted) &&
      whole?.run_id === run_id &&
      whole.site === site &&
      whole.lens === lens &&
      whole.k === k &&
      whole.temperature === temperature;
    const card = isWhole ? whole : storedCard(app.cells(run_id), wanted, k);
    const error = `This cell is not stored. ${NEEDS_KERNEL}`;
    if (card) app.dispatch({ type: "card", key, ask, card });
    else app.dispatch({ type: "failed", run_id, key, ask, error });
    if (card && !isOffline(app.get())) app.dispatch({ type: "copied", run_id, key, code: null, note });
  }

  #take(key: string, ask: number, card: Card): void {
    const app = this.#app;
    const before = app.get();
    app.dispatch({ type: "card", key, ask, card });
    // drawn at once: the press waits for this card, and another frame would delay it
    if (app.get() !== before) app.flush();
  }

  #tellSelection(selection: CellRef | null | undefined): void {
    if (!selection || !sameCell(selection, this.#untold)) return;
    this.#untold = null;
    this.#app.tellSelection(selection);
  }

  /** Search the vocabulary; `box` is the key of a card, or "pins". */
  async #search(box: string, query: string): Promise<void> {
    const app = this.#app;
    if (!query) return;
    const found = (matches: readonly Match[] | null, note: string | null) =>
      app.dispatch({ type: "found", box, query, matches, note });
    if (isFromStore(app.get()))
      return found(
        this.#storedMatches(query),
        "Only the stored tokens are searched: no kernel is connected.",
      );
    try {
      const { matches } = (await app.transport.request("search", { text: query, k: N_MATCHES }).reply).value;
      found(matches, matches.length ? null : "No such token.");
    } catch (error) {
      found(null, (error as Error).message);
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

  /** Run the edited text; or, if the box was not edited, the very inputs of the shown run again. */
  async #run(): Promise<void> {
    const app = this.#app;
    const state = app.get();
    const { draft, running, shown, wished } = state;
    if (isOffline(state)) return app.local({ notice: NEEDS_KERNEL, wished: null });
    if (running) return;
    const what = draft === null && shown !== null ? { again: shown } : { prompt: boxText(state) };
    const request = wished ? { ...what, edits: wished } : what;
    const pending = app.transport.request("run", request);
    app.local({ running: pending.id, notice: null, said: "Running the model" });
    try {
      await pending.reply;
      app.local({ running: null, progress: null, said: "The run is ready" });
    } catch (error) {
      const notice = (error as KernelError).type === "Cancelled" ? "Stopped." : (error as Error).message;
      app.local({ running: null, progress: null, notice, said: notice });
    }
    // while a slider moves, only what it shows last is run next
    if (app.get().wished !== wished) void this.#run();
    else app.local({ wished: null });
  }

  /** Show a run of the tree again or beside the shown one, or a branch of a run. */
  async #branch(run_id: string, how: "show" | "beside" | { readonly fork: Fork }): Promise<void> {
    const app = this.#app;
    if (isOffline(app.get())) return app.local({ notice: NEEDS_KERNEL });
    if (app.get().running) return;
    const request =
      how === "show"
        ? { show: run_id }
        : how === "beside"
          ? { beside: run_id }
          : { again: run_id, fork: how.fork };
    const pending = app.transport.request("run", request);
    app.local({ running: pending.id, notice: null, said: "Running the model" });
    try {
      await pending.reply;
      app.local({
        running: null,
        progress: null,
        said: how === "beside" ? "Two runs are shown" : "The branch is ready",
      });
    } catch (error) {
      const notice = (error as Error).message;
      app.local({ running: null, progress: null, notice, said: notice });
    }
  }

  /** Show the frame that was asked for last: one at a time, since each has to be run. */
  async #showFrame(): Promise<void> {
    const app = this.#app;
    const { wishedFrame: frame, running, traits } = app.get();
    if (frame === null || running) return;
    if (isOffline(app.get())) return app.local({ notice: NEEDS_KERNEL, wishedFrame: null, playing: null });
    const pending = app.transport.request("run", { frame });
    app.local({ running: pending.id, notice: null });
    const over = { running: null, progress: null };
    try {
      await pending.reply;
      app.local({ ...over, said: `Run ${frame + 1} of ${traits.frames.length}: ${traits.frames[frame]}` });
    } catch (error) {
      const notice = (error as Error).message;
      app.local({ ...over, notice, said: notice, playing: null });
    }
    if (app.get().wishedFrame !== frame) void this.#showFrame();
    else app.local({ wishedFrame: null });
  }

  /** Continue the run that is shown, token by token; an edited text is run first. */
  async #generate(): Promise<void> {
    const app = this.#app;
    if (isOffline(app.get())) return app.local({ notice: NEEDS_KERNEL });
    if (app.get().running) return;
    if (app.get().draft !== null) await this.#run();
    const { draft, running, notice, continuing } = app.get();
    if (draft !== null || running || notice) return; // the text could not be run, or was changed meanwhile
    const pending = app.transport.request("generate", continuing);
    app.local({ running: pending.id, isGenerating: true, notice: null, said: "Generating" });
    const over = { running: null, isGenerating: false, progress: null };
    try {
      await pending.reply;
      app.local({ ...over, said: "The prompt was continued" });
    } catch (error) {
      const isStopped = (error as KernelError).type === "Cancelled";
      const said = isStopped ? "Stopped." : (error as Error).message;
      app.local({ ...over, notice: isStopped ? null : said, said });
    }
  }

  #stop(): void {
    for (const target of this.#app.transport.pending()) {
      this.#app.transport.request("cancel", { target }).reply.catch(() => {});
    }
  }

  /** Add the other surface forms of a pin's token: those that differ only in case and space. */
  async #group(index: number): Promise<void> {
    const app = this.#app;
    const pin = app.traits().pins[index];
    const raw = app
      .cells()
      ?.label(pin?.ids[0] ?? -1)[2]
      .trim();
    if (!pin || !raw) return;
    const isForm = ({ label }: Match) => label[2].trim().toLowerCase() === raw.toLowerCase();
    try {
      const matches = isOffline(app.get())
        ? this.#storedMatches(raw)
        : (await app.transport.request("search", { text: raw, k: FORMS_ASKED }).reply).value.matches;
      const forms = matches.filter(isForm).map(({ id }) => id);
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
    const card = cardOf(state, key);
    const run_id = drawnId(state);
    if (!card || run_id === null) return;
    const copied = (note: string, code: string | null = null) =>
      app.dispatch({ type: "copied", run_id, key, code, note });
    if (isOffline(state)) return copied(NEEDS_KERNEL);
    const { show } = state.traits;
    const request = { ...decodeRequest(run_id, card), show, why: whyCoded(app, key) };
    try {
      const { code } = (await app.transport.request("code", request).reply).value;
      // a frame may refuse the clipboard, so the code is also shown
      const isCopied = await navigator.clipboard.writeText(code).then(
        () => true,
        () => false,
      );
      copied(isCopied ? "Code copied." : "Copy the code below.", code);
    } catch (error) {
      copied((error as Error).message);
    }
  }
}
