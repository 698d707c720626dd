import { type Child, h } from "../base/dom.ts";
import { emptyCard, storedCard } from "../cells/storedCard.ts";
import { combine } from "../cells/trajectories.ts";
import type { Card, CardRef, RunInfo } from "../kernel/protocol.ts";
import { asPercent, layerPhrase, nats, quoted, rankText, toNumber } from "../look/format.ts";
import type { App } from "../state/context.ts";
import { cardOf, isOffline } from "../state/selectors.ts";
import { type CardState, type Decoding, keyOf, MAIN } from "../state/state.ts";
import { movedLists, pinButton, tokenTable } from "./cardTable.ts";
import { chart, DASHES, type Line, overLayers } from "./chart.ts";
import { besideTable } from "./compared.ts";
import { button, promptChip, select, tokenChip } from "./elements.ts";
import { roleAt } from "./heads.ts";
import { searchBox } from "./search.ts";
import { whyButton, whySection } from "./why.ts";

const KS = [5, 10, 20, 50, 100];
const TEMPERATURES = [0.5, 0.7, 1, 1.5, 2];
/** The inner width of a card beside the grid. */
const CHART_PX = 320;

/** The grid's own top token of this cell, to compare with the decoded one. */
function gridNumber(app: App, card: Card): Child {
  const cells = app.cells();
  const top = cells?.top(card, card.layer, card.position);
  if (!cells || !top) return h("span.lw-dim", "not in the grid");
  return h("span.lw-dim", `grid: ${quoted(cells.label(top.id))} ${asPercent(top.log_prob)}`);
}

/** One line of numbers. Until the kernel's are there it says so, and has those of the grid. */
function facts(app: App, { card, isPending }: CardState, shown: Card): Child {
  const entropy = toNumber(shown.entropy_nats);
  return h(
    "p.lw-facts",
    { key: "facts" },
    (card || !Number.isNaN(entropy)) && h("span", `entropy ${nats(entropy)}`),
    shown.temperature !== 1 && h("span", `temperature ${shown.temperature}`),
    card && gridNumber(app, card),
    isPending && h("span.lw-dim", "decoding…"),
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
  const pick = (row: number) => app.dispatch({ type: "open", cell: { layer: row - 1, position } });
  const { d_vocab } = run;
  return [
    h("ul.lw-tracked", { key: "tracked" }, items),
    h("p.lw-facts lw-dim", { key: "tracked name" }, "Rank along the column; probabilities on hover"),
    chart({
      lines,
      metric: "rank",
      along: overLayers(run),
      d_vocab,
      width_px: CHART_PX,
      at: layer + 1,
      pick,
    }),
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
    { key: "controls" },
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
  const looped = run.rows?.[ref.layer]?.phrase;
  const phrase = looped ?? layerPhrase(ref.layer);
  const role = roleAt(run, ref.position);
  return h(
    "header.lw-cardhead",
    h(
      "h3",
      `${phrase[0]?.toUpperCase()}${phrase.slice(1)}`,
      h(
        "span.lw-dim",
        `${looped ? ` · layer ${ref.layer}` : ""} · position ${ref.position}${role && `, ${role}`}${run.predicts === "same" ? ", at" : ""}\u00a0`,
      ),
      promptChip(run, ref.position),
    ),
    isMain &&
      button(isKept ? "Kept" : "Keep", () => app.dispatch({ type: "keep" }), {
        title: "Keep this card open (k)",
        disabled: isKept,
      }),
    whyButton(app, key),
    button("Code", () => app.dispatch({ type: "copy", key }), { title: "Copy as code" }),
    button("×", () => app.dispatch({ type: "close", key }), {
      title: "Close (Escape)",
      className: "lw-icon",
    }),
  );
}

/** What a card shows until the kernel's numbers arrive: the grid's own, which are those of temperature 1. */
function standIn(app: App, run: RunInfo, state: CardState): Card {
  const stored = state.temperature === 1 ? storedCard(app.cells(), state, state.k) : null;
  return stored ?? emptyCard(run.id, state);
}

/** One cell, decoded. While its numbers are awaited it has their places, so that nothing moves when they arrive. */
export function cardView(app: App, key: string, ref: CardRef, run: RunInfo): Child {
  const state = cardOf(app.get(), key);
  if (!state) return null;
  const { card, code, note, isPending, error } = state;
  const shown = card ?? standIn(app, run, state);
  const isAwaited = !card && isPending;
  return h(
    "section.lw-card",
    {
      "data-card": key,
      "aria-label": `Decoded cell, ${layerPhrase(ref.layer, run)}, position ${ref.position}${run.predicts === "same" ? ": the token that stands there" : ""}`,
      "aria-busy": String(isPending),
    },
    heading(app, key, ref, state, run),
    decodeControls(app, key, ref, state, run),
    error && h("p.lw-error", { key: "error", role: "alert" }, error),
    (card || isAwaited) && facts(app, state, shown),
    (card || isAwaited || shown.ids.length > 0) &&
      h(
        "div",
        { key: "table", class: isPending || !card ? "is-stale" : "" },
        card?.side === undefined ? tokenTable(app, run, shown, isAwaited ? state.k : 0) : besideTable(card),
      ),
    whySection(app, key, state, run),
    movedLists(shown, isAwaited),
    searchBox(app, key, state.search, {
      placeholder: "Find any token (/)",
      pick: ({ id }) => app.dispatch({ type: "track", key, id }),
    }),
    (card || isAwaited) && trackedTokens(app, state, shown, run),
    note && h("p.lw-facts lw-dim", { key: "note" }, note),
    code &&
      h("textarea.lw-code", {
        key: "code",
        readonly: true,
        rows: "6",
        "aria-label": "Code of this card",
        value: code,
      }),
  );
}
