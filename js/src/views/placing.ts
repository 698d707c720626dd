import { type Child, h } from "../base/dom.ts";
import { type Band, revealInHost, type Sight, scrollToBand } from "../look/sight.ts";
import type { App } from "../state/context.ts";
import { cardOf } from "../state/selectors.ts";
import { MAIN } from "../state/state.ts";
import { togglePin } from "./elements.ts";
import { searchBox } from "./search.ts";

/** The part of a card that must be in view: its head and the first tokens. */
const SEEN_PX = 150;
/** How wide a form at a cell is at most; card.css has the same number. */
const FORM_PX = 340;
const GAP_PX = 6;
/** What stays above a place that the host scrolls to. */
const ABOVE_PX = 12;

/** Puts what opens where the person looks, in a frame that does not scroll to it. */
export class Placing {
  constructor(
    readonly app: App,
    readonly root: HTMLElement,
    readonly side: HTMLElement,
    readonly sight: Sight,
  ) {}

  /** The column of cards, moved so that its head is in view: beside the pressed row, or under it in a narrow widget. */
  placeSide(row: Element | null): void {
    this.release();
    if (this.sight.isTall) this.#place(row, this.sight.seen);
    else this.sight.once((seen) => this.#place(row, seen));
  }

  #place(row: Element | null, seen: Band | null): void {
    const { side, sight } = this;
    if (!seen || !side.firstElementChild || seen.bottom - seen.top < SEEN_PX) return;
    const { top } = sight.bandOf(side);
    const last = seen.bottom - SEEN_PX;
    if (top >= seen.top && top <= last) return;
    if (top < seen.top) {
      side.style.marginTop = `${seen.top - top + GAP_PX}px`;
      return;
    }
    // below the grid, out of view: the host scrolls to it, or else it covers the rows under the pressed one
    if (!sight.isTall) {
      this.#scrollOrCover(row, seen);
      return;
    }
    revealInHost(this.root, top - (row ? seen.bottom - seen.top - SEEN_PX : ABOVE_PX));
    setTimeout(() => sight.next(() => this.#cover(row)), 250);
  }

  /** The page scrolls until the card's head is in view, if the pressed row can then stay there; else it covers. */
  #scrollOrCover(row: Element | null, seen: Band): void {
    const { side, sight, root } = this;
    const { top } = sight.bandOf(side);
    const band = row ? sight.bandOf(row) : { top, bottom: top };
    const height_px = seen.bottom - seen.top;
    if (top + SEEN_PX - band.top > height_px) {
      this.#putOver(band.bottom + GAP_PX - top);
      scrollToBand(root, { top: band.top, bottom: band.bottom + GAP_PX + SEEN_PX });
    } else scrollToBand(root, { top: band.top, bottom: top + SEEN_PX });
  }

  /** Put the column of cards back in its place. */
  release(): void {
    this.side.style.cssText = "";
    this.side.classList.remove("is-over");
  }

  #cover(row: Element | null): void {
    const { side, sight } = this;
    const { seen } = sight;
    if (!seen || this.app.signal.aborted) return;
    const { top } = sight.bandOf(side);
    const last = seen.bottom - SEEN_PX;
    if (top <= last + GAP_PX) return;
    const below = row ? sight.bandOf(row).bottom + GAP_PX : last;
    this.#putOver(Math.min(below, last) - top);
  }

  /** Over the grid, so many px lower than its place. */
  #putOver(lower_px: number): void {
    this.side.classList.add("is-over");
    this.side.style.top = `${lower_px}px`;
  }

  /** Where a form for a cell goes, in px of the widget's page; null if its own place is in view. */
  formAt(own: Element | null, cell: Element | null): { left: number; top: number } | null {
    const { sight, root } = this;
    if (!sight.seen || !cell || (own && sight.holds(own))) return null;
    const page = root.querySelector(".lw-page")?.getBoundingClientRect();
    const box = cell.getBoundingClientRect();
    if (!page) return null;
    const left = Math.max(0, Math.min(box.left - page.left, page.width - FORM_PX));
    return { left, top: box.bottom - page.top + GAP_PX };
  }

  /** Let the host scroll to the grid if the focused cell is out of view, as far as rows do not do it. */
  follow(grid: Element, cell: Element | null): void {
    if (!cell) return;
    if (!this.sight.isTall) cell.scrollIntoView({ block: "nearest", inline: "nearest" });
    else if (!this.sight.holds(cell)) revealInHost(this.root, this.sight.bandOf(grid).top - ABOVE_PX);
  }
}

/** The search of a card, or of the pins where none is open, at the focused cell. */
export function searchForm(app: App): Child {
  const state = app.get();
  const main = cardOf(state, MAIN);
  const box = main ? MAIN : "pins";
  return h(
    "div",
    { key: "search form" },
    searchBox(app, box, main?.search ?? state.pinSearch, {
      placeholder: main ? "Find any token" : "Pin a token…",
      pick: ({ id, label }) => {
        app.local({ panel: null });
        if (main) app.dispatch({ type: "track", key: MAIN, id });
        else togglePin(app, id, label);
      },
    }),
  );
}

/** A form at the cell that it is for. */
export function formAt({ left, top }: { left: number; top: number }, form: Child): Child {
  return h("div.lw-panel lw-form", { key: "form", style: { left: `${left}px`, top: `${top}px` } }, form);
}
