import { type Child, div, h, patch } from "../base/dom.ts";
import { on } from "../base/events.ts";
import { sameItems } from "../base/memo.ts";
import type { RunInfo } from "../kernel/protocol.ts";
import { asPercent, quoted } from "../look/format.ts";
import type { App } from "../state/context.ts";
import { canPatch, runSource, sourceApp } from "../state/patching.ts";
import { isOffline, NO_LABEL, shownRun, sourceRun } from "../state/selectors.ts";
import { mapCheck, mapForm } from "./causal.ts";
import { Drag } from "./drag.ts";
import { yank } from "./editing.ts";
import { button } from "./elements.ts";
import { GridView } from "./grid.ts";
import { gridKey } from "./keys.ts";

/** The height of the second grid at most, so that both are in view. */
const HEIGHT_PX = 340;
/** The keys that its grid has. */
const KEYS = /^(Arrow.*|Home|End|Page.*|y)$/;

/** The second prompt: its box, the causal map that it gives, and its grid under the first one. */
export class SourceView {
  readonly element = div("lw-source");
  readonly drag: Drag;
  readonly #form = div("lw-sourceform");
  readonly #grid: GridView;
  readonly #app: App;
  readonly #own: App;
  readonly #target: GridView;
  #inputs: readonly unknown[] = [];

  constructor(app: App, target: GridView) {
    this.#app = app;
    this.#target = target;
    this.#own = sourceApp(app, () => this.#width());
    this.#grid = new GridView(this.#own);
    this.#grid.tallest_px = HEIGHT_PX;
    const { element: grid } = this.#grid;
    this.element.hidden = true;
    this.drag = new Drag(app, this.#own, target, this.#grid);
    this.element.append(this.#form);
    on(grid, "keydown", (event) => this.#keydown(event), app.signal);
    on(
      grid,
      "focusin",
      ({ target }: Event) => {
        const cell = this.#grid.cellOf(target);
        if (cell) app.local({ sourceFocus: cell });
      },
      app.signal,
    );
    on(
      grid,
      "dblclick",
      ({ target }: Event) => {
        const cell = this.#grid.cellOf(target);
        if (cell) yank(this.#own, cell);
      },
      app.signal,
    );
  }

  /** Columns as wide as the first grid's, so that tokens stand under each other. */
  #width(): number | undefined {
    return this.#target.currentShape()?.col_px;
  }

  #keydown(event: KeyboardEvent): void {
    if (!KEYS.test(event.key) || !gridKey(this.#own, this.#grid, event, () => {})) return;
    event.preventDefault();
    event.stopPropagation();
  }

  draw(room_px: number): void {
    const app = this.#app;
    const state = app.get();
    const source = sourceRun(state);
    const run = shownRun(state);
    const isLive = canPatch(state);
    const isOpen = !!run && (isLive ? state.isSourceOpen || !!source : !!source && isOffline(state));
    if (!isOpen && this.element.hidden) return;
    this.element.hidden = !isOpen;
    const form = isLive && run ? [this.#box(), mapForm(app, run)] : [source && this.#title(source)];
    patch(this.#form, isOpen && run ? [...form, mapCheck(app, run)] : []);
    const { element: grid, overview } = this.#grid;
    // in the page only while it is shown: else there would be two grids to whoever looks for one
    if (!source || !isOpen) for (const part of [overview.element, grid]) part.remove();
    else if (!grid.parentNode) this.element.append(overview.element, grid);
    const { traits, version, runs, sourceFocus } = state;
    const inputs = [source, traits, version, runs, sourceFocus, app.theme(), room_px, this.#width(), isOpen];
    if (!sameItems(inputs, this.#inputs)) {
      this.#inputs = inputs;
      this.#grid.room_px = room_px;
      if (source && isOpen) {
        this.#grid.draw();
        this.#shift(source.tokens.length, run.tokens.length);
      } else {
        this.#grid.element.hidden = true;
        app.setSourceViewport(null);
      }
    }
    this.drag.draw();
  }

  /** A shorter prompt stands under the end of a longer one, where the answers are. */
  #shift(n: number, n_target: number): void {
    const width = this.#target.currentShape()?.col_px ?? 0;
    const shift = this.#own.traits().orientation === "layers" ? Math.max(0, n_target - n) * width : 0;
    this.#grid.element.style.marginInlineStart = shift ? `${shift}px` : "";
  }

  #close(): void {
    const app = this.#app;
    const hasSource = !!sourceRun(app.get());
    app.local({ isSourceOpen: false, yanked: null });
    if (hasSource) void runSource(app, null);
  }

  /** What stands in place of the box where no kernel could run another prompt. */
  #title(source: RunInfo): Child {
    return h(
      "div.lw-sourcebox",
      { key: "title" },
      "Second prompt: ",
      h("bdi", source.prompt),
      this.#answer(source),
    );
  }

  #answer(source: RunInfo): Child {
    return h(
      "span",
      { key: "says" },
      "predicts ",
      h("strong", h("bdi", quoted(source.labels[source.next.id] ?? NO_LABEL))),
      ` ${asPercent(source.next.log_prob)}`,
    );
  }

  #box(): Child {
    const app = this.#app;
    const state = app.get();
    const source = sourceRun(state);
    const text = state.sourceDraft ?? source?.prompt ?? "";
    // what the box holds by now: a key may follow the last letter before the next drawing
    const run = () => {
      const now = app.get().sourceDraft ?? text;
      if (now) void runSource(app, now);
    };
    return h(
      "div.lw-sourcebox",
      { key: "box", role: "group", "aria-label": "Second prompt" },
      h("input.lw-sourcetext", {
        type: "text",
        value: text,
        placeholder: "Second prompt, to patch from",
        "aria-label": "Second prompt",
        spellcheck: "false",
        dir: "auto",
        on: {
          input: (event: Event) => app.local({ sourceDraft: (event.target as HTMLInputElement).value }),
          keydown: (event: KeyboardEvent) => {
            if (event.key === "Enter" && !event.isComposing) run();
          },
        },
      }),
      button("Run", run, { title: "Run the second prompt", disabled: !!state.running }),
      source && [this.#answer(source), h("span.lw-dim", { key: "hint" }, "drag a cell up, or y and P")],
      button("×", () => this.#close(), {
        className: "lw-icon",
        title: "Let the second prompt go",
      }),
    );
  }
}
