import { div } from "../base/dom.ts";
import { atEnd, on } from "../base/events.ts";
import type { Shape } from "../look/layout.ts";
import type { App } from "../state/context.ts";
import { sameItems } from "../state/selectors.ts";
import { lookOf } from "./cell.ts";

/** More columns or rows than this are thinned out; the page scales the picture. */
const MAX_COLS = 1024;
const MAX_ROWS = 32;
/** Tiles arrive in a row: one drawing for several. */
const SETTLE_MS = 150;

/**
 * All positions in a strip over the grid, in the colours of what is known, with a frame around what is in view.
 * A press or a drag goes there. Hidden from readers: the grid's own keys lead everywhere.
 */
export class Overview {
  readonly element = div("lw-overview");
  readonly #canvas = document.createElement("canvas");
  readonly #frame = document.createElement("i");
  #key: unknown[] = [];
  #timer = 0;

  readonly #app: App;

  /** `go` is told where to, as a part of the whole. */
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
    atEnd(app.signal, () => clearTimeout(this.#timer));
  }

  /** The part in view; nothing is shown while that is all. */
  draw(shape: Shape, from: number, to: number): void {
    const app = this.#app;
    const { traits, version } = app.get();
    this.element.hidden = to - from >= 1;
    if (this.element.hidden) return;
    const { style } = this.#frame;
    style.left = `${100 * from}%`;
    style.width = `${100 * (Math.min(1, to) - from)}%`;
    const { run, metric, rank_token, site, lens } = traits;
    const key = [shape, version, run, metric, rank_token, site, lens, app.theme()];
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
