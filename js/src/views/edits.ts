import { type Child, h } from "../base/dom.ts";
import type { EditInfo, EditOp, EditRequest, JsonNumber, RunInfo, View } from "../kernel/protocol.ts";
import { asPercent, layerName, quoted } from "../look/format.ts";
import type { App } from "../state/context.ts";
import { isOffline, keptEdits, promptLabel, shownRun } from "../state/selectors.ts";
import type { Editor } from "../state/state.ts";
import { viewButtons } from "./compared.ts";
import { applyEditor, candidates, OPS } from "./editing.ts";
import { button, select, tokenChip } from "./elements.ts";

/** Strengths that a slider spans; a scale's is its factor. */
const SPANS: Partial<Record<EditOp, readonly [min: number, max: number]>> = {
  scale: [-2, 4],
  steer: [-4, 4],
  add: [-4, 4],
};
const SIGNS: Record<EditOp, string> = {
  zero: "→ 0",
  mean: "→ mean",
  scale: "×",
  add: "+ vector",
  steer: "+",
  project_out: "−",
  swap: "⇄",
  patch: "← patch",
};

/** Several numbers as a range where they follow each other: "14", "3–5", "1, 4". */
function listed(values: readonly number[], name: (value: number) => string): string {
  const [first, last] = [values[0], values.at(-1)];
  if (first === undefined || last === undefined) return "none";
  if (values.length > 2 && last - first === values.length - 1) return `${name(first)}–${name(last)}`;
  return values.map(name).join(", ");
}

/** Where an edit is and what it does, in few words: "L14 mlp_out · “␣Tower” → 0". */
export function editText(edit: EditInfo, run: RunInfo): string {
  const { op, layers, positions, tokens, source, heads, neurons } = edit;
  const units = heads
    ? ` head ${listed(heads, String)}`
    : neurons
      ? ` neuron ${listed(neurons, String)}`
      : "";
  const site = edit.site + units;
  const at =
    positions.length === run.tokens.length
      ? "everywhere"
      : positions.length > 3
        ? listed(positions, String)
        : listed(positions, (position) => quoted(promptLabel(run, position)));
  const of = tokens.map(({ label }) => quoted(label)).join(" ");
  const from =
    source === null ? "" : ` from ${JSON.stringify(source.length > 24 ? `…${source.slice(-24)}` : source)}`;
  return `${listed(layers, (layer) => layerName(layer, run))} ${site} · ${at} ${SIGNS[op]} ${of}${from}`.trim();
}

/** The edits of a run as they will be: with what was asked for and is not run yet. */
function asked(app: App, run: RunInfo): readonly EditRequest[] {
  const kept = keptEdits(run);
  const { wished } = app.get();
  return wished?.length === kept.length ? wished : kept;
}

function chip(app: App, run: RunInfo, edit: EditInfo, index: number): Child {
  const now = asked(app, run);
  const change = (patch: { strength?: number; is_on?: boolean } | null) => {
    const edits = asked(app, run).flatMap((one, i) =>
      i === index ? (patch ? [{ ...one, ...patch }] : []) : [one],
    );
    app.dispatch({ type: "edits", edits });
  };
  const [min, max] = SPANS[edit.op] ?? [0, 1];
  const { strength = 1, is_on = true } = now[index] ?? {};
  const text = editText(edit, run);
  // a film's runs have the edits that they were given with
  const disabled = isOffline(app.get()) || app.traits().frames.length > 0;
  return h(
    "li",
    { key: `edit ${index}`, class: is_on ? "lw-edit" : "lw-edit is-off" },
    h("input", {
      type: "checkbox",
      checked: is_on,
      disabled,
      "aria-label": `On: ${text}`,
      on: { change: (event: Event) => change({ is_on: (event.target as HTMLInputElement).checked }) },
    }),
    h("bdi", text),
    h("input", {
      type: "range",
      min: String(Math.min(min, strength)),
      max: String(Math.max(max, strength)),
      step: "0.05",
      value: String(strength),
      disabled: disabled || !is_on,
      "aria-label": `Strength: ${text}`,
      on: { input: (event: Event) => change({ strength: Number((event.target as HTMLInputElement).value) }) },
    }),
    h("output", strength.toFixed(2)),
    !disabled && button("×", () => change(null), { className: "lw-icon", title: `Remove the edit ${text}` }),
  );
}

