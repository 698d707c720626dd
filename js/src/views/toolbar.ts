import { type Child, h } from "../base/dom.ts";
import {
  coloringName,
  coloringOf,
  isDifference,
  isOfToken,
  METRIC_SPECS,
  METRICS,
  rankedToken,
} from "../cells/fields.ts";
import type { Difference, Metric, RunInfo, Show } from "../kernel/protocol.ts";
import type { Traits, ViewTraits } from "../kernel/traits.ts";
import { asPercent, quoted, tokenCount, toNumber } from "../look/format.ts";
import { MAX_COL_PX, MIN_COL_PX } from "../look/layout.ts";
import type { App } from "../state/context.ts";
import { boxText, isOffline, lossOfEdit, NO_LABEL, shownRun } from "../state/selectors.ts";
import type { State } from "../state/state.ts";
import { continueButton, liveBox } from "./continuing.ts";
import { button, checkbox, type Options, select, toggle } from "./elements.ts";
import { canHaveSpine } from "./spine.ts";

/** The prompt box and its button. */
export function promptForm(app: App): Child {
  const state = app.get();
  const { running } = state;
  const text = boxText(state);
  const isFilm = state.traits.frames.length > 0;
  const offline = isOffline(state) || isFilm;
  const run = () => app.dispatch({ type: "run" });
  const keydown = (event: KeyboardEvent) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    run();
  };
  return h(
    "div.lw-prompt",
    h("textarea", {
      rows: String(Math.min(5, text.split("\n").length)),
      "aria-label": "Prompt",
      title: "Shift+Enter: new line",
      spellcheck: "false",
      dir: "auto",
      readonly: offline,
      value: text,
      on: {
        keydown,
        input: (event: Event) =>
          app.dispatch({ type: "draft", text: (event.target as HTMLTextAreaElement).value }),
      },
    }),
    // while the grid follows the typing, a button that changed at each key would only flicker
    running && !isFilm && !(state.isLive && !state.isGenerating)
      ? button("Stop", () => app.dispatch({ type: "stop" }), { className: "lw-primary" })
      : button("Run", run, {
          className: "lw-primary",
          title: isFilm
            ? "A film shows the runs that it was given"
            : offline
              ? "This needs the kernel"
              : "Run (Enter)",
          disabled: offline,
        }),
    (!running || state.isLive) && !state.isGenerating && continueButton(app),
    !offline && liveBox(app),
    h("p.lw-loss", { role: "status" }, lossOfEdit(state)),
  );
}

function rankChoice(app: App, traits: ViewTraits, run: RunInfo): Child {
  if (!isOfToken(coloringOf(traits, run))) return null;
  const cells = app.cells();
  const chosen = rankedToken(traits, run);
  const ids = new Set([chosen, run.next.id, ...traits.pins.flatMap((pin) => pin.ids)]);
  return select(
    "of",
    String(chosen),
    [...ids].map((id) => [String(id), cells?.label(id)[0] ?? `#${id}`] as const),
    (id) => app.set({ rank_token: Number(id) }),
  );
}

function differences(run: RunInfo): Options {
  const ofTokens: Options = [
    ["log_prob", "a token’s log-prob"],
    ["rank", "a token’s rank"],
    ["agrees", "the top token"],
  ];
  if (run.compared?.why_no_kl) return ofTokens;
  return [
    ["kl", `all tokens: ${coloringName("change_kl", run)}`],
    ["kl_back", `all tokens: ${coloringName("change_kl_back", run)}`],
    ["js", "all tokens: Jensen–Shannon"],
    ...ofTokens,
  ];
}

/** How often each layer has the model's own answer on top through a lens: the kernel's curve. */
function qualityCurve({ lens_quality }: RunInfo, lens: string): Child {
  const found = lens_quality?.[lens];
  if (!found) return null;
  const { text, paths } = found;
  return h(
    "span.lw-quality",
    { title: text, role: "img", "aria-label": text },
    h(
      "svg",
      { width: 56, height: 16 },
      paths.map((d) => h("path", { d })),
    ),
  );
}

const SHOWS: Options = [
  ["top", "top tokens"],
  ["words", "top words"],
  ["lift", "lift over usual"],
];

