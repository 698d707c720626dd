import { type Child, h } from "../base/dom.ts";
import type { RunInfo, Why, WhyTerm } from "../kernel/protocol.ts";
import { fixed, layerName, layerPhrase, quoted, signed, toNumber } from "../look/format.ts";
import type { App } from "../state/context.ts";
import type { CardState } from "../state/state.ts";
import { chooseTarget, openLayer, targetOf, targets, toggleWhy, type WhyState, whyOf } from "../state/why.ts";
import { button, select } from "./elements.ts";
import { layerTable } from "./whyLayer.ts";

/** A measured end this far from the bar's own, in percent of the width, is drawn. */
const LEAST_MISS = 0.7;

interface Bar {
  readonly term: WhyTerm;
  readonly from: number;
  readonly to: number;
}

interface WhyRow {
  readonly layer: number;
  readonly name: string;
  readonly bars: readonly Bar[];
  readonly sum: number;
}

/** The terms as a waterfall: rows from the embedding up, each beginning where the one below ended. */
function waterfall(why: Why, run: RunInfo): WhyRow[] {
  const rows = new Map<string, { layer: number; name: string; bars: Bar[] }>();
  let at = 0;
  for (const term of why.terms) {
    const name = term.kind === "bias" ? "bias" : layerName(term.layer, run);
    const row = rows.get(name) ?? { layer: term.kind === "bias" ? -2 : term.layer, name, bars: [] };
    rows.set(name, row);
    const to = at + toNumber(term.predicted);
    row.bars.push({ term, from: at, to });
    at = to;
  }
  const remainder = toNumber(why.remainder);
  const left: WhyTerm = {
    kind: "remainder",
    layer: -3,
    unit: -1,
    name: "remainder",
    predicted: remainder,
    measured: "NaN",
  };
  rows.set("rest", { layer: -3, name: "rest", bars: [{ term: left, from: at, to: at + remainder }] });
  return [...rows.values()].map((row) => ({
    ...row,
    sum: row.bars.reduce((sum, { from, to }) => sum + to - from, 0),
  }));
}

/** The span of a waterfall's numbers, 0 among them. */
function spanOf(rows: readonly WhyRow[]): readonly [low: number, high: number] {
  const ends = rows.flatMap(({ bars }) =>
    bars.flatMap(({ from, to, term }) => {
      const measured = toNumber(term.measured);
      return Number.isFinite(measured) ? [to, from + measured] : [to];
    }),
  );
  return [Math.min(0, ...ends), Math.max(0, ...ends)];
}

/** In words: "attention +1.92, taken out +1.89". */
function barText({ term }: Bar): string {
  const what = { attn: "attention", mlp: "MLP", embed: "embedding", rest: "rest" }[term.kind] ?? term.name;
  const measured = toNumber(term.measured);
  const beside = Number.isFinite(measured) ? `, taken out ${signed(measured)}` : "";
  const tiny = term.kind === "remainder" ? toNumber(term.predicted).toExponential(1) : null;
  return `${what} ${tiny ?? signed(toNumber(term.predicted))}${beside}`;
}

function bar({ term, from, to }: Bar, place: (x: number) => number): Child {
  const [start, end] = [place(Math.min(from, to)), place(Math.max(from, to))];
  const measured = toNumber(term.measured);
  const half = term.kind === "attn" ? "is-upper" : term.kind === "mlp" ? "is-lower" : "";
  const sign = term.kind === "remainder" ? "is-rest" : to < from ? "is-against" : "is-for";
  const percent = (x: number) => `${x.toFixed(2)}%`;
  return [
    h(`i.lw-whybar ${half} ${sign}`, { style: { left: percent(start), width: percent(end - start) } }),
    Math.abs(place(measured) - place(to - from)) > LEAST_MISS &&
      h(`i.lw-whytick ${half}`, { style: { left: percent(place(from + measured)) } }),
  ];
}

function row(
  app: App,
  key: string,
  open: WhyState,
  { layer, name, bars, sum }: WhyRow,
  span: readonly [number, number],
  run: RunInfo,
): Child {
  const [low, high] = span;
  const place = (x: number) => (100 * (x - low)) / (high - low || 1);
  const isLayer = layer >= 0;
  const said = bars.map(barText).join("; ");
  const content = [
    h("span.lw-whyname", name),
    h(
      "span.lw-whytrack",
      h("i.lw-whyzero", { style: { left: `${place(0).toFixed(2)}%` } }),
      bars.map((each) => bar(each, place)),
    ),
    h("span.lw-num", layer === -3 ? sum.toExponential(0).replace("-", "−") : signed(sum)),
  ];
  const label = isLayer ? `${layerPhrase(layer, run)}: ${said}` : said;
  if (!isLayer) return h("li.lw-whyrow", { key: name, title: said, "aria-label": label }, content);
  return h(
    "li",
    { key: name },
    h(
      "button",
      {
        type: "button",
        class: "lw-whyrow",
        title: said,
        "aria-label": label,
        "aria-expanded": String(open.layer === layer),
        on: { click: () => openLayer(app, key, layer), keydown: (event: KeyboardEvent) => step(event) },
      },
      content,
    ),
  );
}

