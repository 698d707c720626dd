import { type Child, delegate, div, h, hasFocus, patch } from "../base/dom.ts";
import { on, whenClosed } from "../base/events.ts";
import { Memo, sameItems } from "../base/memo.ts";
import type { CardRef, CellRef, RunInfo } from "../kernel/protocol.ts";
import { roomIn } from "../look/layout.ts";
import { scrollInLowParent } from "../look/lowParent.ts";
import { Sight } from "../look/sight.ts";
import { followTheme, type HostLook } from "../look/theme.ts";
import type { App } from "../state/context.ts";
import { cardOf, keptCards, sameCell, shownRun } from "../state/selectors.ts";
import { keyOf, MAIN, type State } from "../state/state.ts";
import { branchesView } from "./branches.ts";
import { cardView } from "./card.ts";
import { openCell } from "./causal.ts";
import { dragColumn } from "./columnDrag.ts";
import { comparedBar } from "./compared.ts";
import { continuePanel } from "./continuing.ts";
import { describe } from "./describe.ts";
import { editor, editsBar } from "./edits.ts";
import { filmView, stepFrame } from "./film.ts";
import { GridView } from "./grid.ts";
import { help } from "./help.ts";
import { isUsed } from "./hostKeys.ts";
import { followTint, inHereView } from "./inhere.ts";
import { closeOne, columnBeside, focusOf, gridKey, moveFocus } from "./keys.ts";
import { legend } from "./legend.ts";
import { pinsView } from "./pins.ts";
import { formAt, Placing, searchForm } from "./placing.ts";
import { Player } from "./player.ts";
import { savePng } from "./png.ts";
import { SourceView } from "./source.ts";
import { spineView } from "./spine.ts";
import { controls, infoLine, menu, notice, promptForm } from "./toolbar.ts";
import { Tooltip } from "./tooltip.ts";

/** The width of charts on paper, since no script can ask how wide the paper is. */
const PAPER_PX = 680;
/** The widget's padding, left and right together. */
const PADDING_PX = 24;
/** After a scroll, before the list beside the grid is drawn anew. */
const SETTLE_MS = 150;
const EVENTS = ["click", "change", "input", "keydown", "pointerover", "pointerout", "focusin", "focusout"];

/** The whole widget: its sections, and the events that no single section can handle. */
export class Root {
  readonly element = div("lenswidget");
  readonly grid: GridView;
  readonly #sight: Sight;
  readonly #placing: Placing;
  readonly #tooltip: Tooltip;
  readonly #source: SourceView;
  readonly #top = div("lw-top");
  readonly #side = div("lw-side");
  readonly #line = div("lw-status", "status");
  readonly #kept = div("lw-kept");
  readonly #below = div("lw-below");
  readonly #over = div("lw-over");
  readonly #page = div("lw-page");
  #width_px = 0;
  readonly #player: Player;
  readonly #memo = new Memo();
  #gridInputs: readonly unknown[] = [];
  #n_opened = 0;
  #selected: CellRef | null = null;
  /** The cell under the pointer. */
  #rested: CellRef | null = null;
  #settleTimer = 0;
  /** The state that the last whole drawing was of, but for the numbers. */
  #drawn: readonly unknown[] = [];

  readonly #app: App;