/** The controls of the view. */
export function controls(app: App): Child {
  const state = app.get();
  const { traits, panel } = state;
  const run = shownRun(state);
  if (!run) return null;
  const put = app.set;
  // what is shown for its lift is coloured by it in place of its probability
  const nameOf = (metric: Metric) =>
    METRIC_SPECS[metric === "prob" && traits.show === "lift" ? "lift" : metric].name;
  const metrics = METRICS.map((name) => [name, nameOf(name)] as const);
  const isMap = coloringOf(traits, run).startsWith("effect");
  const colours: Options = "answer" in traits.causal ? [...metrics, ["map", "Causal map"]] : metrics;
  const strides = [...new Set([1, 2, 3, 4, 5, 8, 10, traits.stride])]
    .filter((n) => n < Math.max(2, run.n_layers))
    .sort((a, b) => a - b);
  return h(
    "div.lw-controls",
    { role: "toolbar", "aria-label": "View" },
    isDifference(traits, run)
      ? select("Difference of", traits.difference, differences(run), (difference) =>
          put({ difference: difference as Difference }),
        )
      : select("Colour", isMap ? "map" : traits.metric, colours, (chosen) => {
          if (chosen === "map") put({ view: "map" });
          else put({ metric: chosen as Metric, ...(isMap ? { view: "after" } : {}) });
        }),
    rankChoice(app, traits, run),
    run.sites.length > 1 && select("Site", traits.site, run.sites, (site) => put({ site })),
    run.has_words && select("Show", traits.show, SHOWS, (show) => put({ show: show as Show })),
    run.lenses.length > 1 &&
      h(
        "span.lw-field",
        select("Lens", traits.lens, run.lenses, (lens) => put({ lens })),
        qualityCurve(run, traits.lens),
      ),
    select(
      "Layers",
      String(traits.stride),
      strides.map((n) => [String(n), n === 1 ? "all" : `every ${n}`] as const),
      (stride) => put({ stride: Number(stride) }),
    ),
    select("Rows", traits.orientation, ["layers", "tokens"], (orientation) =>
      put({ orientation: orientation as Traits["orientation"] }),
    ),
    run.special.some(Boolean) &&
      checkbox("Hide special tokens", traits.hide_special, (hide_special) => put({ hide_special })),
    run.bands?.some(({ kind }) => kind === "template") &&
      checkbox("Hide template", traits.hide_template, (hide_template) => put({ hide_template })),
    canHaveSpine(run) && checkbox("Surprise", traits.show_spine, (show_spine) => put({ show_spine })),
    h("span.lw-gap", {}),
    button("⋯", () => toggle(app, "menu"), {
      className: "lw-icon",
      title: "More",
      expanded: panel === "menu",
    }),
    button("?", () => toggle(app, "help"), {
      className: "lw-icon",
      title: "Keys (?)",
      expanded: panel === "help",
    }),
  );
}

/** The menu behind "⋯". */
export function menu(app: App, savePng: () => void): Child {
  const { traits, panel } = app.get();
  if (panel !== "menu") return null;
  const put = app.set;
  const numberField = (
    name: "k" | "card_k" | "column_width_px",
    label: string,
    min: number,
    max: number,
    step: number,
  ) =>
    h(
      "label.lw-field",
      h("span", label),
      h("input", {
        type: "number",
        min,
        max,
        step,
        value: String(traits[name]),
        on: {
          change: (event: Event) => {
            const value = Math.round(Number((event.target as HTMLInputElement).value));
            if (value >= min && value <= max) put({ [name]: value });
          },
        },
      }),
    );
  return h(
    "div.lw-panel lw-menu",
    { role: "group", "aria-label": "More" },
    numberField("column_width_px", "Column width, px", MIN_COL_PX, MAX_COL_PX, 4),
    numberField("k", "Tokens per cell", 1, 100, 1),
    numberField("card_k", "Tokens on a card", 1, 1000, 5),
    button("Second prompt (m)", () =>
      toggle(app, "menu", () => app.local({ isSourceOpen: !app.get().isSourceOpen })),
    ),
    checkbox("Dim what noise would say", traits.floor, (floor) => put({ floor })),
    button("Download PNG", () => toggle(app, "menu", savePng)),
    button("Reset view", () => toggle(app, "menu", () => app.dispatch({ type: "reset" }))),
  );
}

