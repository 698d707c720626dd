import { div, h, patch } from "../base/dom.ts";
import { on } from "../base/events.ts";
import { sameItems } from "../base/memo.ts";
import type { Shown, Surveyed } from "../cells/surveyed.ts";
import { clamp, layerName } from "../look/format.ts";
import { pinColor, ramp, type ScaleName, type Theme } from "../look/scales.ts";

/** A prompt, and the row of one of its layers. */
export interface StripCell {
  readonly column: number;
  readonly row: number;
}

/** What a strip draws. */
export interface StripProps {
  readonly surveyed: Surveyed;
  readonly shown: Shown;
  /** The columns from left to right. */
  readonly order: Int32Array;
  readonly theme: Theme;
  readonly column_px: number;
  readonly row_px: number;
  /** The column whose grid is shown, if it is of this strip. */
  readonly opened: number | null;
}

/** What a strip tells. */
export interface StripEvents {
  /** The pointer is over a cell, or no longer. */
  hover(cell: StripCell | null, event: PointerEvent | null): void;
  /** The keyboard has moved to a cell, or away. */
  focus(cell: StripCell | null): void;
  open(cell: StripCell): void;
  scroll(left_px: number): void;
  describe(cell: StripCell): string;
}

/** The colour of a prompt's group stands over its column. */
const GROUP_PX = 5;
/** From here on columns are set apart. */
const APART_PX = 6;
const colors = new Map<string, Uint8ClampedArray>();

/** The colours of a scale, `[65, 4]` bytes. */
function bytesOf(name: ScaleName, theme: Theme): Uint8ClampedArray {
  const key = `${name} ${theme}`;
  const known = colors.get(key);
  if (known) return known;
  const found = ramp(name, theme).flatMap(({ css }) => [...(css.match(/\d+/g) ?? []).map(Number), 255]);
  const bytes = new Uint8ClampedArray(found);
  colors.set(key, bytes);
  return bytes;
}

/** Every prompt as a thin column, layers up. Only what is in view is drawn. */
export class SurveyStrip {
  readonly element = div("lw-columns-of");
  readonly #name = document.createElement("h4");
  readonly #gutter = div("lw-columns-gutter");
  readonly #scroll = div("lw-columns-scroll", "slider");
  readonly #room = div("lw-columns-room");
  readonly #canvas = document.createElement("canvas");
  readonly #small = document.createElement("canvas");
  readonly #openedMark = div("lw-columns-mark is-opened");
  readonly #focusMark = div("lw-columns-mark is-focused");
  readonly #events: StripEvents;
  #props: StripProps | null = null;
  #drawn: readonly unknown[] = [];
  #at = 0;
  #row: number | null = null;

