import { div } from "../base/dom.ts";
import { on, whenClosed } from "../base/events.ts";
import { sameItems } from "../base/memo.ts";
import type { Tile } from "../cells/packed.ts";
import type { Shape } from "../look/layout.ts";
import { sampleOf } from "../look/viewport.ts";
import type { App } from "../state/context.ts";
import { colorsOf } from "./cellLook.ts";

/** Tiles arrive one after another: wait, and draw once for several. */
const SETTLE_MS = 150;

/**
 * A strip over the grid with all positions in the colours of their cells, and a frame around the part in view. Where
 * nobody has looked yet, a column stands for its neighbours too until they are known. A press or a drag scrolls there. Hidden from screen readers, because the grid's own keys reach every cell.
 */
export class Overview {
  readonly element = div("lw-overview");
  readonly #canvas = document.createElement("canvas");
  readonly #frame = document.createElement("i");
  #key: unknown[] = [];
  #shape: Shape | null = null;
  /** How many of the tiles are painted; -1 where the picture is of something else. */
  #n_tiles = -1;
  /** The columns of the picture by position, its rows by layer, and which of its cells are painted as themselves. */
  #xs = new Map<number, number>();
  #ys = new Map<number, number>();
  #known = new Uint8Array();
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
    const { traits } = app.get();
    this.element.hidden = to - from >= 1;
    if (this.element.hidden) return;
    // moved without a layout: by parts of its own width, which is the picture's
    const { style } = this.#frame;
    style.transform = `translateX(${100 * from}%)`;
    style.setProperty("--lw-part", `${100 * (Math.min(1, to) - from)}%`);
    const { metric, rank_token, site, lens, show, view, difference, causal } = traits;
    const looks = [show, metric, rank_token, site, lens, view, difference, causal];
    const cells = app.cells();
    const key = [shape, cells, ...looks, app.theme()];
    if (!sameItems(key, this.#key)) this.#n_tiles = -1;
    this.#key = key;
    this.#shape = shape;
    if (cells && this.#n_tiles !== cells.tilesOf(traits).length)
      this.#timer ||= window.setTimeout(() => this.#paint(), SETTLE_MS);
  }

  /** Paint the cells of new tiles, or all of them where the picture is of something else. */
  #paint(): void {
    this.#timer = 0;
    const app = this.#app;
    const traits = app.traits();
    const cells = app.cells();
    const canvas = this.#canvas;
    const pen = canvas.getContext("2d");
    if (!cells || !pen) return;
    const tiles = cells.tilesOf(traits);
    let due: readonly Cellular[] = tiles.slice(this.#n_tiles).map(({ header }) => header);
    const { positions, layers, spans } = sampleOf(this.#shape as Shape);
    if (this.#n_tiles < 0) {
      this.#xs = new Map(positions.map((position, x) => [position, x]));
      this.#ys = new Map(layers.map((layer, y) => [layer, y]));
      this.#known = new Uint8Array(positions.length * layers.length);
      // also clears it
      canvas.width = positions.length;
      canvas.height = layers.length;
      due = [{ layers, positions }];
    }
    this.#n_tiles = tiles.length;
    const colorOf = colorsOf(app, cells, traits);
    for (const { layers, positions } of due)
      for (const position of positions)
        for (const layer of this.#xs.has(position) ? layers : []) {
          const y = this.#ys.get(layer);
          const color = y === undefined ? null : colorOf({ layer, position });
          if (!color) continue;
          pen.fillStyle = color.css;
          this.#fill(pen, this.#xs.get(position) as number, y as number, spans.get(position) ?? 1);
        }
  }

  /** Paint a cell, and the unknown ones that it stands for. */
  #fill(pen: CanvasRenderingContext2D, x: number, y: number, span: number): void {
    const row = y * this.#xs.size;
    const most = Math.min(x + span, this.#xs.size);
    let stop = x + 1;
    while (stop < most && !this.#known[row + stop]) stop++;
    this.#known[row + x] = 1;
    pen.fillRect(x, y, stop - x, 1);
  }
}

type Cellular = Pick<Tile["header"], "layers" | "positions">;
