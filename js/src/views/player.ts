import { whenClosed } from "../base/events.ts";
import type { App } from "../state/context.ts";

/** Steps a second that can be chosen. */
export const SPEEDS = [1, 2, 4, 8, 16] as const;
/** The most for a person who asked their system for less motion. */
const CALM = 1;

/** Plays steps one after another, at the chosen speed, until one leads nowhere. */
export class Player {
  readonly #app: App;
  /** Makes one step; false at the end. */
  readonly #step: (what: "columns" | "frames") => boolean;
  #timer: ReturnType<typeof setTimeout> | undefined;

  constructor(app: App, step: (what: "columns" | "frames") => boolean) {
    this.#app = app;
    this.#step = step;
    whenClosed(app.signal, () => clearTimeout(this.#timer));
  }

  /** Follow the state: begin what was asked to be played, or stop. */
  follow(): void {
    const { playing } = this.#app.get();
    if (playing && this.#timer === undefined) this.#wait();
    if (!playing) this.#stop();
  }

  #wait(): void {
    const { speed } = this.#app.get();
    const isCalm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    this.#timer = setTimeout(() => this.#tick(), 1000 / (isCalm ? Math.min(speed, CALM) : speed));
  }

  #tick(): void {
    this.#timer = undefined;
    const { playing, running } = this.#app.get();
    if (!playing) return;
    // a frame that is still being run is waited for
    if (!running && !this.#step(playing)) this.#app.local({ playing: null });
    else this.#wait();
  }

  #stop(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
  }
}
