import { whenClosed } from "../base/events.ts";
import type { App } from "./context.ts";
import { isOffline } from "./selectors.ts";

/** Keys that come faster than this are waited out; at a person's pace a text is run at once, since the latest wins. */
const PAUSE_MS = 60;
/** Where runs take longer than this, one after the other, the grid no longer follows. */
const SLOW_MS = 1500;
const MOST_SLOW = 2;

/** Runs the prompt as it is typed: one run at a time, and then the latest text. */
export class Typing {
  readonly #app: App;
  readonly #run: () => Promise<void>;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #n_slow = 0;
  #changed_ms = -PAUSE_MS;

  constructor(app: App, run: () => Promise<void>) {
    this.#app = app;
    this.#run = run;
    whenClosed(app.signal, () => clearTimeout(this.#timer));
  }

  /** The text changed, or a run ended while it changed. */
  changed(): void {
    const now = performance.now();
    const pause = now - this.#changed_ms < PAUSE_MS ? PAUSE_MS : 0;
    this.#changed_ms = now;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => void this.#follow(), pause);
  }

  async #follow(): Promise<void> {
    const app = this.#app;
    const { draft, isLive, running } = app.get();
    // while something runs, its end leads here again
    if (!isLive || !draft || running || isOffline(app.get())) return;
    const started = performance.now();
    await this.#run();
    this.#n_slow = performance.now() - started > SLOW_MS ? this.#n_slow + 1 : 0;
    if (this.#n_slow >= MOST_SLOW) {
      this.#n_slow = 0;
      const said = "Live is off: a run of this prompt takes too long here.";
      app.local({ isLive: false, notice: said, said });
    }
  }
}