  constructor(app: App, host: HTMLElement) {
    this.#app = app;

    const { element } = this;
    const line = this.#line;
    const { signal } = app;
    this.grid = new GridView(app);
    this.#tooltip = new Tooltip(app);
    line.ariaLive = "polite";
    const main = div("lw-main");
    const left = div("lw-left");
    this.#source = new SourceView(app, this.grid);
    this.#player = new Player(app, (what) => (what === "frames" ? stepFrame(app, 1) : this.#step(1)));
    left.append(this.grid.overview.element, this.grid.element, line, this.#source.element);
    main.append(left, this.#side, this.#source.drag.element);
    const page = this.#page;
    page.append(this.#top, this.#over, main, this.#kept, this.#below);
    element.append(page, this.#tooltip.element);
    delegate(element, EVENTS, signal);
    this.#sight = new Sight(element, signal);
    this.#placing = new Placing(app, element, this.#side, this.#sight);
    this.grid.reveal = (cell) => this.#revealCell(cell);
    this.#listen(signal);
    followTint(app, this.#side);
    // printing does not wait for a frame
    on(matchMedia("print"), "change", () => app.flush(), signal);
    const observer = new ResizeObserver(() => this.#resized());
    observer.observe(element);
    on(window, "resize", () => this.#resized(), signal);
    whenClosed(signal, () => {
      observer.disconnect();
      clearTimeout(this.#settleTimer);
      element.remove();
    });
    host.append(element);
    const wear = ({ theme, surface, ink }: HostLook) => {
      element.dataset.theme = theme;
      element.style.setProperty("--lw-bg", surface);
      element.style.setProperty("--lw-fg", ink);
      app.setTheme(theme);
    };
    followTheme(element, wear, signal);
    scrollInLowParent(element, page, signal);
  }

  /** Put something above the widget, inside its theme. */
  lead(element: HTMLElement): void {
    this.#page.prepend(element);
  }

  #listen(signal: AbortSignal): void {
    const { element, grid } = this;
    const app = this.#app;
    on(element, "keydown", (event) => this.#keydown(event), signal);
    const cells = grid.element;
    const open = ({ type, target }: Event) => {
      const cell = grid.cellOf(target);
      const state = app.get();
      // the press before this click has opened it
      const isOpen = type === "click" && sameCell(cell, cardOf(state, MAIN));
      if (cell && !isOpen) openCell(app, cell);
    };
    const press = (event: PointerEvent) => {
      this.#tooltip.hide();
      dragColumn(app, event);
      if (event.pointerType === "mouse" && !event.button) this.#dragSpan(event);
      // a finger may be about to scroll, so a touch opens its cell with the click
      if (event.pointerType === "mouse" && !event.button) open(event);
    };
    const focus = ({ target }: Event) => {
      const cell = grid.cellOf(target);
      if (cell && !sameCell(cell, app.get().focus)) app.dispatch({ type: "focus", cell });
    };
    on(cells, "click", open, signal);
    on(cells, "focusin", focus, signal);
    const point = (event: PointerEvent) => {
      const cell = event.buttons ? null : (grid.cellOf(event.target) ?? null);
      this.#tooltip.follow(cell, event);
      this.#restOn(cell);
    };
    const leave = () => {
      this.#tooltip.hide(true);
      this.#restOn(null);
    };
    on(cells, "pointermove", point, signal);
    for (const type of ["pointerleave", "scroll"]) on(cells, type, leave, signal);
    on(cells, "pointerdown", press, signal);
    on(cells, "scroll", () => this.#settle(), signal, { passive: true });
    // captured, to run before the host's own listeners: our keys must not trigger its shortcuts, but Ctrl+S must
    on(window, "keydown", (event) => this.#guard(event), signal, { capture: true });
  }

  #restOn(cell: CellRef | null): void {
    if (sameCell(cell, this.#rested)) return;
    this.#rested = cell;
    this.#app.dispatch({ type: "rest", cell });
  }

  /**
   * JupyterLab skips its shortcuts at and below an element with this attribute. It looks for it in the capture phase,
   * from the target upwards, so the attribute is set on the target before that. Of the keys that are not kept, Escape
   * closes what is open and Tab leads out of the widget.
   */
  #guard(event: KeyboardEvent): void {
    const [target] = event.composedPath();
    if (!(target instanceof Element) || !event.composedPath().includes(this.element)) return;
    const isOurs = isUsed(event, target) || event.key === "Escape" || event.key === "Tab";
    target.toggleAttribute("data-lm-suppress-shortcuts", isOurs);
  }

  #keydown(event: KeyboardEvent): void {
    const [target] = event.composedPath();
    const isTyping = target instanceof Element && target.matches("input, textarea, select");
    const isInGrid = target instanceof Node && this.grid.element.contains(target);
    let isOurs = false;
    if (event.key === "Escape" && !event.defaultPrevented) {
      const opener = this.element.querySelector<HTMLElement>('[aria-expanded="true"]:not(.is-foldable)');
      isOurs = closeOne(this.#app);
      if (isOurs && opener && !isInGrid) opener.focus();
      else if (isOurs) this.#focusGrid();
    } else if (isInGrid) isOurs = this.#gridKey(event);
    else if (!isTyping && (event.key === "?" || event.key === "/")) {
      isOurs = gridKey(this.#app, this.grid, event, () => this.#search());
    }
    if (isOurs) event.preventDefault();
    // hosts listen further up, and get every key that is not used here
    if (isOurs || (target instanceof Element && isUsed(event, target))) event.stopPropagation();
  }

  #focusGrid(): void {
    const cell = focusOf(this.#app, this.grid);
    if (cell) moveFocus(this.#app, this.grid, cell);
  }

  #gridKey(event: KeyboardEvent): boolean {
    const app = this.#app;
    const { editor, panel } = app.get();
    const isOurs = gridKey(app, this.grid, event, () => this.#search());
    const now = app.get();
    if (now.editor && now.editor !== editor)
      app.local({ form: this.#placing.formAt(this.#top.querySelector(".lw-info"), this.grid.focusedCell()) });
    if (now.panel === "help" && !panel) {
      app.flush();
      this.#placing.placeSide(this.grid.focusedCell());
    }
    return isOurs;
  }

  /** Focus a cell where a person sees it. */
  #revealCell(cell: CellRef): void {
    const { seen } = this.#sight;
    const grid = this.grid.element;
    const { top, bottom } = this.#sight.bandOf(grid);
    const above = seen ? Math.max(0, seen.top - top) : 0;
    const below = seen ? Math.max(0, bottom - seen.bottom) : 0;
    const isSeen = above + below < bottom - top;
    this.grid.focus(cell, isSeen ? { above, below } : undefined);
    this.#placing.follow(grid, this.grid.focusedCell());
  }

  /** Look at the next column, or the one before, and have it in view; false at the ends. */
  #step(by: number): boolean {
    const next = columnBeside(this.#app, this.grid, by);
    if (next) this.#lookAt(next);
    return !!next;
  }

  #lookAt(cell: CellRef): void {
    this.#app.dispatch({ type: "focus", cell });
    this.grid.show(cell);
  }

  /** Focus the search box of the card, or that of the pins if no card is open. */
  #search(): void {
    const boxes = [...this.element.getElementsByTagName("input")].filter((box) => box.dataset.search);
    const box = boxes.find((box) => box.dataset.search === MAIN) ?? boxes.at(-1);
    const form = box ? this.#placing.formAt(box, this.grid.focusedCell()) : null;
    if (form) {
      this.#app.local({ panel: "search", form });
      this.#app.flush();
    }
    const shown = form ? this.#over.querySelector<HTMLElement>(".lw-form input") : box;
    shown?.focus({ preventScroll: !!form });
  }

  /** A drag over cells chooses those that the list is about; a press alone lets the choice go. */
  #dragSpan({ target }: PointerEvent): void {
    const app = this.#app;
    const start = this.grid.cellOf(target);
    if (!start) return;
    if (app.get().span) app.local({ span: null });
    const drag = new AbortController();
    const signal = AbortSignal.any([drag.signal, app.signal]);
    const move = (event: PointerEvent) => {
      const end = this.grid.cellOf(event.composedPath()[0] ?? null);
      const isSame = sameCell(end, start);
      if (!end || (isSame && !app.get().span)) return;
      const range = (a: number, b: number) => [Math.min(a, b), Math.max(a, b)] as const;
      const span = {
        layers: range(start.layer, end.layer),
        positions: range(start.position, end.position),
      };
      if (JSON.stringify(span) === JSON.stringify(app.get().span)) return;
      app.local({ span });
      this.#tooltip.hide();
      // or else the page selects the text on the way
      this.grid.element.classList.add("is-dragging");
      window.getSelection()?.removeAllRanges();
    };
    whenClosed(signal, () => this.grid.element.classList.remove("is-dragging"));
    on(this.grid.element, "pointermove", move, signal);
    for (const end of ["pointerup", "pointercancel"]) on(window, end, () => drag.abort(), signal);
  }

  /** Once the grid stands still after a scroll, what lies beside it is about the cells in view. */
  #settle(): void {
    clearTimeout(this.#settleTimer);
    this.#settleTimer = window.setTimeout(() => {
      this.#settleTimer = 0;
      this.#app.flush();
    }, SETTLE_MS);
  }

  #resized(): void {
    const width = this.element.clientWidth;
    if (!width) return;
    const isHeightNew = this.#sight.measure();
    this.grid.tallest_px = this.#sight.grid_px;
    if (width === this.#width_px && !isHeightNew) return;
    this.#width_px = width;
    this.grid.room_px = roomIn(width - PADDING_PX);
    this.#app.flush();
  }

  /** Draw the sections whose inputs have changed. */
  draw(): void {
    const app = this.#app;
    const state = app.get();
    // while the grid scrolls, numbers that come in are drawn in it alone; the rest follows when it stands still
    const others = [...Object.values({ ...state, version: 0 }), app.theme(), this.#width_px];
    if (this.#settleTimer && sameItems(others, this.#drawn)) {
      this.#drawGrid(state);
      return;
    }
    this.#drawn = others;
    const hadFocus = hasFocus(this.element);
    this.#drawTop(state);
    this.#drawGrid(state);
    this.#source.draw(this.grid.room_px);
    this.#drawCards(state);
    this.#drawBelow(state);
    this.#memo.end();
    const { selection } = state.traits;
    const isOwn = state.n_opened > this.#n_opened;
    // a cell that Python or another view has chosen: the card describes it, so it is brought into view
    if (selection && !isOwn && !sameCell(selection, this.#selected)) this.grid.show(selection);
    this.#selected = selection;
    if (isOwn) this.#reveal(state.n_opened);
    const { said, focus } = state;
    const text = said || (focus ? describe(app, focus) : "");
    if (this.#line.textContent !== text) this.#line.textContent = text;
    this.#tooltip.draw();
    // if the focused control was removed or disabled, the grid takes the focus
    if (hadFocus && !hasFocus(this.element)) this.grid.takeFocus();
  }

  #drawTop(state: State): void {
    const app = this.#app;
    const {
      focus,
      cards: _cards,
      said,
      n_asked,
      n_opened,
      pinSearch,
      span,
      tint,
      weight,
      traits,
      ...others
    } = state;
    const { form } = state;
    const { selection, cards, trajectory, ...looks } = traits;
    const inputs = [...Object.values(others), ...Object.values(looks), app.theme()];
    const top = () => [
      infoLine(app),
      notice(app),
      editsBar(app),
      comparedBar(app),
      form ? null : editor(app),
      controls(app),
      legend(app),
    ];
    const layer = (run: RunInfo) => focus?.layer ?? run.n_layers - 1;
    const go = (position: number) => {
      const run = shownRun(app.get());
      if (run) this.#lookAt({ layer: layer(run), position });
    };
    const spineInputs = [focus, traits, state.shown, state.version, state.playing, state.speed, app.theme()];
    const { frames, frame } = traits;
    const filmInputs = [frames, frame, state.wishedFrame, state.playing, state.speed, state.connection];
    const treeInputs = [traits.branches, state.shown, state.running, state.connection];
    patch(this.#top, [
      this.#memo.node("prompt", inputs, () => promptForm(app)),
      this.#memo.node("spine", spineInputs, () => spineView(app, go)),
      this.#memo.node("film", filmInputs, () => filmView(app)),
      this.#memo.node("branches", treeInputs, () => branchesView(app)),
      this.#memo.node("top", inputs, top),
    ]);
    this.#keepNowInView();
    this.#player.follow();
    const over = () => [menu(app, () => savePng(app, this.element, this.grid.scroll())), continuePanel(app)];
    const opened = form && (state.panel === "search" ? searchForm(app) : editor(app));
    const panels = this.#memo.node("over", [state.panel, traits, state.continuing], over);
    patch(this.#over, [panels, opened && formAt(form, opened)]);
  }

  /** Of a text that scrolls, the token that is looked at is in view. */
  #keepNowInView(): void {
    const words = this.#top.querySelector<HTMLElement>(".lw-words");
    const now = words?.querySelector<HTMLElement>(".is-now");
    if (!words || !now || words.scrollHeight <= words.clientHeight) return;
    const top = now.offsetTop - words.offsetTop;
    const bottom = top + now.offsetHeight;
    if (top < words.scrollTop) words.scrollTop = top - 6;
    else if (bottom > words.scrollTop + words.clientHeight) words.scrollTop = bottom - words.clientHeight + 6;
  }

  #drawGrid({ traits, version, runs, shown, focus, dropAt, span, tint }: State): void {
    const { room_px, tallest_px } = this.grid;
    const marked = [focus, dropAt, span, tint];
    const inputs = [traits, version, runs, shown, ...marked, this.#app.theme(), room_px, tallest_px];
    if (sameItems(inputs, this.#gridInputs)) return;
    this.#gridInputs = inputs;
    const shape = this.grid.currentShape();
    this.grid.draw();
    // another cell is under the pointer now
    if (shape !== this.grid.currentShape()) this.#tooltip.hide();
  }

  #drawCards(state: State): void {
    const app = this.#app;
    const { traits, version, connection, panel } = state;
    const run = shownRun(state);
    const view = (key: string, ref: CardRef, run: RunInfo) => {
      const inputs = [cardOf(state, key), run, traits.pins, traits.cards, version, connection, app.theme()];
      return this.#memo.node(`card ${key}`, inputs, () => cardView(app, key, ref, run));
    };
    const main = cardOf(state, MAIN);
    if (!main && panel !== "help") this.#placing.release();
    patch(this.#side, [
      this.#memo.node("help", [panel], () => help(app)),
      run ? (main ? view(MAIN, main, run) : HINT) : NO_RUN,
      run && this.#inHere(state, run),
    ]);
    patch(this.#kept, run ? keptCards(state).map((ref) => view(keyOf(ref), ref, run)) : []);
  }

  #inHere(state: State, run: RunInfo): Child {
    const { traits, version, span, weight } = state;
    const inView = this.grid.inView();
    if (!inView) return null;
    const { layers, positions } = inView;
    const { show, k, lens, site, pins } = traits;
    const theme = this.#app.theme();
    const edges = [layers[0], layers.at(-1), layers.length, positions[0], positions.at(-1), positions.length];
    const inputs = [run, version, span, weight, show, k, lens, site, pins, traits.view, theme, ...edges];
    return this.#memo.node("in here", inputs, () => inHereView(this.#app, run, inView));
  }

  #drawBelow(state: State): void {
    const app = this.#app;
    const { traits, focus, version, connection, pinSearch } = state;
    const run = shownRun(state);
    const width_px = matchMedia("print").matches ? PAPER_PX : this.#width_px;
    const inputs = [run, traits, focus, version, connection, pinSearch, app.theme(), width_px];
    const pins = () => run && pinsView(app, run, Math.max(280, width_px - PADDING_PX));
    patch(this.#below, [this.#memo.node("pins", inputs, pins)]);
  }

  /** A card may open out of view: its head is put where the person looks. */
  #reveal(n_opened: number): void {
    this.#n_opened = n_opened;
    if (this.#side.querySelector("[data-card]"))
      this.#placing.placeSide(this.grid.element.querySelector(".is-selected"));
  }
}

const NO_RUN = h("p.lw-dim", "No run yet.");
const HINT = h(
  "div.lw-hint",
  h("p", "Click a cell to decode it: a card lists its top tokens."),
  h(
    "p.lw-dim",
    "Rows are layers, from the embedding at the bottom to the model’s answer at the top. Press ? in the grid for its keys.",
  ),
);
