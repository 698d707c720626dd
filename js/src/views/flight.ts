import { cellAt, type Scroll, type Shape, windowOf } from "../look/layout.ts";
import type { App } from "../state/context.ts";
import { colorsOf } from "./cellLook.ts";

/** A grid that moves by more than this part of its view in each frame is too fast to read. */
const FAST = 0.4;
/** Two leaps are of one flight if so little time lies between them. */
const TOGETHER_MS = 250;
/** It has come to rest after so many frames without a scroll: however long a frame takes there. */
const REST_FRAMES = 4;

/**
 * Stands in for the cells while the grid flies past: their colours, one pixel each. A single leap is no flight, since
 * what it leads to is looked at.
 */
export class Flight {
  readonly element = document.createElement("canvas");
  #at: Scroll | null = null;
  #leapt_ms = Number.NEGATIVE_INFINITY;
  #frame = 0;
  #n_still = 0;

  readonly #app: App;
  readonly #land: () => void;

  /** `land` draws the cells themselves. */
  constructor(app: App, land: () => void) {
    this.#app = app;
    this.#land = land;
    this.element.className = "lw-flight";
    this.element.hidden = true;
  }

  get isOn(): boolean {
    return !this.element.hidden;
  }

  /** Whether the frame at a scroll position is one of a flight. */
  isFast(scroll: Scroll): boolean {
    const { left, top, width, height } = scroll;
    const before = this.#at ?? scroll;
    this.#at = scroll;
    const isFast = Math.abs(left - before.left) > FAST * width || Math.abs(top - before.top) > FAST * height;
    if (!isFast) return false;
    const now = performance.now();
    const isFlight = now - this.#leapt_ms < TOGETHER_MS;
    this.#leapt_ms = now;
    if (isFlight) this.#n_still = 0;
    return isFlight;
  }

  draw(shape: Shape, scroll: Scroll): void {
    this.#frame ||= requestAnimationFrame(this.#wait);
    const { element } = this;
    const app = this.#app;
    const pen = element.getContext("2d");
    const cells = app.cells();
    if (!pen || !cells) return;
    // as large wherever it is, so that it is laid out once
    const { r0, r1, c0, c1 } = windowOf(shape, scroll);
    const { col_px, row_px, head_col_px } = shape;
    const [width, height] = [c1 - c0, r1 - r0];
    const { style } = element;
    if (element.width !== width || element.height !== height) {
      element.width = width;
      element.height = height;
    } else pen.clearRect(0, 0, width, height);
    style.width = `${width * col_px}px`;
    style.height = `${height * row_px}px`;
    style.transform = `translate(${head_col_px + c0 * col_px}px, ${r0 * row_px}px)`;
    const colorOf = colorsOf(app, cells, app.traits());
    for (let row = r0; row < r1; row++)
      for (let col = c0; col < c1; col++) {
        const cell = cellAt(shape, row, col);
        const color = cell && colorOf(cell);
        if (!color) continue;
        pen.fillStyle = color.css;
        pen.fillRect(col - c0, row - r0, 1, 1);
      }
    element.hidden = false;
  }

  readonly #wait = () => {
    this.#frame = 0;
    if (++this.#n_still >= REST_FRAMES) this.#land();
    else this.#frame = requestAnimationFrame(this.#wait);
  };

  /** The cells are drawn at a scroll position. */
  end(scroll: Scroll): void {
    cancelAnimationFrame(this.#frame);
    this.#frame = 0;
    this.#at = scroll;
    if (this.isOn) this.element.hidden = true;
  }
}
