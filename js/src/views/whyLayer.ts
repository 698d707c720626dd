import { type Child, h } from "../base/dom.ts";
import type { Attention, RunInfo, Why, WhyTerm } from "../kernel/protocol.ts";
import { layerPhrase, percent, signed, toNumber } from "../look/format.ts";
import type { App } from "../state/context.ts";
import { isOffline, promptWords } from "../state/selectors.ts";
import {
  canSwitch,
  holdHead,
  hoverHead,
  PIECES,
  type Piece,
  switchOff,
  type WhyState,
} from "../state/why.ts";
import { promptChip } from "./elements.ts";

/** How many pieces of a layer are listed. */
const N_LISTED: Record<Piece, number> = { head: 8, source: 5, neuron: 5 };
const HEADINGS: Record<Piece, string> = { head: "Heads", source: "Reads from", neuron: "Neurons" };
/** A thumbnail is as wide as a column. */
const THUMB = { width: 72, height: 12 };

/** Bars side by side, one per position, as one path. */
function bars(shares: readonly number[], isDrawn: (position: number) => boolean): string {
  const step = THUMB.width / shares.length;
  return shares
    .map((share, i) => {
      const height = share * THUMB.height;
      if (!isDrawn(i) || height < 0.3) return "";
      return `M${(i * step).toFixed(2)} ${THUMB.height}v${(-height).toFixed(2)}h${Math.max(1, step * 0.85).toFixed(2)}v${height.toFixed(2)}z`;
    })
    .join("");
}

/** What is read, by column; a head's is a button that holds it on the grid. */
function thumbOf(app: App, key: string, open: WhyState, term: WhyTerm, run: RunInfo): Child {
  const { attention } = open;
  const isHead = term.kind === "head";
  const all = isHead ? attention?.weights[term.unit] : term.kind === "attn" ? attention?.read : undefined;
  if (!attention || !all || / bias$/.test(term.name)) return null;
  const shares = all.slice(0, run.is_causal === false ? all.length : attention.position + 1);
  const isSink = (position: number) => attention.sinks.includes(position);
  const best = shares
    .map((share, position) => ({ share, position }))
    .sort((a, b) => b.share - a.share)
    .slice(0, 3)
    .map(
      ({ share, position }) =>
        `${promptWords(run, position)}${isSink(position) ? ", a sink," : ""} ${percent(share)}`,
    )
    .join("; ");
  const said = `reads ${best}`;
  const picture = h(
    "svg.lw-reads",
    { ...THUMB, viewBox: `0 0 ${THUMB.width} ${THUMB.height}`, "aria-hidden": "true" },
    h("path", { d: bars(shares, (position) => !isSink(position)) }),
    h("path.is-sink", { d: bars(shares, isSink) }),
  );
  if (!isHead) return h("span", { title: said }, picture);
  return h(
    "button",
    {
      type: "button",
      class: "lw-thumb",
      title: `${said}. Press to keep it on the grid`,
      "aria-label": `head ${term.unit} ${said}`,
      "aria-pressed": String(open.held === term.unit),
      on: { click: () => holdHead(app, key, term.unit) },
    },
    picture,
  );
}

function pieceName(term: WhyTerm, run: RunInfo, attention: Attention | null): Child {
  if (term.kind === "source") {
    const isSink = attention?.sinks.includes(term.unit);
    return [promptChip(run, term.unit), h("span.lw-dim", ` ${term.unit}${isSink ? ", a sink" : ""}`)];
  }
  const text = { attn: "attention", mlp: "MLP" }[term.kind] ?? term.name;
  return text.replace(/^L\d+ /, "");
}

function pieceRow(app: App, key: string, open: WhyState, term: WhyTerm, run: RunInfo): Child {
  const measured = toNumber(term.measured);
  const off = canSwitch(term) && !isOffline(app.get());
  const head = term.kind === "head" ? term.unit : null;
  const point = { pointerover: () => hoverHead(app, key, head), focusin: () => hoverHead(app, key, head) };
  return h(
    "tr",
    { key: `${term.kind} ${term.unit} ${term.name}`, on: point },
    h("th", { scope: "row" }, pieceName(term, run, open.attention)),
    h("td", thumbOf(app, key, open, term, run)),
    h("td.lw-num", signed(toNumber(term.predicted))),
    h("td.lw-num lw-dim", Number.isFinite(measured) ? signed(measured) : ""),
    h(
      "td",
      off &&
        h(
          "button",
          {
            type: "button",
            class: "lw-button lw-small",
            title: "Switch it off at this position, and run again",
            "aria-label": `Off: ${term.name}`,
            on: { click: () => switchOff(app, key, term) },
          },
          "Off",
        ),
    ),
  );
}

function pieces(app: App, key: string, open: WhyState, by: Piece, run: RunInfo): Child {
  const found = open.pieces[by];
  const heading = (text: string) =>
    h(
      "tr.lw-whyhead",
      { key: by },
      h("th", { colspan: 5, scope: "rowgroup" }, HEADINGS[by], h("span.lw-dim", text)),
    );
  if (found === undefined) return heading(" …");
  if (typeof found === "string") return heading(` ${found}`);
  const terms = found.terms.filter(({ kind }) => kind === by);
  if (!terms.length) return found.notes.length > 0 && heading(` ${found.notes[0]}`);
  return [heading(""), terms.slice(0, N_LISTED[by]).map((term) => pieceRow(app, key, open, term, run))];
}

/** The pointer leaves a table, and not for another of its rows. */
function leave(app: App, key: string, { target, relatedTarget }: MouseEvent): void {
  const table = target instanceof Element && target.closest("table");
  if (!table || !(relatedTarget instanceof Node && table.contains(relatedTarget))) hoverHead(app, key, null);
}

/** One layer: its parts whole, and what they consist of; each with a switch. */
export function layerTable(app: App, key: string, open: WhyState, why: Why, run: RunInfo): Child {
  const { layer } = open;
  if (layer === null) return null;
  const whole = why.terms.filter((term) => term.layer === layer && term.kind !== "bias");
  if (!whole.length) return null;
  return h(
    "table.lw-whytable",
    {
      key: "layer",
      "aria-label": `What ${layerPhrase(layer, run)} adds`,
      on: {
        pointerout: (event: MouseEvent) => leave(app, key, event),
        focusout: () => hoverHead(app, key, null),
      },
    },
    h(
      "thead",
      h(
        "tr",
        h("th", { scope: "col" }, layerPhrase(layer, run)),
        h(
          "th",
          { scope: "col", title: "By column, up to this one; sinks are grey" },
          open.attention ? "reads" : h("span.lw-hidden", "Reads"),
        ),
        h(
          "th.lw-num",
          { scope: "col", title: "Its term in the logit, norms held at this cell's scale" },
          "term",
        ),
        h("th.lw-num", { scope: "col", title: "What the logit loses without it in this cell" }, "taken out"),
        h("th", { scope: "col" }, h("span.lw-hidden", "Switch")),
      ),
    ),
    h(
      "tbody",
      whole.map((term) => pieceRow(app, key, open, term, run)),
      PIECES.map((by) => pieces(app, key, open, by, run)),
    ),
  );
}
