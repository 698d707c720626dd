import { type Child, div, h, patch } from "../base/dom.ts";
import { on, whenClosed } from "../base/events.ts";
import { MOST_RANK, type Shown, Surveyed } from "../cells/surveyed.ts";
import type { Contrast, Curve, CurveMetric, SurveyTraits } from "../kernel/surveyTraits.ts";
import { curveKey, SURVEY_TRAITS } from "../kernel/surveyTraits.ts";
import { type HostModel, KernelError } from "../kernel/transport.ts";
import { asPercent, clamp, layerPhrase, rankText } from "../look/format.ts";
import { pinColor, ramp } from "../look/scales.ts";
import type { App } from "../state/context.ts";
import { isOffline } from "../state/selectors.ts";
import { DASHES } from "./chart.ts";
import { button, checkbox, select } from "./elements.ts";
import { CURVE_NAMES, type Series, surveyChart, surveyTable } from "./surveyChart.ts";
import { type StripCell, SurveyStrip } from "./surveyStrip.ts";

/** The widths that a column can have. */
const WIDTHS = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32];
/** Left of the columns are the layers' names, in line with those of the chart. */
const GUTTER_PX = 58;
const CONTRASTS: Record<Contrast, string> = {
  edits: "edited − plain",
  models: "each model − the first",
};

/**
 * The picture of a survey: curves, and a strip of prompts for each model and condition. It stands inside the widget's
 * root, which hands clicks and changes to the handlers of nodes here too.
 */
export class SurveyView {
  readonly element = div("lw-survey");
  readonly #top = div("lw-survey-top");
  readonly #strips = div("lw-columns");
  readonly #below = div("lw-survey-below");
  readonly #tip = div("lw-tooltip lw-columns-tip");
  readonly #model: HostModel;
  readonly #app: App;
  #views: SurveyStrip[] = [];
  #surveyed: Surveyed | null = null;
  #source: unknown = null;
  #hidden: ReadonlySet<number> = new Set();
  #column_px: number | null = null;
  #width_px = 0;
  #order: { readonly inputs: readonly unknown[]; readonly columns: Int32Array } | null = null;
  #shown: readonly Shown[] = [];
  #looked: { readonly strip: number; readonly cell: StripCell } | null = null;
  #isOpening = false;
  #said = "";
  #isTableOpen = false;
  #left_px = 0;

  constructor(model: HostModel, app: App) {
    this.#model = model;
    this.#app = app;
    const { signal } = app;
    this.element.role = "region";
    this.element.ariaLabel = "Survey";
    this.#tip.hidden = true;
    this.#tip.ariaHidden = "true";
    this.element.append(this.#top, this.#strips, this.#below, this.#tip);
    for (const name of SURVEY_TRAITS) {
      const heard = () => this.draw();
      model.on(`change:${name}`, heard);
      whenClosed(signal, () => model.off(`change:${name}`, heard));
    }
    const observer = new ResizeObserver(() => {
      if (this.element.clientWidth !== this.#width_px) this.draw();
    });
    observer.observe(this.element);
    whenClosed(signal, () => observer.disconnect());
    const toggled = (event: Event) => {
      if (event.target instanceof HTMLDetailsElement) {
        this.#isTableOpen = event.target.open;
        this.draw();
      }
    };
    on(this.element, "toggle", toggled, signal, { capture: true });
  }

  #get<K extends keyof SurveyTraits>(name: K): SurveyTraits[K] {
    return this.#model.get(name) as SurveyTraits[K];
  }

  #set<K extends keyof SurveyTraits>(name: K, value: SurveyTraits[K]): void {
    this.#model.set(name, value);
    this.#model.save_changes();
    this.draw();
  }

