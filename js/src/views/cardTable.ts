import { type Child, h } from "../base/dom.ts";
import type { Card, Label, Moved, RunInfo } from "../kernel/protocol.ts";
import { fixed, layerName, nats, percent, rankText, signedPercent, toNumber } from "../look/format.ts";
import { pinColor } from "../look/scales.ts";
import type { App } from "../state/context.ts";
import { isOffline, isTarget, pinOf } from "../state/selectors.ts";
import { targetName } from "./describe.ts";
import { togglePin, tokenChip } from "./elements.ts";

/** More rows than the table shows without scrolling. */
const RESERVED_ROWS = 24;
const N_MOVED = 5;
const HEADS = [
  ["#", "Rank"],
  ["token", "Token"],
  ["prob", "Probability"],
  ["logit", "Logit"],
  ["below", "Rank one layer below"],
  ["", "Pin"],
] as const;

export function pinButton(app: App, id: number, label: Label): Child {
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

/** The class of a rank that rose or fell since the row below. */
function movement(below: number | null | undefined, rank: number): string {
  if (below === null || below === undefined || below === rank) return "";
  return below > rank ? " is-up" : " is-down";
}

/** A row of the table. A row that no token is known for yet has the same nodes, unseen, to be filled in place. */
function tokenRow(app: App, run: RunInfo, card: Card, i: number): Child {
  const id = card.ids[i] ?? -1;
  const isBlank = id < 0;
  const label = card.labels[i] ?? ["", "none", ""];
  const log_prob = toNumber(card.log_probs[i]);
  const below = card.rank_below[i];
  const p = isBlank ? 0 : Math.exp(log_prob);
  const next = !isBlank && isTarget(run, card.position, id);
  return h(
    "tr",
    { key: i, class: isBlank ? "is-blank" : next ? "is-next" : "" },
    h("td.lw-num", i + 1),
    h(
      "th.lw-bar",
      { scope: "row", style: { "--lw-p": String(p) } },
      tokenChip(label, id),
      next &&
        h("span.lw-tag", { title: `This is ${targetName(run)}` }, run.predicts === "same" ? "here" : "next"),
    ),
    h("td.lw-num lw-prob", { title: `log-prob ${nats(log_prob, 4)}` }, percent(p)),
    h("td.lw-num", fixed(card.logits.length ? toNumber(card.logits[i]) : null)),
    h("td", { class: `lw-num${movement(below, i)}` }, rankText(below)),
    h(
      "td.lw-marks",
      canFork(app, run, card) && !next && forkButton(app, run, card, id, label),
      pinButton(app, id, label),
    ),
  );
}

/** Whether the model could have gone on with a card's tokens: on the last row, read as the model reads it. */
function canFork(app: App, run: RunInfo, { layer, site }: Card): boolean {
  const isLast = layer === run.n_layers - 1 && site === "resid_post";
  return isLast && mayFork(app, run);
}

/** Whether a run can go on with another token: its prompt is token ids alone, and a kernel is there. */
export function mayFork(app: App, run: RunInfo): boolean {
  const isFixed = !!run.extras.length || !!run.compared || app.traits().frames.length > 0;
  return run.predicts !== "same" && !isFixed && !isOffline(app.get());
}

/** Go on with a token after a position of the run that is shown. */
export function forkAt(app: App, run: RunInfo, position: number, token: number): void {
  app.dispatch({ type: "branch", run_id: run.id, how: { fork: { position, token } } });
}

function forkButton(app: App, run: RunInfo, { position }: Card, token: number, label: Label): Child {
  if (token < 0) return null;
  const title = `Go on with ${label[0]} after position ${position}`;
  return h(
    "button.lw-fork",
    {
      type: "button",
      title,
      "aria-label": title,
      on: { click: () => forkAt(app, run, position, token) },
    },
    "↳",
  );
}

/** The top tokens of a card; one that waits for its numbers has as many rows as it will have, as far as they show. */
export function tokenTable(app: App, run: RunInfo, card: Card, n_awaited: number): Child {
  const { layer_below: below } = card;
  const n_rows = Math.max(card.ids.length, Math.min(n_awaited, run.d_vocab, RESERVED_ROWS));
  return h(
    "div.lw-scroll",
    { tabindex: "0", role: "group", "aria-label": "Top tokens" },
    h(
      "table.lw-tokens",
      h(
        "thead",
        h(
          "tr",
          HEADS.map(([name, title], i) => {
            const text = name === "below" && below !== null ? `in ${layerName(below, run)}` : name;
            const content = text || h("span.lw-hidden", "pin");
            return h("th", { key: i, scope: "col", class: i > 1 ? "lw-num" : "", title }, content);
          }),
        ),
      ),
      h(
        "tbody",
        Array.from({ length: n_rows }, (_, i) => tokenRow(app, run, card, i)),
      ),
    ),
  );
}

const NOT_YET: readonly Moved[] = Array.from({ length: N_MOVED }, (_, i) => ({
  id: -1 - i,
  label: ["\u00a0", "none", ""],
  delta: 0,
}));

function movedList(title: string, moved: readonly Moved[]): Child {
  if (!moved.length) return null;
  return h(
    "div.lw-moved",
    { key: title },
    h("h4", title),
    h(
      "ul",
      moved
        .slice(0, N_MOVED)
        .map(({ id, label, delta }, i) =>
          h(
            "li",
            { key: i, class: id < 0 ? "is-blank" : "" },
            tokenChip(label, id),
            h("span.lw-num", signedPercent(toNumber(delta))),
          ),
        ),
    ),
  );
}

/** The tokens that gained and lost most against the row below; room for them while they are awaited. */
export function movedLists(card: Card, isAwaited: boolean): Child {
  const isComing = isAwaited && card.layer_below !== null;
  const promoted = isComing ? NOT_YET : card.promoted;
  const suppressed = isComing ? NOT_YET : card.suppressed;
  if (!promoted.length && !suppressed.length) return null;
  return h(
    "div.lw-movedpair",
    { key: "moved" },
    movedList("Promoted here", promoted),
    movedList("Suppressed here", suppressed),
  );
}