/** The model's own answer: its next token, or in a masked language model what it says stands at a position. */
function prediction({ next: { id, log_prob, position }, labels, predicts }: RunInfo): Child {
  return h(
    "span",
    predicts === "same" ? `at position ${position} says ` : "predicts ",
    h("strong", h("bdi", quoted(labels[id] ?? NO_LABEL))),
    ` ${asPercent(log_prob)}`,
  );
}

function badge(run: RunInfo): Child {
  const { fidelity } = run;
  if (!fidelity) return null;
  const error = toNumber(fidelity.max_abs_error);
  const size = error === 0 ? "exact" : `±${error.toExponential(0)} nats`;
  return h(
    "span",
    {
      class: `lw-badge ${fidelity.ok ? "is-ok" : "is-bad"}`,
      title: fidelity.text,
      tabindex: "0",
      role: "img",
      "aria-label": `Fidelity: ${fidelity.text}`,
    },
    fidelity.ok ? `✓ faithful ${size}` : `⚠ not the model’s own logits: ${size}`,
  );
}

/** How much of the run was taken over from an earlier one; nothing where it was run whole. */
function reused({ reuse, tokens }: RunInfo): Child {
  if (!reuse?.n_columns) return null;
  return h(
    "span",
    {
      class: "lw-badge",
      title: reuse.text,
      tabindex: "0",
      role: "img",
      "aria-label": `Reuse: ${reuse.text}`,
    },
    `${reuse.n_columns} of ${tokens.filter((id) => id >= 0).length} columns reused`,
  );
}

/** A few words on the state of the kernel. */
function activity(state: State): { text: string; kind: string } {
  const { connection, running, progress, traits } = state;
  if (traits.status.state === "offline") return { text: "Saved view: no kernel", kind: "off" };
  if (isOffline(state)) return { text: "Saved view: run the cell to go live", kind: "off" };
  if (connection === "gone") return { text: "Kernel gone: run the cell again to reconnect", kind: "off" };
  if (connection === "silent")
    return { text: "No kernel has answered yet: this is what was stored", kind: "off" };
  if (state.isGenerating) {
    const counted = progress ? `: ${progress.done} of ${progress.total}` : "";
    return { text: `Generating${counted}`, kind: "busy" };
  }
  const amount = progress?.total ? ` ${Math.round((100 * progress.done) / progress.total)} %` : "";
  if (running) return { text: `Running the model${amount}`, kind: "busy" };
  if (connection === "waiting") return { text: "Waiting for the kernel", kind: "busy" };
  if (traits.status.state === "working")
    return { text: `${traits.status.text || "Working"}${amount}`, kind: "busy" };
  if (["error", "connecting", "lost"].includes(traits.status.state))
    return { text: traits.status.text, kind: "off" };
  return { text: "Live", kind: "idle" };
}

/** The model, its next token, the fidelity badge and the state of the kernel. */
export function infoLine(app: App): Child {
  const state = app.get();
  const run = shownRun(state);
  const { text, kind } = activity(state);
  return h(
    "div.lw-info",
    run &&
      h(
        "span.lw-model",
        { title: `${run.n_layers} layers, ${run.d_vocab} tokens in the vocabulary` },
        `${run.model} · ${run.dtype}${run.quantization ? ` · ${run.quantization}` : ""}`,
      ),
    run && h("span", tokenCount(run.tokens.filter((id) => id >= 0).length)),
    run?.notes?.map((note) => h("span.lw-dim", { key: note }, note)),
    run && prediction(run),
    run?.predicts === "same" && h("span.lw-dim", "each cell says what stands at its position"),
    state.draft !== null && !state.running && h("span.lw-dim", "edited, not run"),
    h("span.lw-gap", {}),
    run && reused(run),
    run && badge(run),
    h("span", { class: `lw-state is-${kind}`, role: "status" }, text),
    kind === "busy" &&
      !state.running &&
      button("Stop", () => app.dispatch({ type: "stop" }), { className: "lw-small" }),
  );
}

/** The last error, in the kernel's own words. */
export function notice(app: App): Child {
  const { notice: text } = app.get();
  if (!text) return null;
  return h(
    "div.lw-notice",
    { role: "alert" },
    h("span", text),
    button("×", () => app.local({ notice: null }), { className: "lw-icon", title: "Dismiss" }),
  );
}