/** What the edits did to the model's answer: before, after, and the control in grey. */
function effectOf(run: RunInfo): Child {
  const { effect } = run.edited ?? {};
  if (!effect?.label) return null;
  const percent = (value: JsonNumber) => asPercent(value);
  return h(
    "span.lw-effect",
    h("strong", h("bdi", quoted(effect.label))),
    ` ${percent(effect.before)} → `,
    h("strong", percent(effect.after)),
    effect.control !== null && h("span.lw-dim", ` control ${percent(effect.control)}`),
  );
}

function proofOf(run: RunInfo): Child {
  const { proof } = run.edited ?? {};
  if (!proof?.n_untouched) return null;
  const text = proof.ok
    ? `✓ ${proof.n_equal} untouched cells bit-equal`
    : `⚠ ${proof.n_untouched - proof.n_equal} of ${proof.n_untouched} untouched cells differ`;
  return h(
    "span",
    {
      class: `lw-badge ${proof.ok ? "is-ok" : "is-bad"}`,
      title: proof.text,
      tabindex: "0",
      role: "img",
      "aria-label": `Proof: ${proof.text}`,
    },
    text,
  );
}

const VIEWS: readonly (readonly [View, string])[] = [
  ["before", "before"],
  ["after", "after"],
  ["difference", "difference"],
];

/** The edits of the run, what they did, and which of its sides the grid shows. */
export function editsBar(app: App): Child {
  const state = app.get();
  const run = shownRun(state);
  const { yanked } = state;
  if (!run || (!run.edits?.length && !yanked)) return null;
  const views: (readonly [View, string])[] = [...VIEWS];
  if (run.edited?.control_id) views.push(["control", "control"]);
  if ("answer" in app.traits().causal) views.push(["map", "map"]);
  return h(
    "section.lw-edits",
    { key: "edits", "aria-label": "Edits" },
    !!run.edits?.length &&
      h(
        "ul",
        run.edits.map((edit, index) => chip(app, run, edit, index)),
      ),
    run.edited && [
      viewButtons(app, views, app.traits().view),
      effectOf(run),
      h("span.lw-gap", { key: "gap" }),
      proofOf(run),
    ],
    yanked &&
      h(
        "span.lw-dim",
        { key: "yanked" },
        `taken: ${yanked.text}; P puts it at a cell `,
        button("×", () => app.local({ yanked: null }), {
          className: "lw-icon",
          title: "Let the taken cell go",
        }),
      ),
  );
}

function tokenChoice(app: App, form: Editor, index: number): Child {
  const cells = app.cells();
  const ids = [...new Set([...form.tokens, ...candidates(app, form.cell)])];
  return select(
    index ? "with" : "token",
    String(form.tokens[index] ?? ""),
    ids.map((id) => [String(id), cells?.label(id)[0] ?? `#${id}`] as const),
    (value) => {
      const tokens = [...form.tokens];
      tokens[index] = Number(value);
      app.local({ editor: { ...form, tokens } });
    },
  );
}

/** The form of a new edit. */
export function editor(app: App): Child {
  const state = app.get();
  const { editor: form } = state;
  const run = shownRun(state);
  if (!form || !run) return null;
  const { cell, op, site, strength } = form;
  const set = (patch: Partial<Editor>) => app.local({ editor: { ...form, ...patch } });
  const ops = Object.entries(OPS).map(([name, { text }]) => [name, text] as const);
  const n_tokens = OPS[op]?.n_tokens ?? 0;
  const sites = cell.layer < 0 ? ["resid_post"] : run.sites;
  return h(
    "section.lw-panel lw-editor",
    { key: "editor", "aria-label": "Edit the run" },
    h(
      "span",
      "Edit ",
      h("strong", cell.layer < 0 ? "embedding" : `layer ${cell.layer}`),
      " at ",
      tokenChip(promptLabel(run, cell.position), run.tokens[cell.position] ?? -1),
    ),
    select("What", op, ops, (value) => {
      const next = value as EditOp;
      set({ op: next, strength: OPS[next]?.strength ?? 1 });
    }),
    Array.from({ length: n_tokens }, (_, index) => tokenChoice(app, form, index)),
    select("Site", site, sites, (value) => set({ site: value })),
    h(
      "label.lw-field",
      h("span", op === "scale" ? "Factor" : "Strength"),
      h("input", {
        type: "number",
        step: "0.1",
        value: String(strength),
        on: {
          input: (event: Event) => {
            const value = Number((event.target as HTMLInputElement).value);
            if (Number.isFinite(value)) set({ strength: value });
          },
        },
      }),
    ),
    button("Apply", () => applyEditor(app, form), { className: "lw-primary" }),
    button("×", () => app.local({ editor: null }), { className: "lw-icon", title: "Close (Escape)" }),
  );
}
