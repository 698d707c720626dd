import { div } from "../base/dom.ts";
import { on } from "../base/events.ts";
import { sameItems } from "../base/memo.ts";
import { bandPhrase, STRIP_PX, stripText } from "../look/bands.ts";
import type { CellRange, Shape } from "../look/layout.ts";
import { bandColor, type Theme } from "../look/scales.ts";
import type { App } from "../state/context.ts";
import { toggleBand } from "./folding.ts";

/**
 * The messages and pictures of the prompt as strips over their columns; a press folds or unfolds one. Hidden from
 * screen readers: the columns' heads say whose they are, and a key folds.
 */
export class Strips {
  readonly element = div("lw-strips");

  #key: unknown[] = [];

  constructor(app: App) {
    const { element } = this;
    element.ariaHidden = "true";
    const press = ({ target }: Event) => {
      const strip = target instanceof Element ? target.closest<HTMLElement>(".lw-strip") : null;
      if (strip) toggleBand(app, Number(strip.dataset.index));
    };
    on(element, "click", press, app.signal);
  }

  /** Only the strips over columns in view are in the page. */
  draw(shape: Shape, { c0, c1 }: CellRange, theme: Theme): void {
    const inView = shape.strips.filter(({ from, to }) => from < c1 && to > c0);
    const key = [shape, theme, inView[0], inView.at(-1), inView.length];
    if (sameItems(key, this.#key)) return;
    this.#key = key;
    const { isAcross, col_px, head_col_px } = shape;
    const drawn = isAcross ? inView : [];
    this.element.replaceChildren(
      ...drawn.map((strip) => {
        const { index, band, from, to, line, color, isFolded } = strip;
        const node = div(`lw-strip${isFolded ? " is-folded" : ""}`);
        const text = document.createElement("span");
        text.textContent = stripText(strip);
        node.append(text);
        node.title = `${bandPhrase(band)}: press to ${isFolded ? "unfold" : "fold"}`;
        node.dataset.index = String(index);
        const { style } = node;
        style.setProperty("--lw-band", bandColor(color, theme));
        style.top = `${line * STRIP_PX}px`;
        style.left = `${head_col_px + from * col_px}px`;
        style.width = `${(to - from) * col_px}px`;
        return node;
      }),
    );
  }
}
