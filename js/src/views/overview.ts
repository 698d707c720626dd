import { div } from "../base/dom.ts";
import { on, whenClosed } from "../base/events.ts";
import { sameItems } from "../base/memo.ts";
import type { Shape } from "../look/layout.ts";
import type { App } from "../state/context.ts";
import { lookOf } from "./cellLook.ts";

/** Of more columns or rows than this, only some are drawn; the page scales the picture. */
const MAX_COLS = 1024;
const MAX_ROWS = 32;
/** Tiles arrive one after another: wait, and draw once for several. */
const SETTLE_MS = 150;

/**
 * A strip over the grid with all positions in the colours of their cells, and a frame around the part in view. A press
 * or a drag scrolls there. Hidden from screen readers, because the grid's own keys reach every cell.
 */
export class Overview {
  readonly element = div("lw-overview");
  readonly #canvas = document.createElement("canvas");
  readonly #frame = document.createElement("i");
  #key: unknown[] = [];
  #timer = 0;

  readonly #app: App;

  /** `go` is called with the part of the whole to scroll to, in [0, 1]. */
  constructor(app: App, go: (part: number) => void) {
    this.#app = app;
    const { element } = this;
    element.ariaHidden = "true";
    element.append(this.#canvas, this.#frame);
    const drag = ({ buttons, pointerId, offsetX }: PointerEvent) => {
      if (!buttons) return;
      element.setPointerCapture(pointerId);
      go(offsetX / element.offsetWidth);
    };
    for (const type of ["pointerdown", "pointermove"]) on(element, type, drag, app.signal);
    whenClosed(app.signal, () => clearTimeout(this.#timer));
  }

  /** Frame the part in view, `from` to `to` in [0, 1]; hidden if that is the whole. */
  draw(shape: Shape, from: number, to: number): void {
    const app = this.#app;
    const { traits, version, shown } = app.get();
    this.element.hidden = to - from >= 1;
    if (this.element.hidden) return;
    const { style } = this.#frame;
    style.left = `${100 * from}%`;
    style.width = `${100 * (Math.min(1, to) - from)}%`;
    const { metric, rank_token, site, lens, show, floor } = traits;
    const key = [shape, version, shown, show, floor, metric, rank_token, site, lens, app.theme()];
    if (sameItems(key, this.#key)) return;
    this.#key = key;
    this.#timer ||= window.setTimeout(() => this.#paint(shape), SETTLE_MS);
  }

  #paint(shape: Shape): void {
    this.#timer = 0;
    const app = this.#app;
    const traits = app.traits();
    const cells = app.cells();
    const { isAcross } = shape;
    const positions = isAcross ? shape.cols : shape.rows;
    const layers = [...(isAcross ? shape.rows : shape.cols)].sort((a, b) => b - a);
    const canvas = this.#canvas;
    const width = Math.min(positions.length, MAX_COLS);
    const height = Math.min(layers.length, MAX_ROWS);
    canvas.width = width;
    canvas.height = height;
    const pen = canvas.getContext("2d");
    if (!cells || !pen) return;
    for (let x = 0; x < width; x++) {
      for (let y = 0; y < height; y++) {
        const position = positions[Math.floor((x * positions.length) / width)] as number;
        const layer = layers[Math.floor((y * layers.length) / height)] as number;
        const { surface } = lookOf(app, cells, traits, { layer, position }, undefined);
        if (!surface) continue;
        pen.fillStyle = surface;
        pen.fillRect(x, y, 1, 1);
      }
    }
  }
}
