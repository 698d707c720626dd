import { on, whenClosed } from "../base/events.ts";
import { elementsAround } from "./background.ts";

/** The tallest grid, and one that fits a common window with what stands above it. */
const [TALLEST_PX, FITTING_PX, LEAST_PX] = [714, 440, 240];
/** What a window should show besides the grid. */
const BESIDE_PX = 130;
/** A host may move the frame at any time, and tells nobody. */
const LOOK_EVERY_MS = 250;
const MOVES = ["pointermove", "pointerdown", "wheel", "keydown", "focusin"];

/** A range of heights, in px from the widget's top. */
export interface Band {
  readonly top: number;
  readonly bottom: number;
}

const isScrolling = (element: Element) =>
  element.scrollHeight > element.clientHeight + 1 &&
  /auto|scroll/.test(
    getComputedStyle(element).overflowY + (element === document.documentElement ? "auto" : ""),
  );

const bandSeen = ({ intersectionRect: seen, boundingClientRect: box }: IntersectionObserverEntry): Band => ({
  top: seen.top - box.top,
  bottom: seen.bottom - box.top,
});

/**
 * What of the widget a person sees. VS Code and Colab make an output's frame as tall as its page and move the frame, so
 * that nothing in the page scrolls and the frame's own height says nothing; only an IntersectionObserver knows.
 */
export class Sight {
  /** Whether the widget is in such a frame. */
  isTall = false;
  /** The height that the grid should have at most. */
  grid_px = TALLEST_PX;
  readonly #element: HTMLElement;
  /** What scrolls around the widget, and how tall that is. */
  #scroller: Element | null = null;
  #scroller_px = Number.POSITIVE_INFINITY;
  #seen: Band | null = null;
  #waiting: (() => void) | null = null;
  readonly #observer: IntersectionObserver;
  readonly #signal: AbortSignal;
  #timer: ReturnType<typeof setInterval> | undefined;

  constructor(element: HTMLElement, signal: AbortSignal) {
    this.#element = element;
    this.#signal = signal;
    this.#observer = new IntersectionObserver((entries) => this.#saw(entries.at(-1)));
    whenClosed(signal, () => {
      clearInterval(this.#timer);
      this.#observer.disconnect();
    });
  }

  /** Look again: the answer is there with the next frame. An observer tells by itself only how much is seen, not which part. */
  look = (): void => {
    if (!this.isTall) return;
    this.#observer.unobserve(this.#element);
    this.#observer.observe(this.#element);
  };

  /** Call `seen` once it has looked again. */
  next(seen: () => void): void {
    this.#waiting = seen;
    this.look();
  }

  /** Tell what of the widget is in view, in any host, with the next frame. */
  once(tell: (seen: Band) => void): void {
    const observer = new IntersectionObserver((entries) => {
      observer.disconnect();
      const entry = entries.at(-1);
      if (entry && !this.#signal.aborted) tell(bandSeen(entry));
    });
    observer.observe(this.#element);
  }

  #follow(): void {
    this.isTall = true;
    this.look();
    for (const type of MOVES)
      on(this.#element, type, this.look, this.#signal, { passive: true, capture: true });
    this.#timer = setInterval(() => {
      if (this.#element.matches(":hover, :focus-within")) this.look();
    }, LOOK_EVERY_MS);
  }

  #saw(entry: IntersectionObserverEntry | undefined): void {
    if (!entry) return;
    this.#seen = bandSeen(entry);
    this.#waiting?.();
    this.#waiting = null;
  }

  /** Look at the frame again; true if the grid should have another height. */
  measure(): boolean {
    const before = this.grid_px;
    const { body } = document;
    const isLab = body.dataset.jpThemeLight && !body.dataset.vscodeThemeKind;
    // kept once found: a page that grows scrolls until its frame has grown too
    if (!this.isTall && window.parent !== window && !isLab && !this.#isInScroller()) this.#follow();
    const room_px = Math.max(LEAST_PX, Math.min(window.innerHeight, this.#scrollerHeight()) - BESIDE_PX);
    this.grid_px = this.isTall ? FITTING_PX : Math.min(TALLEST_PX, room_px);
    return this.grid_px !== before;
  }

  /** A part of the window may scroll by itself: an output in a panel of its own, under the notebook. */
  #scrollerHeight(): number {
    const found = elementsAround(this.#element).find(isScrolling);
    if (found) {
      this.#scroller = found;
      this.#scroller_px = found.clientHeight;
    } else if (this.#scroller) {
      // it no longer scrolls, and may have shrunk with the grid: by that the grid would shrink and grow for ever
      this.#scroller_px = Math.max(this.#scroller_px, this.#scroller.clientHeight);
    }
    return this.#scroller_px;
  }

  #isInScroller(): boolean {
    return !document.body.dataset.vscodeThemeKind && elementsAround(this.#element).some(isScrolling);
  }

  /** The part of the widget in view, in a tall frame; null where the page itself scrolls. */
  get seen(): Band | null {
    const { isTall } = this;
    return isTall ? this.#seen : null;
  }

  /** Where an element is, in px from the widget's top. */
  bandOf(element: Element): Band {
    const { top } = this.#element.getBoundingClientRect();
    const box = element.getBoundingClientRect();
    return { top: box.top - top, bottom: box.bottom - top };
  }

  /** Whether an element is in view, or at least its first `need_px`. True where the page scrolls to what has the focus. */
  holds(element: Element, need_px = Number.POSITIVE_INFINITY): boolean {
    const { seen } = this;
    if (!seen) return true;
    const { top, bottom } = this.bandOf(element);
    return top >= seen.top - 1 && Math.min(bottom, top + need_px) <= seen.bottom + 1;
  }
}

let n_anchors = 0;

/**
 * Ask the host to scroll to a height of the widget. VS Code's notebook scrolls when a link to a place in the page is
 * pressed (its webview posts "scroll-to-reveal" for `<a href="#...">`), and to nothing else that a page can do.
 */
export function revealInHost(element: HTMLElement, top_px: number): void {
  const anchor = anchorAt(element, { top: top_px, bottom: top_px + 1 });
  anchor.id = `lenswidget-${++n_anchors}`;
  anchor.href = `#${anchor.id}`;
  // the page's address stays
  anchor.addEventListener("click", (event) => event.preventDefault());
  anchor.scrollIntoView({ block: "nearest" });
  anchor.dispatchEvent(
    new MouseEvent("click", { bubbles: true, cancelable: true, composed: true, view: window }),
  );
  anchor.remove();
}

/** Scroll what scrolls around the widget, as little as it takes to have some heights of it in view. */
export function scrollToBand(element: HTMLElement, band: Band): void {
  const anchor = anchorAt(element, band);
  anchor.scrollIntoView({ block: "nearest" });
  anchor.remove();
}

function anchorAt(element: HTMLElement, { top, bottom }: Band): HTMLAnchorElement {
  const anchor = document.createElement("a");
  const [top_px, height_px] = [Math.round(top), Math.round(bottom - top)];
  anchor.style.cssText = `position: absolute; top: ${top_px}px; left: 0; height: ${height_px}px`;
  element.append(anchor);
  return anchor;
}