  constructor(events: StripEvents, signal: AbortSignal) {
    this.#events = events;
    const scroll = this.#scroll;
    this.#name.className = "lw-columns-name";
    scroll.tabIndex = 0;
    this.#gutter.ariaHidden = "true";
    this.#room.append(this.#canvas, this.#openedMark, this.#focusMark);
    scroll.append(this.#room);
    const body = div("lw-columns-body");
    body.append(this.#gutter, scroll);
    this.element.append(this.#name, body);
    on(scroll, "scroll", () => this.#scrolled(), signal, { passive: true });
    on(
      scroll,
      "pointermove",
      (event: PointerEvent) => this.#events.hover(this.#cellAt(event), event),
      signal,
    );
    on(scroll, "pointerleave", () => this.#events.hover(null, null), signal);
    on(scroll, "click", (event: MouseEvent) => this.#click(event), signal);
    on(scroll, "keydown", (event: KeyboardEvent) => this.#key(event), signal);
    on(scroll, "focus", () => this.#focused(), signal);
    on(scroll, "blur", () => this.#events.focus(null), signal);
  }

  /** How much room the columns have. */
  get room_px(): number {
    return this.#scroll.clientWidth;
  }

  scrollTo(left_px: number): void {
    if (Math.abs(this.#scroll.scrollLeft - left_px) > 1) this.#scroll.scrollLeft = left_px;
  }

  draw(props: StripProps): void {
    const { shown, order, column_px, row_px, surveyed } = props;
    const { length: n_rows } = shown.layers;
    this.#props = props;
    this.#at = clamp(this.#at, 0, Math.max(0, order.length - 1));
    this.#name.textContent = shown.name;
    const height = this.#top() + n_rows * row_px;
    this.#room.style.width = `${order.length * column_px}px`;
    this.#room.style.height = `${height}px`;
    const scroll = this.#scroll;
    scroll.ariaLabel = `Prompts of ${shown.name}, by layer of arrival`;
    scroll.ariaValueMin = order.length ? "1" : "0";
    scroll.ariaValueMax = `${order.length}`;
    scroll.setAttribute("aria-orientation", "horizontal");
    const every = Math.ceil(16 / row_px);
    const top = n_rows - 1;
    const ticks = shown.layers
      .map((layer, row) => ({ layer, row }))
      .filter(
        ({ row }) => !row || row === top || (row % every === 0 && row > every / 2 && row < top - every / 2),
      );
    patch(
      this.#gutter,
      ticks.map(({ layer, row }) =>
        h(
          "span.lw-columns-tick",
          { key: row, style: { top: `${this.#top() + (top - row + 0.5) * row_px}px` } },
          layerName(layer),
        ),
      ),
    );
    this.#marks();
    this.#say();
    this.#paint([surveyed, shown, order, column_px, row_px, props.theme]);
  }

  #top(): number {
    return (this.#props?.surveyed.header.groups.length ?? 0) > 1 ? GROUP_PX + 2 : 0;
  }

  #scrolled(): void {
    this.#events.hover(null, null);
    this.#events.scroll(this.#scroll.scrollLeft);
    const props = this.#props;
    if (props) this.#paint(this.#drawn.slice(0, 6));
  }

  /** Draw the columns in view, unless they stand there already. */
  #paint(inputs: readonly unknown[]): void {
    const props = this.#props;
    const { scrollLeft, clientWidth } = this.#scroll;
    const now = [...inputs, scrollLeft, clientWidth, devicePixelRatio];
    if (!props || sameItems(now, this.#drawn)) return;
    this.#drawn = now;
    const { order, column_px, row_px, shown } = props;
    const { length: n_rows } = shown.layers;
    const first = Math.floor(scrollLeft / column_px);
    const n = clamp(Math.ceil(clientWidth / column_px) + 1, 0, order.length - first);
    const width = Math.min(clientWidth, order.length * column_px);
    const height = this.#top() + n_rows * row_px;
    const canvas = this.#canvas;
    canvas.width = Math.round(width * devicePixelRatio);
    canvas.height = Math.round(height * devicePixelRatio);
    canvas.style.width = `${width}px`;
    canvas.style.height = `${height}px`;
    const context = canvas.getContext("2d");
    if (!context || n <= 0) return;
    this.#pixels(first, n);
    context.scale(devicePixelRatio, devicePixelRatio);
    context.imageSmoothingEnabled = false;
    const left = first * column_px - scrollLeft;
    const small = this.#small;
    context.drawImage(small, 0, 0, n, n_rows, left, this.#top(), n * column_px, n_rows * row_px);
    if (this.#top()) context.drawImage(small, 0, n_rows, n, 1, left, 0, n * column_px, GROUP_PX);
    if (column_px >= APART_PX)
      for (let i = 0; i <= n; i++) context.clearRect(left + i * column_px - 1, 0, 1, height);
  }

  /** One pixel per cell, and a last row with the groups. */
  #pixels(first: number, n: number): void {
    const props = this.#props;
    const { surveyed, shown, order, theme } = props as StripProps;
    const { length: n_rows } = shown.layers;
    const small = this.#small;
    small.width = n;
    small.height = n_rows + 1;
    const context = small.getContext("2d");
    if (!context) return;
    const image = context.createImageData(n, n_rows + 1);
    const scale = bytesOf(shown.base === null ? "rank" : "change", theme);
    const steps = scale.length / 4 - 1;
    for (let i = 0; i < n; i++) {
      const column = order[first + i] ?? 0;
      for (let row = 0; row < n_rows; row++) {
        const t = surveyed.position(shown, column, row);
        if (t === null) continue;
        const from = 4 * Math.round(t * steps);
        image.data.set(scale.subarray(from, from + 4), 4 * ((n_rows - 1 - row) * n + i));
      }
    }
    context.putImageData(image, 0, 0);
    for (let i = 0; i < n; i++) {
      context.fillStyle = pinColor(surveyed.group(order[first + i] ?? 0), theme);
      context.fillRect(i, n_rows, 1, 1);
    }
  }

  #marks(): void {
    const { order, column_px, opened } = this.#props as StripProps;
    const place = (mark: HTMLElement, at: number) => {
      mark.hidden = at < 0;
      mark.style.left = `${at * column_px}px`;
      mark.style.width = `${Math.max(3, column_px)}px`;
    };
    place(this.#openedMark, opened === null ? -1 : order.indexOf(opened));
    place(this.#focusMark, order.length ? this.#at : -1);
  }

  #cell(): StripCell | null {
    const props = this.#props;
    const column = props?.order[this.#at];
    if (!props || column === undefined) return null;
    const { surveyed, shown } = props;
    const holds = surveyed.holds(shown.strip, column);
    const arrival = holds === null ? shown.layers.length - 1 : shown.layers.indexOf(holds);
    return { column, row: this.#row ?? arrival };
  }

  #say(): void {
    const cell = this.#cell();
    this.#scroll.ariaValueNow = `${cell ? this.#at + 1 : 0}`;
    this.#scroll.ariaValueText = cell ? this.#events.describe(cell) : "no prompts";
  }

  /** A click focuses too, and says for itself where it is. */
  #focused(): void {
    if (!this.#scroll.matches(":focus-visible")) return;
    this.#reveal();
    this.#events.focus(this.#cell());
  }

  #cellAt(event: MouseEvent): StripCell | null {
    const props = this.#props;
    if (!props) return null;
    const { left, top } = this.#room.getBoundingClientRect();
    const { order, column_px, row_px, shown } = props;
    const column = order[Math.floor((event.clientX - left) / column_px)];
    const from = event.clientY - top - this.#top();
    const row = shown.layers.length - 1 - Math.floor(from / row_px);
    if (column === undefined || row < 0) return null;
    return { column, row: Math.min(row, shown.layers.length - 1) };
  }

  #click(event: MouseEvent): void {
    const cell = this.#cellAt(event);
    if (!cell || !this.#props) return;
    this.#at = this.#props.order.indexOf(cell.column);
    this.#row = null;
    this.#marks();
    this.#say();
    this.#events.open(cell);
  }

  #key(event: KeyboardEvent): void {
    const props = this.#props;
    const cell = this.#cell();
    if (!props || !cell || event.ctrlKey || event.metaKey || event.altKey) return;
    const last = props.order.length - 1;
    const page = Math.max(1, Math.floor(this.room_px / props.column_px) - 1);
    const steps: Record<string, number> = {
      ArrowLeft: this.#at - 1,
      ArrowRight: this.#at + 1,
      PageUp: this.#at - page,
      PageDown: this.#at + page,
      Home: 0,
      End: last,
    };
    const rows: Record<string, number> = { ArrowUp: cell.row + 1, ArrowDown: cell.row - 1 };
    const [step, row] = [steps[event.key], rows[event.key]];
    if (step !== undefined) {
      this.#at = clamp(step, 0, last);
      this.#row = null;
    } else if (row !== undefined) this.#row = clamp(row, 0, props.shown.layers.length - 1);
    else if (event.key === "Enter" || event.key === " ") this.#events.open(cell);
    else return;
    event.preventDefault();
    this.#reveal();
    this.#marks();
    this.#say();
    this.#events.focus(this.#cell());
  }

  /** Scroll the strip until the column of the keyboard is in view. */
  #reveal(): void {
    const { column_px } = this.#props as StripProps;
    const { scrollLeft, clientWidth } = this.#scroll;
    const left = this.#at * column_px;
    if (left < scrollLeft) this.#scroll.scrollLeft = left;
    else if (left + column_px > scrollLeft + clientWidth)
      this.#scroll.scrollLeft = left + column_px - clientWidth;
  }
}
