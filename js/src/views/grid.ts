import { div, hasFocus } from "../base/dom.ts";
import { on, whenClosed } from "../base/events.ts";
import { sameItems } from "../base/memo.ts";
import type { CellRef, RunInfo } from "../kernel/protocol.ts";
import {
  type CellRange,
  cellAt,
  extentOf,
  maxHeight,
  PLAIN_HEAD_PX,
  placeOf,
  SCROLLBAR_PX,
  type Scroll,
  type Shape,
  scrollTo,
  shapeOf,
  windowOf,
} from "../look/layout.ts";
import { viewportOf } from "../look/viewport.ts";
import type { App } from "../state/context.ts";
import { type Reads, readsOf } from "../state/why.ts";
import { type Look, looksOf, settledLayers } from "./cellLook.ts";
import { Flight } from "./flight.ts";
import { toggleHead } from "./folding.ts";
import {
  type CellNode,
  fitCells,
  fitRows,
  makeRow,
  paint,
  type RowNode,
  writeHead,
  writeRowHead,
} from "./gridrow.ts";
import { headOf } from "./heads.ts";
import { Overview } from "./overview.ts";
import { ReadsLayer, readHead } from "./reads.ts";
import { Strips } from "./strips.ts";

type Place = ReturnType<typeof placeOf>;

/** The grid. Only the cells in view are in the page; it scrolls natively, under sticky headers. */
export class GridView {
  readonly element = div("lw-grid", "grid");
  readonly #body = div("lw-body", "rowgroup");
  readonly #labels = div("lw-rowlabels");
  readonly #head = makeRow("columnheader");
  readonly #strips: Strips;
  readonly #readsLayer = new ReadsLayer();
  readonly #rows: RowNode[] = [];
  /** How wide and how tall the grid may be. */
  room_px = 0;
  tallest_px = 714;
  #shape: Shape | null = null;
  #shapeKey: unknown[] = [];
  #size = { width: 0, height: 0 };
  /** The scroll position, kept because reading it from the page forces a layout. */
  #at = { left: 0, top: 0 };
  #wantsFocus = false;
  /** A cell that stays in view while the grid gets its size. */
  #due: CellRef | null = null;
  #scrollFrame = 0;
  /** The height of the scrollbar below; 0 for one that overlays the page. */
  #bar_px = SCROLLBAR_PX;
  #height = 0;
  #drawnKey: unknown[] = [];
  /** What the heads were drawn for. */
  #headsKey: unknown[] = [];
  /** The places of focus and selection in the last drawing. */
  #marked: (Place | null)[] = [];

  readonly overview: Overview;
  readonly #flight: Flight;
  /** The focus when the flight began: a cell that is moved to must be drawn. */
  #flownFocus: CellRef | null = null;
  readonly #settledAt: (position: number) => number | undefined;
  readonly #app: App;

