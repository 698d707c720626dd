import { type Child, h } from "../base/dom.ts";
import { storedCard } from "../cells/storedCard.ts";
import { combine } from "../cells/trajectories.ts";
import type { Card, CardRef, Label, Moved, RunInfo } from "../kernel/protocol.ts";
import {
  asPercent,
  fixed,
  layerPhrase,
  nats,
  percent,
  quoted,
  rankText,
  signedPercent,
  toNumber,
} from "../look/format.ts";
import { pinColor } from "../look/scales.ts";
import type { App } from "../state/context.ts";
import { cardOf, isNext, isOffline, pinOf } from "../state/selectors.ts";
import { type CardState, type Decoding, keyOf, MAIN } from "../state/state.ts";
import { chart, DASHES, type Line } from "./chart.ts";
import { button, promptChip, select, togglePin, tokenChip } from "./elements.ts";
import { searchBox } from "./search.ts";

const KS = [5, 10, 20, 50, 100];
const TEMPERATURES = [0.5, 0.7, 1, 1.5, 2];
/** The inner width of a card beside the grid. */
const CHART_PX = 320;

function pinButton(app: App, id: number, label: Label): Child {
  const pinned = pinOf(app.traits().pins, id);
  const color = pinned ? pinColor(pinned.color, app.theme()) : "";
  return h("button", {
    type: "button",
    class: `lw-pinmark${pinned ? " is-on" : ""}`,
    style: color ? { "--lw-pin": color } : {},
    "aria-label": `${pinned ? "Unpin" : "Pin"} ${label[0]}`,
    "aria-pressed": String(!!pinned),
    on: { click: () => togglePin(app, id, label) },
  });
}

function tokenRow(app: App, run: RunInfo, card: Card, i: number): Child {
  const id = card.ids[i] ?? -1;
  const label = card.labels[i] ?? ["", "none", ""];
  const log_prob = toNumber(card.log_probs[i]);
  const below = card.rank_below[i];
  const p = Math.exp(log_prob);
  const next = isNext(run, card.position, id);
  const moved =
    below === null || below === undefined ? "" : below > i ? " is-up" : below < i ? " is-down" : "";
  return h(
    "tr",
    { key: i, class: next ? "is-next" : "" },
    h("td.lw-num", i + 1),
    h(
      "th.lw-bar",
      { scope: "row", style: { "--lw-p": String(p) } },
      tokenChip(label, id),
      next && h("span.lw-tag", "next"),
    ),
    h("td.lw-num lw-prob", { title: `log-prob ${nats(log_prob, 4)}` }, percent(p)),
    h("td.lw-num", fixed(card.logits.length ? toNumber(card.logits[i]) : null)),
    h("td", { class: `lw-num${moved}` }, rankText(below)),
    h("td", pinButton(app, id, label)),
  );
}

function tokenTable(app: App, run: RunInfo, card: Card): Child {
  const below =
    card.layer_below === null ? "below" : card.layer_below < 0 ? "in embed" : `in ${card.layer_below}`;
  const head = ["#", "token", "prob", "logit", below, ""];
  const titles = ["Rank", "Token", "Probability", "Logit", "Rank one layer below", "Pin"];
  return h(
    "div.lw-scroll",
    { tabindex: "0", role: "group", "aria-label": "Top tokens" },
    h(
      "table.lw-tokens",
      h(
        "thead",
        h(
          "tr",
          head.map((text, i) =>
            h(
              "th",
              { key: i, scope: "col", class: i > 1 ? "lw-num" : "", title: titles[i] },
              text || h("span.lw-hidden", "pin"),
            ),
          ),
        ),
      ),
      h(
        "tbody",
        card.ids.map((_, i) => tokenRow(app, run, card, i)),
      ),
    ),
  );
}

function movedList(title: string, moved: readonly Moved[]): Child {
  if (!moved.length) return null;
  return h(
    "div.lw-moved",
    h("h4", title),
    h(
      "ul",
      moved
        .slice(0, 5)
        .map(({ id, label, delta }) =>
          h("li", { key: id }, tokenChip(label, id), h("span.lw-num", signedPercent(toNumber(delta)))),
        ),
    ),
  );
}

/** The grid's own top token of this cell, to compare with the decoded one. */
function gridNumber(app: App, card: Card): Child {
  const cells = app.cells();
  const top = cells?.top(card, card.layer, card.position);
  if (!cells || !top) return h("span.lw-dim", "not in the grid");
  return h("span.lw-dim", `grid: ${quoted(cells.label(top.id))} ${asPercent(top.log_prob)}`);
}

function facts(app: App, state: CardState, card: Card): Child {
  return h(
    "p.lw-facts",
    h("span", `entropy ${nats(toNumber(card.entropy_nats))}`),
    card.temperature !== 1 && h("span", `temperature ${card.temperature}`),
    gridNumber(app, card),
    state.isPending && h("span.lw-dim", "decoding…"),
  );
}

