import { div } from "../base/dom.ts";
import { on } from "../base/events.ts";
import type { CellRef } from "../kernel/protocol.ts";
import type { App } from "../state/context.ts";
import { canPatch } from "../state/patching.ts";
import { sameCell, shownRun, sourceRun } from "../state/selectors.ts";
import { patchHere, yank } from "./editing.ts";
import type { GridView } from "./grid.ts";

const SVG = "http://www.w3.org/2000/svg";
/** A press that moves less than this is a click. */
const LEAST_PX = 5;

interface Point {
  readonly x: number;
  readonly y: number;
}

/** Dragging a cell of the second prompt's grid onto the first, and the arrows of the patches that are there. */
export class Drag {
  readonly element = div("lw-arrows");
  readonly #svg = document.createElementNS(SVG, "svg");
  #at: { from: CellRef; to: Point } | null = null;
  readonly #app: App;
  readonly #source: App;
  readonly #grids: { readonly target: GridView; readonly source: GridView };

  constructor(app: App, source: App, target: GridView, sourceGrid: GridView) {
    this.#app = app;
    this.#source = source;
    this.#grids = { target, source: sourceGrid };
    this.element.ariaHidden = "true";
    this.element.append(this.#svg);
    on(sourceGrid.element, "pointerdown", (event: PointerEvent) => this.#press(event), app.signal);
    for (const grid of [target, sourceGrid])
      on(grid.element, "scroll", () => this.draw(), app.signal, { passive: true });
  }

  #press(event: PointerEvent): void {
    const from = this.#grids.source.cellOf(event.target);
    if (!from || !canPatch(this.#app.get()) || event.button || event.pointerType !== "mouse") return;
    const start = { x: event.clientX, y: event.clientY };
    const drag = new AbortController();
    const signal = AbortSignal.any([drag.signal, this.#app.signal]);
    const end = (at: CellRef | null) => {
      drag.abort();
      const isClick = !this.#at;
      this.#at = null;
      this.#app.local({ dropAt: null });
      this.draw();
      if (isClick) return;
      if (at) this.#drop(from, at);
    };
    const move = ({ clientX: x, clientY: y }: PointerEvent) => {
      if (!this.#at && Math.hypot(x - start.x, y - start.y) < LEAST_PX) return;
      this.#at = { from, to: { x, y } };
      const over = this.#over({ x, y });
      if (!sameCell(over, this.#app.get().dropAt)) this.#app.local({ dropAt: over });
      this.draw();
    };
    on(window, "pointermove", move, signal);
    on(window, "pointerup", ({ clientX: x, clientY: y }: PointerEvent) => end(this.#over({ x, y })), signal);
    on(window, "pointercancel", () => end(null), signal);
    // before anything in the page: Escape lets the cell go, and nothing else
    const keydown = (event: KeyboardEvent) => {
      if (event.key !== "Escape") return;
      event.preventDefault();
      event.stopPropagation();
      end(null);
    };
    on(window, "keydown", keydown, signal, { capture: true });
  }

  /** The cell of the first grid at a point; the embedding row takes no patch of a layer. */
  #over({ x, y }: Point): CellRef | null {
    const root = this.element.getRootNode() as Document | ShadowRoot;
    return this.#grids.target.cellOf(root.elementFromPoint(x, y)) ?? null;
  }

  #drop(from: CellRef, to: CellRef): void {
    yank(this.#source, from);
    const { yanked } = this.#app.get();
    if (yanked) patchHere(this.#app, yanked, to);
    this.#app.local({ yanked: null, said: "Patching the cell" });
  }

  /** Draw the arrow of the cell that is dragged, and those of the patches that are taken from the second prompt. */
  draw(): void {
    const { target, source } = this.#grids;
    const box = this.element.getBoundingClientRect();
    const place = ({ x, y }: Point): Point => ({ x: x - box.left, y: y - box.top });
    const lines: [Point, Point][] = [];
    const from = this.#at && middle(source, this.#at.from);
    if (this.#at && from) lines.push([place(from), place(this.#at.to)]);
    const state = this.#app.get();
    const run_id = sourceRun(state)?.id;
    for (const { is_on, taken, layers, positions } of shownRun(state)?.edits ?? []) {
      if (!is_on || !taken || taken.run_id !== run_id || run_id === undefined) continue;
      const a = middle(source, { layer: taken.layers[0] ?? 0, position: taken.positions[0] ?? 0 });
      const b = middle(target, { layer: layers[0] ?? 0, position: positions[0] ?? 0 });
      if (a && b) lines.push([place(a), place(b)]);
    }
    if (lines.length || this.#svg.childElementCount) this.#svg.replaceChildren(...lines.map(arrow));
  }
}

/** The middle of a cell's element on the screen; undefined where it is scrolled out of its grid. */
function middle(grid: GridView, cell: CellRef): Point | undefined {
  const box = grid.elementOf(cell)?.getBoundingClientRect();
  const view = grid.element.getBoundingClientRect();
  if (!box) return undefined;
  const at = { x: box.x + box.width / 2, y: box.y + box.height / 2 };
  const isIn = at.x > view.left && at.x < view.right && at.y > view.top && at.y < view.bottom;
  return isIn ? at : undefined;
}

function arrow([a, b]: [Point, Point]): SVGElement {
  const path = document.createElementNS(SVG, "path");
  const angle = Math.atan2(b.y - a.y, b.x - a.x);
  const wing = (turn: number) => `${b.x - 9 * Math.cos(angle + turn)} ${b.y - 9 * Math.sin(angle + turn)}`;
  path.setAttribute("d", `M${a.x} ${a.y}L${b.x} ${b.y}M${wing(0.4)}L${b.x} ${b.y}L${wing(-0.4)}`);
  return path;
}
