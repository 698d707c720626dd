import { type Child, h } from "../base/dom.ts";
import { on } from "../base/events.ts";
import { type Area, type Entry, inHere } from "../cells/inhere.ts";
import { SHOW_NAMES } from "../cells/standing.ts";
import type { RunInfo } from "../kernel/protocol.ts";
import { fixed, layerName } from "../look/format.ts";
import { pinColor } from "../look/scales.ts";
import type { App } from "../state/context.ts";
import { pinOf } from "../state/selectors.ts";
import { button, select, tokenChip } from "./elements.ts";

const MOST = 10;

/** The cells that the list is about: those in view, or of them the span that was dragged. */
export function areaOf(app: App, inView: Area): Area {
  const { span } = app.get();
  if (!span) return inView;
  const within = (x: number, [from, to]: readonly [number, number]) => from <= x && x <= to;
  return {
    layers: inView.layers.filter((layer) => within(layer, span.layers)),
    positions: inView.positions.filter((position) => within(position, span.positions)),
  };
}

function stripe(run: RunInfo, { layers }: Area, { by_layer }: Entry, color: string | undefined): Child {
  const most = Math.max(...by_layer);
  // from the lowest layer on the left to the last
  const bars = layers.map((layer, i) => ({ layer, part: (by_layer[i] ?? 0) / (most || 1) }));
  bars.sort((a, b) => a.layer - b.layer);
  const at = bars.filter(({ part }) => part > 0);
  const span = at.length
    ? `layers ${layerName(at[0]?.layer ?? 0, run)} to ${layerName(at.at(-1)?.layer ?? 0, run)}`
    : "";
  return h(
    "span.lw-stripe",
    { role: "img", "aria-label": span, title: span, style: color ? { "--lw-pin": color } : {} },
    bars.map(({ layer, part }) =>
      h("i", { key: layer, style: { opacity: part ? String(0.15 + 0.85 * part) : "0" } }),
    ),
  );
}

function entryRow(app: App, run: RunInfo, area: Area, entry: Entry): Child {
  const cells = app.cells();
  const id = entry.ids[0] ?? -1;
  if (!cells) return null;
  const label = cells.label(id);
  const { pins } = app.traits();
  const pinned = pinOf(pins, id);
  const toggle = () => {
    if (pinned) app.dispatch({ type: "unpin", index: pins.indexOf(pinned) });
    else app.dispatch({ type: "pin", ids: entry.ids, label: label[0] });
  };
  const forms = entry.ids.length > 1 ? `, ${entry.ids.length} forms` : "";
  return h(
    "li",
    { key: id, "data-ids": entry.ids.join() },
    h(
      "button",
      {
        type: "button",
        class: `lw-entry${pinned ? " is-pinned" : ""}`,
        "aria-pressed": String(!!pinned),
        title: `In ${entry.n_cells} cells${forms}. Click to ${pinned ? "unpin" : "pin"}`,
        on: { click: toggle },
      },
      tokenChip(label, id),
      stripe(run, area, entry, pinned && pinColor(pinned.color, app.theme())),
      h("span.lw-num", fixed(entry.score, entry.score < 10 ? 2 : 1)),
    ),
  );
}

/** What is in here? The tokens that rule the cells in view, or a dragged span of them. */
export function inHereView(app: App, run: RunInfo, inView: Area): Child {
  const cells = app.cells();
  if (!cells) return null;
  const { weight, span } = app.get();
  const traits = app.traits();
  const area = areaOf(app, inView);
  const entries = inHere(cells, traits, area, weight, MOST);
  const n = area.layers.length * area.positions.length;
  const what =
    traits.show === "top" ? `${traits.k} best tokens of each` : `${SHOW_NAMES[traits.show]} of each`;
  return h(
    "section.lw-inhere",
    { "aria-label": "What is in here" },
    h(
      "div.lw-inhere-head",
      h("strong", "What is in here?"),
      select(
        "by",
        weight,
        [
          ["prob", "sum of p"],
          ["place", "sum of 1/place"],
        ],
        (next) => app.local({ weight: next as typeof weight }),
      ),
    ),
    h(
      "p.lw-dim",
      `${n} cells ${span ? "of the dragged span" : "in view"}, the ${what}`,
      span
        ? button("All in view", () => app.local({ span: null }), { className: "lw-small" })
        : ". Drag over cells to choose some.",
    ),
    h(
      "ol",
      entries.map((entry) => entryRow(app, run, area, entry)),
    ),
  );
}

/** Tint the grid's cells that have the token under the pointer, or in focus. */
export function followTint(app: App, element: HTMLElement): void {
  const set = (ids: string | undefined) => {
    const next = ids ?? "";
    if (app.get().tint !== next) app.local({ tint: next });
  };
  const over = ({ target }: Event) =>
    set(target instanceof Element ? target.closest<HTMLElement>("[data-ids]")?.dataset.ids : undefined);
  for (const type of ["pointerover", "focusin"]) on(element, type, over, app.signal);
  for (const type of ["pointerleave", "focusout"]) on(element, type, () => set(undefined), app.signal);
}