  /** The survey, unpacked when it is a new one. */
  #read(): Surveyed | null {
    const survey = this.#get("survey");
    if (survey !== this.#source) {
      this.#source = survey;
      this.#surveyed = survey && "header" in survey ? new Surveyed(survey.header, survey.buffers) : null;
    }
    return this.#surveyed;
  }

  draw(): void {
    const surveyed = this.#read();
    if (!surveyed) return;
    this.#width_px = this.element.clientWidth || this.#width_px;
    const contrast = this.#get("contrast") ?? null;
    this.#shown = surveyed.shown(contrast);
    const known = this.#get("curves")?.[curveKey(this.#get("curve"), !!this.#get("only_right"), contrast)];
    const series = this.#series(surveyed, known ?? []);
    patch(this.#top, [
      this.#head(surveyed),
      this.#controls(surveyed),
      this.#legend(surveyed, known ?? []),
      known ? this.#chart(series) : h("p.lw-dim lw-survey-wait", "These curves are being computed."),
      this.#numbers(series),
    ]);
    this.#drawStrips(surveyed);
    patch(this.#below, this.#belowStrips(surveyed));
  }

  // --- above the strips

  #head({ header }: Surveyed): Child {
    const { n, n_failed, lens, site, k, strips } = header;
    const top = k === 1 ? "the top token" : `among the top ${k}`;
    return h(
      "p.lw-survey-head",
      h("strong", `${n.toLocaleString("en")} prompt${n === 1 ? "" : "s"}`),
      n_failed ? h("span.lw-error", `${n_failed.toLocaleString("en")} failed`) : null,
      h("span", [...new Set(strips.map(({ model }) => model))].join(" and ")),
      h("span.lw-dim", `${lens} lens, ${site}; an answer counts where it is ${top}`),
    );
  }

  #controls({ header }: Surveyed): Child {
    const { metrics, contrasts } = header;
    const contrast = this.#get("contrast");
    return h(
      "div.lw-controls",
      { role: "group", "aria-label": "Curves" },
      select(
        "Curves",
        this.#get("curve"),
        metrics.map((metric) => [metric, CURVE_NAMES[metric]]),
        (value) => this.#set("curve", value as CurveMetric),
      ),
      contrasts.length
        ? select(
            "Difference",
            contrast ?? "",
            [["", "none"], ...contrasts.map((each) => [each, CONTRASTS[each]] as const)],
            (value) => this.#set("contrast", (value || null) as Contrast | null),
          )
        : null,
      checkbox("Only what the model answers rightly", !!this.#get("only_right"), (value) =>
        this.#set("only_right", value),
      ),
    );
  }

  /** The curves of the groups that are shown: coloured by group, or by model and condition where there is one. */
  #series({ header }: Surveyed, curves: readonly Curve[]): Series[] {
    const { groups } = header;
    const theme = this.#app.theme();
    const parts = [...new Set(curves.map(({ model, condition }) => `${model} ${condition}`))];
    const isOneModel = new Set(curves.map(({ model }) => model)).size === 1;
    return curves.flatMap((curve) => {
      const group = groups.indexOf(curve.group);
      if (this.#hidden.has(group)) return [];
      const part = parts.indexOf(`${curve.model} ${curve.condition}`);
      const of = isOneModel
        ? curve.condition
        : `${curve.model}${curve.condition === "plain" ? "" : `, ${curve.condition}`}`;
      const names = [curve.group, parts.length > 1 || !curve.group ? of : ""].filter(Boolean);
      return {
        key: `${part} ${group}`,
        name: names.join(", "),
        color: pinColor(groups.length > 1 ? group : part, theme),
        dash: groups.length > 1 ? part : 0,
        curve,
      };
    });
  }

  #legend(surveyed: Surveyed, curves: readonly Curve[]): Child {
    const { groups } = surveyed.header;
    const theme = this.#app.theme();
    const series = this.#series(surveyed, curves);
    const sample = (color: string, dash: number) =>
      h(
        "svg.lw-sample",
        { width: 26, height: 10, "aria-hidden": "true" },
        h("path.lw-line", { d: "M1 5H25", stroke: color, "stroke-dasharray": DASHES[dash % DASHES.length] }),
      );
    const count = (n: number) => h("span.lw-dim", ` n ${n.toLocaleString("en")}`);
    if (groups.length < 2)
      return h(
        "div.lw-survey-legend",
        series.map(({ key, name, color, dash, curve }) =>
          h("span.lw-key", { key }, sample(color, dash), h("bdi", name), count(curve.n)),
        ),
      );
    const parts = new Map(series.map(({ key, dash, curve }) => [key.split(" ")[0], { dash, curve }]));
    return h(
      "div.lw-survey-legend",
      { role: "group", "aria-label": "Groups" },
      groups.map((group, i) => {
        const isShown = !this.#hidden.has(i);
        const n = curves.find((curve) => curve.group === group)?.n ?? 0;
        return h(
          "button",
          {
            key: i,
            type: "button",
            class: "lw-button lw-small lw-group",
            "aria-pressed": String(isShown),
            on: { click: () => this.#toggle(i) },
          },
          sample(pinColor(i, theme), 0),
          h("bdi", group || "no group"),
          count(n),
        );
      }),
      parts.size > 1 &&
        [...parts].map(([part = "", { dash, curve }]) =>
          h(
            "span.lw-key",
            { key: `part ${part}` },
            sample("currentColor", dash),
            [curve.model, curve.condition === "plain" ? "" : curve.condition].filter(Boolean).join(", "),
          ),
        ),
    );
  }

  #toggle(group: number): void {
    const hidden = new Set(this.#hidden);
    if (!hidden.delete(group)) hidden.add(group);
    this.#hidden = hidden;
    this.draw();
  }

  #chart(series: readonly Series[]): Child {
    const looked = this.#looked;
    const layers = looked ? this.#shown[looked.strip]?.layers : undefined;
    return surveyChart({
      series,
      metric: this.#get("curve"),
      contrast: this.#get("contrast") ?? null,
      width_px: Math.max(280, this.#width_px),
      layer: (looked && layers?.[looked.cell.row]) ?? null,
    });
  }

  #numbers(series: readonly Series[]): Child {
    return h(
      "details.lw-survey-numbers",
      h("summary", "Numbers"),
      this.#isTableOpen &&
        h(
          "div.lw-survey-scroll",
          { tabindex: 0, role: "region", "aria-label": "Numbers of the curves" },
          surveyTable(series, this.#get("curve"), this.#get("contrast") ?? null),
        ),
    );
  }

  // --- the strips

  #columns(surveyed: Surveyed): Int32Array {
    const strip = this.#shown[0]?.strip ?? 0;
    const inputs = [surveyed, strip, this.#hidden];
    if (!this.#order || this.#order.inputs.some((each, i) => each !== inputs[i]))
      this.#order = { inputs, columns: surveyed.order(strip, (group) => !this.#hidden.has(group)) };
    return this.#order.columns;
  }

  #drawStrips(surveyed: Surveyed): void {
    const shown = this.#shown;
    while (this.#views.length < shown.length) this.#views.push(this.#newStrip(this.#views.length));
    for (const extra of this.#views.splice(shown.length)) extra.element.remove();
    const order = this.#columns(surveyed);
    const column_px = this.#widthOf(order.length);
    const opened = this.#get("opened");
    shown.forEach((each, i) => {
      this.#views[i]?.draw({
        surveyed,
        shown: each,
        order,
        theme: this.#app.theme(),
        column_px,
        row_px: clamp(Math.floor(190 / each.layers.length), 3, 12),
        opened: opened && (opened.strip === each.strip || shown.length === 1) ? opened.column : null,
      });
    });
  }

  /** The chosen width of a column, or the largest at which all are in view. */
  #widthOf(n: number): number {
    const room = this.#width_px - GUTTER_PX;
    return this.#column_px ?? WIDTHS.filter((px) => px <= 24 && px * n <= room).at(-1) ?? 2;
  }

  #newStrip(index: number): SurveyStrip {
    const strip = new SurveyStrip(
      {
        hover: (cell, event) => this.#look(index, cell, event),
        focus: (cell) => this.#look(index, cell, null),
        open: (cell) => void this.#open(index, cell),
        scroll: (left_px) => {
          this.#left_px = left_px;
          for (const view of this.#views) view.scrollTo(left_px);
        },
        describe: (cell) => this.#describe(index, cell).join("; "),
      },
      this.#app.signal,
    );
    this.#strips.append(strip.element);
    strip.scrollTo(this.#left_px);
    return strip;
  }

  /** What is said of a cell, in parts: prompt, answer, arrival, and its own rank. */
  #describe(index: number, { column, row }: StripCell): string[] {
    const surveyed = this.#surveyed;
    const shown = this.#shown[index];
    if (!surveyed || !shown) return [];
    const { prompts, answers, groups } = surveyed.header;
    const { strip, base, layers } = shown;
    const rankAt = (of: number) => {
      const rank = surveyed.rank(of, column, row);
      return rank === null ? "not measured" : `${rankText(rank)}${rank === MOST_RANK ? " or beyond" : ""}`;
    };
    const holds = surveyed.holds(strip, column);
    const group = groups[surveyed.group(column)];
    const layer = layerPhrase(layers[row] ?? 0);
    return [
      prompts[column] ?? "",
      `answer “${answers[column]}”${groups.length > 1 && group ? `, ${group}` : ""}`,
      holds === null ? "not there at the end" : `holds from ${layerPhrase(holds)}`,
      `${asPercent(surveyed.log_prob(strip, column))} at the end`,
      base === null
        ? `${layer}: ${rankAt(strip)}`
        : `${layer}: ${rankAt(base)} before, ${rankAt(strip)} after`,
    ];
  }

  #look(strip: number, cell: StripCell | null, event: PointerEvent | null): void {
    const was = this.#looked;
    this.#looked = cell && { strip, cell };
    const tip = this.#tip;
    tip.hidden = !cell || !event;
    if (cell && event) {
      const [prompt, ...facts] = this.#describe(strip, cell);
      patch(tip, [h("bdi.lw-columns-prompt", prompt), facts.map((fact) => h("div", { key: fact }, fact))]);
      const box = this.element.getBoundingClientRect();
      const left = clamp(event.clientX - box.left + 14, 0, Math.max(0, box.width - tip.offsetWidth));
      const above = event.clientY - box.top - tip.offsetHeight - 12;
      tip.style.transform = `translate(${left}px, ${above}px)`;
    }
    if (was?.cell.row !== cell?.row || was?.cell.column !== cell?.column || was?.strip !== strip) this.draw();
  }

  async #open(index: number, { column, row }: StripCell): Promise<void> {
    const shown = this.#shown[index];
    const app = this.#app;
    if (!shown || this.#isOpening) return;
    if (isOffline(app.get())) {
      const opened = this.#get("opened");
      const isOpen = opened?.column === column && opened.strip === shown.strip;
      this.#said = isOpen ? "" : "A saved file has the grid of one prompt; another needs the kernel.";
      this.draw();
      return;
    }
    this.#isOpening = true;
    this.#said = "Opening the prompt.";
    this.draw();
    try {
      const layer = shown.layers[row] ?? null;
      await app.transport.request("open", { column, strip: shown.strip, layer }).reply;
      this.#said = "";
    } catch (error) {
      this.#said = error instanceof KernelError ? error.message : String(error);
    }
    this.#isOpening = false;
    this.draw();
  }

  // --- below the strips

  #belowStrips(surveyed: Surveyed): Child[] {
    const order = this.#columns(surveyed);
    const px = this.#widthOf(order.length);
    const step = (by: number) => () => {
      this.#column_px = WIDTHS[clamp(WIDTHS.indexOf(px) + by, 0, WIDTHS.length - 1)] ?? px;
      this.draw();
    };
    const zoom = (label: string, title: string, by: number, end: number | undefined) =>
      button(label, step(by), { title, className: "lw-icon lw-small", disabled: px === end });
    return [
      h(
        "div.lw-legend",
        this.#scale(surveyed),
        h("span.lw-dim", "Columns are prompts by the layer from which the answer holds; a click opens one."),
        h("span.lw-gap"),
        h(
          "span.lw-survey-zoom",
          zoom("−", "Narrower columns", -1, WIDTHS[0]),
          zoom("+", "Wider columns", 1, WIDTHS.at(-1)),
        ),
      ),
      h("p.lw-survey-said", { role: "status" }, this.#said || this.#openedText(surveyed)),
    ];
  }

  #openedText({ header }: Surveyed): string {
    const opened = this.#get("opened");
    if (!opened) return "";
    const { model, condition } = header.strips[opened.strip] ?? { model: "", condition: "" };
    const of = header.strips.length > 1 ? `, ${model}, ${condition}` : "";
    return `Below: row ${header.rows[opened.column]}${of}.`;
  }

  #scale({ header }: Surveyed): Child {
    const isChange = !!this.#get("contrast");
    const colors = ramp(isChange ? "change" : "rank", this.#app.theme()).map(({ css }) => css);
    const ranks = [1, 10, 100, 1000, 10_000].filter((n) => n < header.d_vocab / 4);
    const ticks: readonly (readonly [at: number, text: string])[] = isChange
      ? [
          [0, "1,000x worse"],
          [0.5, "same rank"],
          [1, "1,000x better"],
        ]
      : ranks.map((n) => [1 - Math.log(n) / Math.log(header.d_vocab), rankText(n - 1)]);
    return h(
      "span.lw-survey-scale",
      h("span.lw-dim", isChange ? "Change of rank" : "Rank of the answer"),
      h(
        "span.lw-scale",
        h("i.lw-ramp", { style: { background: `linear-gradient(to right, ${colors.join()})` } }),
        ticks.map(([at, text]) => h("span.lw-tick", { style: { left: `${at * 100}%` } }, text)),
      ),
    );
  }
}
