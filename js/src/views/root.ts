import { type Child, delegate, div, h, hasFocus, patch } from "../base/dom.ts";
import { atEnd, on } from "../base/events.ts";
import { runOf } from "../kernel/traits.ts";
import { roomIn } from "../look/layout.ts";
import { followTheme } from "../look/theme.ts";
import type { App } from "../state/context.ts";
import { keptCards, sameCell, sameItems } from "../state/selectors.ts";
import { keyOf, MAIN } from "../state/state.ts";
import { cardView } from "./card.ts";
import { describe } from "./describe.ts";
import { GridView } from "./grid.ts";
import { help } from "./help.ts";
import { closeOne, focusOf, gridKey, moveFocus, setWidth } from "./keys.ts";
import { legend } from "./legend.ts";
import { pinsView } from "./pins.ts";
import { savePng } from "./png.ts";
import { controls, infoLine, menu, notice, promptForm } from "./toolbar.ts";
import { Tooltip } from "./tooltip.ts";

/** Of a card that much must be in view: its head and the first tokens. */
const SEEN_PX = 130;
/** As wide as charts are on paper, whose width no script can ask for. */
const PAPER_PX = 680;
/** Of the widget, left and right. */
const PADDING_PX = 24;
const EVENTS = ["click", "change", "input", "keydown"];

