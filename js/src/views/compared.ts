import { type Child, h } from "../base/dom.ts";
import type { Card, Label, RunInfo, View } from "../kernel/protocol.ts";
import { asPercent, percent, quoted, rankText, toNumber } from "../look/format.ts";
import type { App } from "../state/context.ts";
import { NO_LABEL, shownRun } from "../state/selectors.ts";
import { tokenChip } from "./elements.ts";

/** The buttons that choose what the grid shows. */
export function viewButtons(app: App, views: readonly (readonly [View, string])[], now: View): Child {
  return h(
    "div.lw-views",
    { key: "views", role: "group", "aria-label": "Show" },
    views.map(([view, text]) =>
      h(
        "button",
        {
          key: view,
          type: "button",
          class: "lw-button lw-small",
          "aria-pressed": String(now === view),
          on: { click: () => app.set({ view }) },
        },
        text,
      ),
    ),
  );
}

function side(letter: string, name: string, run: RunInfo): Child {
  const { id, log_prob } = run.next;
  return h(
    "span.lw-sideof",
    { key: letter, title: name },
    h("strong.lw-letter", letter),
    h("bdi.lw-name", name),
    " → ",
    h("strong", h("bdi", quoted(run.labels[id] ?? NO_LABEL))),
    ` ${asPercent(log_prob)}`,
  );
}

/** Two runs: which they are, what each answers, and which of them the grid shows. */
export function comparedBar(app: App): Child {
  const run = shownRun(app.get());
  if (!run?.compared) return null;
  const { base, names } = run.compared;
  const { view } = app.traits();
  const now = view === "before" ? "a" : view === "after" || view === "control" ? "b" : view;
  const views = [
    ["a", "A"],
    ["b", "B"],
    ["difference", "difference"],
  ] as const;
  return h(
    "section.lw-edits lw-pair",
    { key: "compared", "aria-label": "Comparison" },
    viewButtons(app, views, now),
    side("A", names[0], base),
    side("B", names[1], run),
  );
}

/** What a card says of a token: "12.3 %, #4"; undefined if the card does not have it. */
function saysOf(card: Card | null | undefined, id: number): string | undefined {
  const at = card?.ids.indexOf(id) ?? -1;
  const found =
    card && at >= 0
      ? { log_prob: card.log_probs[at], rank: at }
      : card?.tracked.find((entry) => entry.id === id);
  return found && `${asPercent(found.log_prob)}, ${rankText(found.rank)}`;
}

/** A token of one side, and on hover what the other side says of it. */
function half(
  letter: string,
  card: Card | null | undefined,
  other: Card | null | undefined,
  i: number,
): Child {
  const id = card?.ids[i];
  if (!card || id === undefined) return h("td", { key: letter, colspan: "2" });
  const says = saysOf(other, id);
  const title = says && `in ${letter === "A" ? "B" : "A"}: ${says}`;
  const p = Math.exp(toNumber(card.log_probs[i]));
  const label: Label = card.labels[i] ?? NO_LABEL;
  return [
    h("td.lw-bar", { key: letter, style: { "--lw-p": String(p) }, title }, tokenChip(label, id)),
    h("td.lw-num lw-prob", { key: `${letter} p`, title }, percent(p)),
  ];
}

/** The top tokens of a cell on both sides. */
export function besideTable(card: Card): Child {
  const { side, beside } = card;
  const [a, b] = side ? [beside, card] : [card, beside];
  const head = (letter: string, of: Card | null | undefined) =>
    h("th", { key: letter, scope: "colgroup", colspan: "2" }, of ? letter : `${letter}: no token here`);
  return h(
    "div.lw-scroll lw-both",
    { tabindex: "0", role: "group", "aria-label": "Top tokens of both sides" },
    h(
      "table.lw-tokens",
      h("thead", h("tr", head("A", a), head("B", b))),
      h(
        "tbody",
        Array.from({ length: Math.max(a?.ids.length ?? 0, b?.ids.length ?? 0) }, (_, i) =>
          h("tr", { key: i }, half("A", a, b, i), half("B", b, a, i)),
        ),
      ),
    ),
  );
}
