import { whenClosed } from "../base/events.ts";
import { sameItems } from "../base/memo.ts";
import { elementsAround } from "./background.ts";

/** Rounding, and the lowest part of a widget that is worth scrolling. */
const [SLACK_PX, LEAST_PX] = [4, 100];
/** Parents further out are the page's. */
const N_PARENTS = 8;

/** The parent that would cut off what is below its end; null if one scrolls before. */
function cuttingParent(element: Element): Element | null {
  for (const parent of elementsAround(element).slice(0, N_PARENTS)) {
    const { overflowY } = getComputedStyle(parent);
    if (overflowY === "hidden" || overflowY === "clip") return parent;
    if (overflowY !== "visible") return null;
  }
  return null;
}

/**
 * Let a widget scroll in a parent that is lower than it and would cut it off, as an output of Shiny is. `page` is the
 * content, which has the height that it needs.
 */
export function scrollInLowParent(element: HTMLElement, page: HTMLElement, signal: AbortSignal): void {
  let around: readonly (Element | null)[] = [];
  const settle = () => {
    const parent = cuttingParent(element);
    if (!sameItems([parent], around)) {
      around = [parent];
      observer.disconnect();
      for (const each of [element, page, parent]) if (each) observer.observe(each);
    }
    const { style } = element;
    const top = element.getBoundingClientRect().top;
    const need_px = page.offsetHeight + page.offsetTop;
    const room_px = parent ? parent.getBoundingClientRect().bottom - top : Number.POSITIVE_INFINITY;
    const isCut = room_px >= LEAST_PX && need_px > room_px + SLACK_PX;
    const isShrunk = !!parent && !isCut && need_px > element.clientHeight + SLACK_PX;
    const max = isCut ? `${Math.floor(room_px)}px` : "";
    const overflow = isCut || isShrunk ? "auto" : "";
    if (style.maxHeight !== max) style.maxHeight = max;
    if (style.overflow !== overflow) style.overflow = overflow;
  };
  const observer = new ResizeObserver(settle);
  whenClosed(signal, () => observer.disconnect());
  settle();
}