  constructor(app: App) {
    this.#app = app;
    this.#settledAt = settledLayers(app);
    this.overview = new Overview(app, (part) => {
      const shape = this.#shape as Shape;
      const { size_px, whole } = extentOf(shape, this.scroll());
      const at = part * whole - size_px / 2;
      this.#goTo({ ...this.#at, ...(shape.isAcross ? { left: at } : { top: at }) });
    });

    const { element } = this;
    const body = this.#body;
    const head = this.#head;
    head.element.classList.add("lw-head");
    head.element.ariaRowIndex = "1";
    this.#strips = new Strips(app);
    head.element.append(this.#strips.element);
    this.#labels.ariaHidden = "true";
    this.#flight = new Flight(app, () => this.draw(true));
    body.append(this.#labels, this.#flight.element, this.#readsLayer.element);
    element.append(head.element, body);
    const { signal } = app;
    on(element, "scroll", () => this.#scrolled(), signal, { passive: true });
    on(element, "click", (event: MouseEvent) => this.#pressHead(event), signal);
    const observer = new ResizeObserver(() => this.#resized());
    observer.observe(element);
    whenClosed(signal, () => {
      observer.disconnect();
      this.#flight.end(this.scroll());
      cancelAnimationFrame(this.#scrollFrame);
    });
  }

  #scrolled(): void {
    const { clientWidth, scrollLeft: left, scrollTop: top } = this.element;
    if (clientWidth && (left !== this.#at.left || top !== this.#at.top)) {
      this.#at = { left, top };
      this.#due = null;
    }
    if (!this.#scrollFrame) {
      this.#scrollFrame = requestAnimationFrame(() => {
        this.#scrollFrame = 0;
        if (this.#shape && this.#flight.isFast(this.scroll())) this.#fly(this.#shape);
        else this.draw(true);
      });
    }
  }

  #resized(): void {
    const { clientWidth: width, clientHeight: height } = this.element;
    if (!width) return;
    // a host may take the widget out of the page and put it back, which loses the scroll position
    if (!this.#size.width) this.element.scrollTo(this.#at);
    if (this.element.matches(".is-wide")) this.#bar_px = this.element.offsetHeight - height - 2;
    if (width === this.#size.width && height === this.#size.height) return;
    this.#size = { width, height };
    this.draw();
    if (this.#due) this.show(this.#due);
  }

  /** The scroll position and size of the view. */
  scroll(): Scroll {
    return { ...this.#at, ...this.#size };
  }

  /** The element of a cell, if it is in the page. */
  elementOf(cell: CellRef): HTMLElement | undefined {
    if (!this.#shape) return undefined;
    const { row, col } = placeOf(this.#shape, cell);
    const node = this.#rows.find((node) => node.row === row);
    return node?.cells.find((cell) => cell.col === col)?.element;
  }

  /** The cells in view, the last layer first; null before the first drawing. */
  inView(): { layers: readonly number[]; positions: readonly number[] } | null {
    return this.#shape && viewportOf(this.#shape, this.scroll());
  }

  pageRows(): number {
    const shape = this.#shape;
    return shape ? Math.max(1, Math.floor((this.#size.height - shape.head_row_px) / shape.row_px) - 1) : 1;
  }

  cellOf(target: EventTarget | null): CellRef | undefined {
    const element = target instanceof Element ? target.closest("[role=gridcell]") : null;
    if (!this.#shape || !this.#body.contains(element)) return undefined;
    const [row, col] = [element?.parentElement?.ariaRowIndex, element?.ariaColIndex].map(Number);
    return cellAt(this.#shape, (row ?? 0) - 2, (col ?? 0) - 2);
  }

  /** A press on the head of a row: its pass, or the band that begins there, folds or unfolds. */
  #pressHead({ target, clientX }: MouseEvent): void {
    const head = target instanceof Element ? target.closest(".is-foldable") : null;
    const shape = this.#shape;
    if (!head || !shape) return;
    // the right edge of a column is for its width
    if (head.matches(".lw-colhead") && clientX > head.getBoundingClientRect().right - 7) return;
    const row = this.#rows.find(({ label }) => label === head)?.row;
    const col = this.#head.cells.find(({ element }) => element === head)?.col;
    if (row !== undefined) toggleHead(this.#app, shape, row, true);
    else if (col !== undefined) toggleHead(this.#app, shape, col, false);
  }

  currentShape(): Shape | null {
    return this.#shape;
  }

  /** Focus a cell, and scroll it into view; `hidden` is how much of the grid is out of view, in px. */
  focus(cell: CellRef, hidden = { above: 0, below: 0 }): void {
    if (!this.#shape) return;
    const { row, col } = placeOf(this.#shape, cell);
    if (row < 0 || col < 0) return;
    this.#due = null;
    const scroll = this.scroll();
    const above = Math.max(0, hidden.above - this.#shape.head_row_px);
    const part = { top: scroll.top + above, height: scroll.height - above - hidden.below };
    const to = scrollTo(this.#shape, { ...scroll, ...part }, row, col);
    this.#goTo({ left: to.left, top: to.top - above });
    this.takeFocus();
  }

  /** Focus a cell and bring it into view, in the grid and in what is around it. */
  reveal: (cell: CellRef) => void = (cell) => this.focus(cell);

  /** The element of the focused cell; null if it is not in the page. */
  focusedCell(): HTMLElement | null {
    return this.element.querySelector("[role=gridcell][tabindex='0']");
  }

  /** Scroll as little as it takes to have a cell in view, also once the grid has another size, until it is scrolled. */
  show(cell: CellRef): void {
    this.#due = cell;
    if (!this.#shape || !this.#size.width) return;
    const { row, col } = placeOf(this.#shape, cell);
    if (row < 0 || col < 0) return;
    this.#goTo(scrollTo(this.#shape, this.scroll(), row, col));
    this.draw();
  }

  /** Put the page's focus on the focused cell, or on the grid if that cell is not in view. */
  takeFocus(): void {
    this.#wantsFocus = true;
    this.draw();
  }

  /** Scroll to the focused cell: in a grid that was turned, the old position shows other cells. */
  #goToFocus(shape: Shape): void {
    const { row, col } = this.#focusPlace(shape);
    this.#goTo(scrollTo(shape, { ...this.#size, left: 0, top: 0 }, row, col));
  }

  #goTo(at: { left: number; top: number }): void {
    const { element } = this;
    element.scrollTo(at);
    this.#at = { left: element.scrollLeft, top: element.scrollTop };
  }

  /** Draw what stands for the cells in view while they fly past. */
  #fly(shape: Shape): void {
    const scroll = this.scroll();
    const cells = this.#app.cells();
    if (!cells) return;
    this.#flownFocus = this.#app.get().focus;
    this.#app.setViewport(viewportOf(shape, scroll));
    fitRows(this.#body, this.#labels, this.#rows, windowOf(shape, scroll), shape.row_px);
    const reads = readsOf(this.#app);
    for (const row of this.#rows) this.#drawRowHead(row, cells.run, shape, reads);
    this.#flight.draw(shape, scroll);
    this.#drawOverview(shape);
  }

  #drawOverview(shape: Shape): void {
    const { at, size_px, whole } = extentOf(shape, this.scroll());
    this.overview.draw(shape, at / whole, (at + size_px) / whole);
  }

  /**
   * Draw the cells in view. If only the scroll position changed, only cells that came into view are written. While they
   * fly past, what stands for them is drawn, unless they `land`.
   */
  draw(land = false): void {
    const state = this.#app.get();
    const cells = this.#app.cells();
    this.element.hidden = !cells;
    if (!cells) return;
    const isFlying = this.#flight.isOn && this.#flownFocus === state.focus && !land;
    if (isFlying && this.#shape) {
      this.#fly(this.#shape);
      return;
    }
    this.#flight.end(this.scroll());
    const { run } = cells;
    // read before the cells move: one that scrolls out of view loses the focus
    const hadFocus = hasFocus(this.element);
    const isFirst = !this.#shape;
    this.#reshape(run);
    const shape = this.#shape as Shape;
    const window = windowOf(shape, this.scroll());
    this.#app.setViewport(viewportOf(shape, this.scroll()));
    const reads = readsOf(this.#app);
    const headsKey = [run, shape, reads, this.#app.theme()];
    if (!sameItems(headsKey, this.#headsKey)) this.#headsKey = headsKey;
    this.#drawHead(run, shape, window, reads);
    this.#strips.draw(shape, window, this.#app.theme());
    fitRows(this.#body, this.#labels, this.#rows, window, shape.row_px);
    this.#readsLayer.draw(reads, shape, window);
    const focus = this.#focusPlace(shape);
    let focused: CellNode | undefined;
    const { traits, version } = state;
    const { selection, cards, trajectory, ...looks } = traits;
    const { span, tint, dropAt, shown } = state;
    const key = [shape, version, span, tint, dropAt, shown, ...Object.values(looks), this.#app.theme(), run];
    const onlyNew = sameItems(key, this.#drawnKey);
    this.#drawnKey = key;
    const marked = [focus, selection && placeOf(shape, selection)];
    const touched = [...marked, ...this.#marked];
    this.#marked = marked;
    const lookOf = looksOf(this.#app, cells, traits);
    for (const row of this.#rows) {
      const here = touched.filter((place) => place?.row === row.row);
      const isDue = ({ col, last }: CellNode) =>
        !onlyNew || !last || here.some((place) => place?.col === col);
      this.#drawRowHead(row, run, shape, reads);
      focused = this.#drawRow(row, lookOf, shape, window, focus, isDue) ?? focused;
    }
    this.#keepFocus(focused, hadFocus);
    this.#drawOverview(shape);
    if (isFirst && this.#due) this.show(this.#due);
  }

  #focusPlace(shape: Shape) {
    const { focus } = this.#app.get();
    const place = focus && placeOf(shape, focus);
    return place && place.row >= 0 && place.col >= 0 ? place : { row: 0, col: shape.cols.length - 1 };
  }

  /** Keep the focus when the focused cell scrolls out of the page: the grid itself then has it, and the keys. */
  #keepFocus(focused: CellNode | undefined, hadFocus: boolean): void {
    const { element } = this;
    element.tabIndex = focused ? -1 : 0;
    const { activeElement } = element.getRootNode() as Document | ShadowRoot;
    const holder = focused?.element ?? element;
    if ((this.#wantsFocus || hadFocus) && activeElement !== holder) holder.focus({ preventScroll: true });
    this.#wantsFocus = false;
  }

  /** Compute the shape from the traits, and lay the rows out again if it changed. */
  #reshape(run: RunInfo): void {
    const traits = this.#app.traits();
    const { stride, hide_special, hide_template, folded_bands, folded_passes } = traits;
    const { orientation, column_width_px, site } = traits;
    const folds = [hide_special, hide_template, folded_bands, folded_passes];
    const { room_px } = this;
    const key = [run, stride, ...folds, orientation, column_width_px, site, room_px];
    if (!sameItems(key, this.#shapeKey)) {
      const before = this.#shape;
      const left = before ? this.#at.left / before.col_px : 0;
      this.#shapeKey = key;
      this.#shape = shapeOf(run, traits, room_px);
      for (const [first] of [this.#head, ...this.#rows].map(({ cells }) => cells)) if (first) first.col = -1;
      this.#layOut(run, this.#shape);
      if (before && before.isAcross !== this.#shape.isAcross) this.#goToFocus(this.#shape);
      else if (left) this.#goTo({ left: left * this.#shape.col_px, top: this.#at.top });
    }
    const shape = this.#shape as Shape;
    const whole =
      shape.head_row_px + shape.rows.length * shape.row_px + 2 + (this.#isWide(shape) ? this.#bar_px : 0);
    const height = Math.min(maxHeight(shape, this.#size.width, this.tallest_px), whole);
    if (height === this.#height) return;
    this.#height = height;
    this.element.style.height = `${height}px`;
    this.element.classList.toggle("is-tall", height < whole);
  }

  #isWide({ head_col_px, cols, col_px }: Shape): boolean {
    return head_col_px + cols.length * col_px + SCROLLBAR_PX + 2 > this.room_px;
  }

  #layOut(run: RunInfo, shape: Shape): void {
    const { element } = this;
    const body = this.#body;
    const set = (name: string, px: number) => element.style.setProperty(name, `${px}px`);
    set("--lw-col", shape.col_px);
    set("--lw-row", shape.row_px);
    set("--lw-head-row", shape.head_row_px);
    set("--lw-head-col", shape.head_col_px);
    set("--lw-strips", shape.isAcross ? shape.head_row_px - PLAIN_HEAD_PX : 0);
    set("--lw-width", shape.head_col_px + shape.cols.length * shape.col_px);
    body.style.height = `${shape.rows.length * shape.row_px}px`;
    element.ariaRowCount = String(shape.rows.length + 1);
    element.ariaColCount = String(shape.cols.length + 1);
    element.classList.toggle("is-transposed", !shape.isAcross);
    element.classList.toggle("is-wide", this.#isWide(shape));
    element.classList.toggle("is-tiny", shape.col_px < 44);
    const says = run.predicts === "same" ? ": the token that each layer says stands there" : "";
    element.ariaLabel = `Top token at every layer and position${says}`;
    this.#head.header.textContent = shape.isAcross ? "layer" : `token · ${run.tokens.length}`;
  }

  #drawHead(run: RunInfo, shape: Shape, window: CellRange, reads: Reads | null): void {
    const theme = this.#app.theme();
    const { cells, last } = this.#head;
    fitCells(this.#head, "columnheader", window, shape.col_px);
    this.#head.last = this.#headsKey;
    for (const cell of cells) {
      if (cell.last && last === this.#headsKey) continue;
      cell.last = "drawn";
      const head = headOf(run, shape, cell.col, !shape.isAcross);
      const marked = shape.isAcross ? readHead(head, reads, shape.cols[cell.col] ?? -1) : head;
      writeHead(cell.element, "lw-colhead", marked, theme);
    }
  }

  #drawRowHead(node: RowNode, run: RunInfo, shape: Shape, reads: Reads | null): void {
    if (node.last === this.#headsKey) return;
    node.last = this.#headsKey;
    const head = headOf(run, shape, node.row, shape.isAcross);
    const marked = shape.isAcross ? head : readHead(head, reads, shape.rows[node.row] ?? -1);
    writeRowHead(node, marked, this.#app.theme());
  }

  #drawRow(
    node: RowNode,
    lookOf: (cell: CellRef, settled: number | undefined) => Look,
    shape: Shape,
    window: CellRange,
    focus: Place,
    isDue: (cell: CellNode) => boolean,
  ): CellNode | undefined {
    fitCells(node, "gridcell", window, shape.col_px);
    let focused: CellNode | undefined;
    for (const cell of node.cells) {
      const ref = cellAt(shape, node.row, cell.col);
      if (!ref) continue;
      const isFocused = node.row === focus.row && cell.col === focus.col;
      if (isFocused) focused = cell;
      if (!isDue(cell)) continue;
      paint(cell, lookOf(ref, this.#settledAt(ref.position)), isFocused);
    }
    return focused;
  }
}