/** The whole widget in an element: its sections, and the events that need more than a handler. */
export class Root {
  readonly element = div("lenswidget");
  readonly grid: GridView;
  readonly #tooltip: Tooltip;
  readonly #top = div("lw-top");
  readonly #side = div("lw-side");
  readonly #line = div("lw-status", "status");
  readonly #kept = div("lw-kept");
  readonly #below = div("lw-below");
  readonly #over = div("lw-over");
  #width_px = 0;
  #topKey: unknown[] = [];
  #n_opened = 0;

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
    left.append(this.grid.overview.element, this.grid.element, line);
    main.append(left, this.#side);
    element.append(this.#top, this.#over, main, this.#kept, this.#below, this.#tooltip.element);
    delegate(element, EVENTS, signal);
    this.#listen(signal);
    followTheme((theme) => {
      element.dataset.theme = theme;
      app.setTheme(theme);
    }, signal);
    // paper waits for no frame
    on(matchMedia("print"), "change", () => app.flush(), signal);
    const observer = new ResizeObserver(() => this.#resized());
    observer.observe(element);
    atEnd(signal, () => {
      observer.disconnect();
      element.remove();
    });
    host.append(element);
  }

  #listen(signal: AbortSignal): void {
    const { element, grid } = this;
    const app = this.#app;
    on(element, "keydown", (event) => this.#keydown(event), signal);
    const cells = grid.element;
    const open = ({ type, target }: Event) => {
      const cell = grid.cellOf(target);
      const state = app.get();
      // the press opened it already
      const isOpen = type === "click" && sameCell(cell, state.traits.selection) && state.cards[MAIN];
      if (cell && !isOpen) app.dispatch({ type: "open", cell });
    };
    const press = (event: PointerEvent) => {
      this.#tooltip.hide();
      this.#dragColumn(event);
      // a finger may be about to scroll: its cell opens when it is lifted
      if (event.pointerType === "mouse" && !event.button) open(event);
    };
    const focus = ({ target }: Event) => {
      const cell = grid.cellOf(target);
      if (cell && !sameCell(cell, app.get().focus)) app.dispatch({ type: "focus", cell });
    };
    on(cells, "click", open, signal);
    on(cells, "focusin", focus, signal);
    on(
      cells,
      "pointermove",
      (event: PointerEvent) => this.#tooltip.follow(grid.cellOf(event.target) ?? null, event),
      signal,
    );
    for (const type of ["pointerleave", "scroll"]) on(cells, type, () => this.#tooltip.hide(true), signal);
    on(cells, "pointerdown", press, signal);
    // before the host's own listeners: a shortcut of the host must not fire from our keys, but Ctrl+S must
    on(window, "keydown", (event) => this.#guard(event), signal, { capture: true });
  }

  /**
   * JupyterLab skips its shortcuts at and below this attribute. It looks on the way down, so set it before it does, and
   * from the target upwards, where a shortcut for whatever has the focus fits at once: so set it there.
   */
  #guard(event: KeyboardEvent): void {
    const [target] = event.composedPath();
    if (target instanceof Element && event.composedPath().includes(this.element))
      target.toggleAttribute("data-lm-suppress-shortcuts", !isChord(event));
  }

  #keydown(event: KeyboardEvent): void {
    const target = event.composedPath()[0];
    const isTyping = target instanceof Element && target.matches("input, textarea, select");
    const isInGrid = target instanceof Node && this.grid.element.contains(target);
    let isOurs = false;
    if (event.key === "Escape" && !event.defaultPrevented) {
      const opener = this.element.querySelector<HTMLElement>('[aria-expanded="true"]');
      isOurs = closeOne(this.#app);
      if (isOurs && opener) opener.focus();
      else if (isOurs) this.#focusGrid();
    } else if (isInGrid) isOurs = gridKey(this.#app, this.grid, event, () => this.#search());
    else if (!isTyping && (event.key === "?" || event.key === "/")) {
      isOurs = gridKey(this.#app, this.grid, event, () => this.#search());
    }
    if (isOurs) event.preventDefault();
    // hosts listen further up; chords such as Ctrl+S stay theirs, and Tab and Escape lead out
    const isTheirs = isChord(event) || event.key === "Tab" || event.key === "Escape";
    if (isOurs || !isTheirs) event.stopPropagation();
  }

  #focusGrid(): void {
    const cell = focusOf(this.#app, this.grid);
    if (cell) moveFocus(this.#app, this.grid, cell);
  }

  /** Go to the search box of the card, or to that of the pins when no card is open. */
  #search(): void {
    const boxes = [...this.element.getElementsByTagName("input")].filter((box) => box.dataset.search);
    (boxes.find((box) => box.dataset.search === MAIN) ?? boxes.at(-1))?.focus();
  }

  /** Drag the right edge of a column's header. */
  #dragColumn(event: PointerEvent): void {
    const header = event.target instanceof Element ? event.target.closest<HTMLElement>(".lw-colhead") : null;
    const box = header?.getBoundingClientRect();
    if (!header || !box || event.clientX < box.right - 7) return;
    event.preventDefault();
    const app = this.#app;
    const start = { x: event.clientX, width: header.offsetWidth };
    const drag = new AbortController();
    const signal = AbortSignal.any([drag.signal, app.signal]);
    const move = ({ clientX }: PointerEvent) => {
      setWidth(app, start.width + clientX - start.x);
    };
    on(window, "pointermove", move, signal);
    for (const end of ["pointerup", "pointercancel"]) on(window, end, () => drag.abort(), signal);
  }

  #resized(): void {
    const width = this.element.clientWidth;
    if (!width || width === this.#width_px) return;
    this.#width_px = width;
    this.grid.room_px = roomIn(width - PADDING_PX);
    this.#app.flush();
  }

  draw(): void {
    const app = this.#app;
    const state = app.get();
    const run = runOf(state.traits);
    const { focus, cards: _, said, traits, ...own } = state;
    const { selection, decoded, cards, trajectory, ...looks } = traits;
    const topKey = [...Object.values(own), ...Object.values(looks), app.theme()];
    const hadFocus = hasFocus(this.element);
    if (!sameItems(topKey, this.#topKey)) {
      patch(this.#top, [promptForm(app), infoLine(app), notice(app), controls(app), legend(app)]);
    }
    this.#topKey = topKey;
    const shape = this.grid.currentShape();
    this.grid.draw();
    // another cell has come under the pointer
    if (shape !== this.grid.currentShape()) this.#tooltip.hide();
    patch(this.#side, [help(app), this.#mainCard(), !run && h("p.lw-dim", "No run yet.")]);
    if (state.n_opened > this.#n_opened && !state.isPatient) this.#reveal(state.n_opened);
    patch(this.#kept, [run && keptCards(state).map((ref) => cardView(app, keyOf(ref), ref, run))]);
    const width_px = matchMedia("print").matches ? PAPER_PX : this.#width_px;
    patch(this.#below, [run && pinsView(app, run, Math.max(280, width_px - PADDING_PX))]);
    patch(this.#over, [menu(app, () => savePng(app, this.element, this.grid.scroll()))]);
    const text = said || (focus ? describe(app, focus) : "");
    if (this.#line.textContent !== text) this.#line.textContent = text;
    this.#tooltip.draw();
    // a control that went away, or can be used no more, leaves its focus to the grid
    if (hadFocus && !hasFocus(this.element)) this.grid.takeFocus();
  }

  /** In a narrow or low notebook a card may open out of sight: bring its head in view, and no more than that. */
  #reveal(n_opened: number): void {
    this.#n_opened = n_opened;
    const card = this.#side.querySelector("[data-card]");
    if (!card) return;
    const look = new IntersectionObserver(([seen]) => {
      look.disconnect();
      if (seen && seen.intersectionRect.height < SEEN_PX)
        card.firstElementChild?.scrollIntoView({ block: "nearest", behavior: "smooth" });
    });
    look.observe(card);
  }

  #mainCard() {
    const app = this.#app;
    const { traits, cards } = app.get();
    const run = runOf(traits);
    if (!run) return null;
    const { selection } = traits;
    const card = cards[MAIN];
    return selection && card
      ? cardView(app, MAIN, { ...selection, site: card.site, lens: card.lens }, run)
      : hint();
  }
}

/** A shortcut of the host's. Enter runs its cell, with or without: ours alone. */
function isChord({ ctrlKey, metaKey, key }: KeyboardEvent): boolean {
  return (ctrlKey || metaKey) && key !== "Enter";
}

function hint(): Child {
  return h(
    "div.lw-hint",
    h("p", "Click a cell for its top tokens: the kernel, if there is one, decodes it again."),
    h(
      "p.lw-dim",
      `Rows are layers: embedding at the bottom, the model’s answer on top. Press ? in the grid for its keys.`,
    ),
  );
}
