import type { Card, CellRef } from "../kernel/protocol.ts";
import type { App } from "./context.ts";
import { reduce } from "./reduce.ts";
import { cardOf, decodeRequest, drawnId } from "./selectors.ts";
import { MAIN } from "./state.ts";

/** A pointer that rests on a cell for so long may be about to press it. */
const REST_MS = 40;

/**
 * Decodes the cell under a pointer that rests, while the kernel has nothing else to do: a press then finds the card's
 * numbers in the page. The press is a decode of its own all the same.
 */
export class Foresight {
  #timer: ReturnType<typeof setTimeout> | undefined;
  #isAsking = false;
  #asked = "";
  #card: Card | null = null;

  readonly #app: App;

  constructor(app: App) {
    this.#app = app;
  }

  /** Follow the pointer; null where it is on no cell. */
  rest(cell: CellRef | null): void {
    clearTimeout(this.#timer);
    if (cell) this.#timer = setTimeout(() => void this.#decode(cell), REST_MS);
  }

  async #decode(cell: CellRef): Promise<void> {
    const app = this.#app;
    const state = app.get();
    const isBusy = this.#isAsking || state.running || state.connection !== "live";
    if (app.signal.aborted || isBusy || app.transport.pending().length) return;
    // the card that a press would ask for
    const pressed = reduce(state, { type: "open", cell });
    const run_id = drawnId(pressed);
    const wanted = cardOf(pressed, MAIN);
    if (run_id === null || !wanted?.ask) return;
    const request = decodeRequest(run_id, wanted);
    const asked = JSON.stringify(request);
    if (asked === this.#asked) return;
    this.#isAsking = true;
    this.#asked = asked;
    this.#card = null;
    try {
      this.#card = (await app.transport.request("decode", { ...request, select: false }, true).reply).value;
    } catch {
      // the press says what is wrong
    }
    this.#isAsking = false;
    this.offer();
  }

  /** Give the numbers to the main card, if it waits for just these. */
  offer(): void {
    const app = this.#app;
    const state = app.get();
    const main = cardOf(state, MAIN);
    const card = this.#card;
    if (!card || !main?.ask) return;
    if (JSON.stringify(decodeRequest(drawnId(state) ?? "", main)) !== this.#asked) return;
    app.dispatch({ type: "foreseen", card });
    // the press waits for nothing else
    app.flush();
  }
}
