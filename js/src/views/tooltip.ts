import { type Child, div, h, patch } from "../base/dom.ts";
import { whenClosed } from "../base/events.ts";
import { baseIdOf, cellValue, coloringOf, inWords, isDifference } from "../cells/fields.ts";
import { standingIn } from "../cells/standing.ts";
import type { CellRef } from "../kernel/protocol.ts";
import { asPercent, nats, rankText } from "../look/format.ts";
import type { App } from "../state/context.ts";
import { sameCell } from "../state/selectors.ts";
import { noteOf, whereIs } from "./describe.ts";
import { tokenChip } from "./elements.ts";

const N_TOKENS = 5;
const AWAY_PX = 14;
const STAY_MS = 80;

function content(app: App, cell: CellRef): Child {
  const traits = app.traits();
  const cells = app.cells();
  if (!cells) return null;
  const { layer, position } = cell;
  const coloring = coloringOf(traits, cells.run);
  const isInList = coloring === "prob" || coloring === "entropy";
  const base = !isDifference(traits, cells.run) ? null : app.cells(baseIdOf(cells.run) ?? undefined);
  const was = base?.top(traits, layer, position);
  const tops = cells.tops(traits, layer, position, N_TOKENS);
  const shown = standingIn(cells, traits, layer, position);
  const value = cellValue(cells, traits, layer, position);
  const entropy = cells.scalar(traits, "entropy", layer, position);
  return [
    h("p.lw-dim", whereIs(cells.run, cell)),
    !tops.length && h("p", "not computed"),
    h(
      "ol",
      tops.map((top) =>
        h(
          "li",
          { key: top.id },
          tokenChip(cells.label(top.id), top.id),
          h("span.lw-num", asPercent(top.log_prob)),
        ),
      ),
    ),
    shown && shown.rank > 0
      ? h("p", "shown ", tokenChip(cells.label(shown.id), shown.id), ` ${rankText(shown.rank)} of all`)
      : null,
    base &&
      was &&
      h(
        "p",
        cells.run.compared ? "A: " : "before ",
        tokenChip(base.label(was.id), was.id),
        ` ${asPercent(was.log_prob)}`,
      ),
    !isInList && value !== undefined && h("p", inWords(cells, traits, value, noteOf(traits, cell))),
    entropy !== undefined && h("p.lw-dim", `entropy ${nats(entropy)}`),
  ];
}

/** The numbers of the cell under the pointer. Screen readers have the status line instead, so it is hidden from them. */
export class Tooltip {
  readonly element = div("lw-tooltip");
  #cell: CellRef | null = null;
  #at: PointerEvent | null = null;
  #timer: ReturnType<typeof setTimeout> | undefined;

  readonly #app: App;

  constructor(app: App) {
    this.#app = app;

    this.element.ariaHidden = "true";
    this.element.hidden = true;
    whenClosed(app.signal, () => clearTimeout(this.#timer));
  }

  /** Show when the pointer rests on a cell, then move with it. */
  follow(cell: CellRef | null, event: PointerEvent): void {
    this.#at = event;
    if (!cell) this.hide(true);
    else if (this.#cell) this.#show(cell);
    else {
      clearTimeout(this.#timer);
      this.#timer = setTimeout(() => this.#show(cell), STAY_MS);
    }
  }

  /** Hide with the next drawing, or `now`. */
  hide(now = false): void {
    clearTimeout(this.#timer);
    this.#cell = null;
    if (now) this.element.hidden = true;
  }

  #show(cell: CellRef): void {
    if (!sameCell(cell, this.#cell)) {
      this.#cell = cell;
      this.draw();
    }
    const root = this.element.parentElement?.getBoundingClientRect();
    const event = this.#at;
    if (!root || !event) return;
    const { offsetWidth: width, offsetHeight: height } = this.element;
    const x = event.clientX - root.left + AWAY_PX;
    const y = event.clientY - root.top + AWAY_PX;
    const left = x + width > root.width ? Math.max(0, x - width - 2 * AWAY_PX) : x;
    const top = event.clientY + AWAY_PX + height > window.innerHeight ? y - height - 2 * AWAY_PX : y;
    this.element.style.transform = `translate(${left}px, ${top}px)`;
  }

  draw(): void {
    if (this.element.hidden === !!this.#cell) this.element.hidden = !this.#cell;
    if (this.#cell) patch(this.element, [content(this.#app, this.#cell)]);
  }
}