/** The arrow keys go from row to row. */
function step(event: KeyboardEvent): void {
  const by = { ArrowUp: -1, ArrowDown: 1 }[event.key];
  const list = (event.target as HTMLElement).closest("ul");
  if (!by || !list) return;
  const all = [...list.querySelectorAll<HTMLElement>("button.lw-whyrow")];
  const next = all[all.indexOf((event.target as HTMLElement).closest("button") as HTMLElement) + by];
  next?.focus();
  event.preventDefault();
  event.stopPropagation();
}

/** What a switched term did, once the run with it off is here. */
function switchedLine({ switched, why }: WhyState): Child {
  if (!switched || !why || why.before === null || why.position !== switched.position) return null;
  const effect = toNumber(why.before) - toNumber(why.logit);
  return h(
    "p.lw-whyswitched",
    { key: "switched" },
    h("strong", switched.name),
    " off: term ",
    h("span.lw-num", signed(switched.predicted)),
    ", taken out ",
    h("span.lw-num", signed(switched.measured)),
    ", run again ",
    h("strong.lw-num", signed(effect)),
  );
}

function body(app: App, key: string, open: WhyState, why: Why, run: RunInfo): Child {
  const rows = waterfall(why, run);
  const span = spanOf(rows);
  return [
    h(
      "ul.lw-why",
      {
        key: "rows",
        class: open.isPending ? "lw-why is-stale" : "lw-why",
        "aria-label": "What each layer adds",
      },
      rows.reverse().map((each) => row(app, key, open, each, span, run)),
    ),
    h(
      "p.lw-facts",
      { key: "sum" },
      h("span", "sum ", h("strong.lw-num", fixed(toNumber(why.total), 3))),
      h("span", "remainder ", h("span.lw-num", toNumber(why.remainder).toExponential(1).replace("-", "−"))),
      h("span", "logit ", h("strong.lw-num", fixed(toNumber(why.before_cap), 3))),
      why.cap !== null && h("span", `soft-capped at ${why.cap}: ${fixed(toNumber(why.logit), 3)}`),
    ),
    h(
      "p.lw-facts lw-dim lw-whykey",
      { key: "legend" },
      h("span", h("i.lw-whyswatch is-for"), "for"),
      h("span", h("i.lw-whyswatch is-against"), "against"),
      h("span", "upper half attention, lower half MLP"),
      h("span", h("i.lw-whytick"), "where the bar ends if it is taken out instead"),
    ),
    switchedLine(open),
    layerTable(app, key, open, why, run),
  ];
}

/** The explanation of a card; null while it is closed. */
export function whySection(app: App, key: string, state: CardState, run: RunInfo): Child {
  const open = whyOf(app, key);
  if (!open) return null;
  const cells = app.cells();
  const name = (id: number) => quoted(cells?.label(id) ?? [`#${id}`, "none", ""]);
  const ids = targetOf(app, state, open);
  const options = targets(app, state).map(({ value, ids }) => [value, ids.map(name).join(" − ")] as const);
  const isElsewhere = state.site !== "resid_post";
  return h(
    "section.lw-whybox",
    { key: "why", "aria-label": "Why", "aria-busy": String(open.isPending) },
    options.length > 0 &&
      select("Logit of", ids?.join("-") ?? "", options, (value) => chooseTarget(app, key, value)),
    isElsewhere &&
      h("p.lw-facts lw-dim", { key: "site" }, "Only cells of resid_post are sums of what blocks add."),
    open.error && h("p.lw-error", { key: "error", role: "alert" }, open.error),
    open.isPending && !open.why && h("p.lw-facts lw-dim", { key: "pending" }, "taking it apart…"),
    !isElsewhere && open.why && body(app, key, open, open.why, run),
  );
}

/** The button that opens and closes it. */
export function whyButton(app: App, key: string): Child {
  return button("Why", () => toggleWhy(app, key), {
    title: "What this cell's logit is made of (w)",
    expanded: whyOf(app, key) !== null,
  });
}