/** The tokens found by search: their numbers in this cell, and their ranks along the column. */
function trackedTokens(app: App, state: CardState, card: Card, run: RunInfo): Child {
  const cells = app.cells();
  if (!state.tracked.length || !cells) return null;
  const { layer, position } = card;
  const lines: Line[] = [];
  const items = state.tracked.map((id, dash) => {
    const label = cells.label(id);
    const track = app.trajectories.track(cells, state, position, id);
    // the kernel decodes again when the site changes, without the tokens of this search
    const found =
      card.tracked.find((entry) => entry.id === id) ??
      (track.isExact && card.temperature === 1
        ? { log_prob: track.log_probs[layer + 1], rank: track.ranks[layer + 1] }
        : null);
    lines.push({
      name: label[0],
      color: "currentColor",
      dash,
      values: combine([track], "rank"),
      notes: [...track.ranks].map((rank, row) => `${asPercent(track.log_probs[row])} ${rankText(rank)}`),
    });
    return h(
      "li",
      { key: id },
      h(
        "svg",
        { width: 22, height: 4 },
        h("line", { x2: 22, y1: 2, y2: 2, stroke: "currentColor", "stroke-dasharray": DASHES[dash] }),
      ),
      tokenChip(label, id),
      h("span.lw-num", found ? asPercent(found.log_prob) : "…"),
      h("span.lw-num", found && rankText(found.rank)),
      pinButton(app, id, label),
    );
  });
  const pick = (next: number) => app.dispatch({ type: "open", cell: { layer: next, position } });
  const { n_layers, d_vocab } = run;
  return [
    h("ul.lw-tracked", items),
    h("p.lw-facts lw-dim", "Rank along the column; probabilities on hover"),
    chart({ lines, metric: "rank", n_layers, d_vocab, width_px: CHART_PX, layer, pick }),
  ];
}

function decodeControls(app: App, key: string, ref: CardRef, state: CardState, run: RunInfo): Child {
  const ask = (change: Decoding) =>
    app.dispatch(key === MAIN ? { type: "change", change } : { type: "changeKept", ref, change });
  const disabled = isOffline(app.get());
  const withOwn = (values: readonly number[], own: number) =>
    [...new Set([...values, own])].sort((a, b) => a - b);
  return h(
    "div.lw-switches",
    select("Top", String(state.k), withOwn(KS, state.k).map(String), (k) => ask({ k: Number(k) }), disabled),
    select(
      "Temp.",
      String(state.temperature),
      withOwn(TEMPERATURES, state.temperature).map(String),
      (t) => ask({ temperature: Number(t) }),
      disabled,
    ),
    run.sites.length > 1 && select("Site", state.site, run.sites, (site) => ask({ site }), disabled),
    run.lenses.length > 1 && select("Lens", state.lens, run.lenses, (lens) => ask({ lens }), disabled),
  );
}

function heading(app: App, key: string, ref: CardRef, { k, temperature }: CardState, run: RunInfo): Child {
  const isMain = key === MAIN;
  const own = keyOf({ ...ref, k, temperature });
  const isKept = isMain && app.traits().cards.some((card) => keyOf(card) === own);
  const phrase = layerPhrase(ref.layer);
  return h(
    "header.lw-cardhead",
    h(
      "h3",
      `${phrase[0]?.toUpperCase()}${phrase.slice(1)}`,
      h("span.lw-dim", ` · position ${ref.position}\u00a0`),
      promptChip(run, ref.position),
    ),
    isMain &&
      button(isKept ? "Kept" : "Keep", () => app.dispatch({ type: "keep" }), {
        title: "Keep this card open (k)",
        disabled: isKept,
      }),
    button("Code", () => app.dispatch({ type: "copy", key }), { title: "Copy as code" }),
    button("×", () => app.dispatch({ type: "close", key }), {
      title: "Close (Escape)",
      className: "lw-icon",
    }),
  );
}

/** What is shown until the kernel answers: the grid's own top tokens, said to be so. */
function provisional(app: App, run: RunInfo, ref: CardState): Child {
  const stored = storedCard(app.cells(), ref, 10);
  return stored ? h("div.is-stale", tokenTable(app, run, stored)) : null;
}

/** One cell, decoded. */
export function cardView(app: App, key: string, ref: CardRef, run: RunInfo): Child {
  const state = cardOf(app.get(), key);
  if (!state) return null;
  const { card, code, note } = state;
  return h(
    "section.lw-card",
    {
      "data-card": key,
      "aria-label": `Decoded cell, ${layerPhrase(ref.layer)}, position ${ref.position}`,
      "aria-busy": String(state.isPending),
    },
    heading(app, key, ref, state, run),
    decodeControls(app, key, ref, state, run),
    state.error && h("p.lw-error", { role: "alert" }, state.error),
    card ? facts(app, state, card) : state.isPending && h("p.lw-facts lw-dim", "decoding…"),
    card
      ? h("div", { class: state.isPending ? "is-stale" : "" }, tokenTable(app, run, card))
      : provisional(app, run, state),
    card &&
      (card.promoted.length > 0 || card.suppressed.length > 0) &&
      h(
        "div.lw-movedpair",
        movedList("Promoted here", card.promoted),
        movedList("Suppressed here", card.suppressed),
      ),
    searchBox(app, key, state.search, {
      placeholder: "Find any token (/)",
      pick: ({ id }) => app.dispatch({ type: "track", key, id }),
    }),
    card && trackedTokens(app, state, card, run),
    note && h("p.lw-facts lw-dim", note),
    code &&
      h("textarea.lw-code", { readonly: true, rows: "6", "aria-label": "Code of this card", value: code }),
  );
}
