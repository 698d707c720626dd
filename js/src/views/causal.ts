import { type Child, h } from "../base/dom.ts";
import { effectAt } from "../cells/fields.ts";
import type { CausalInfo, CellRef, RunInfo } from "../kernel/protocol.ts";
import { fixed, layerName, quoted } from "../look/format.ts";
import type { App } from "../state/context.ts";
import { startMap, stopMap } from "../state/patching.ts";
import { isOffline, promptLabel, shownRun, sourceRun } from "../state/selectors.ts";
import type { MapForm } from "../state/state.ts";
import { candidates, patchHere, removeHere } from "./editing.ts";
import { button, select } from "./elements.ts";

const SCATTER_PX = 120;
const N_WORST = 3;

/** The map that is shown, if there is one. */
export function causalOf(app: App): CausalInfo | null {
  const { causal } = app.traits();
  return "answer" in causal ? (causal as CausalInfo) : null;
}

/** Open a cell; on a map, also make the patch that was measured there. */
export function openCell(app: App, cell: CellRef): void {
  app.dispatch({ type: "open", cell });
  const map = causalOf(app);
  const state = app.get();
  const run = shownRun(state);
  if (!map || !run || app.traits().view !== "map" || isOffline(state) || cell.layer < 0) return;
  if (effectAt(map, cell.layer, cell.position) === undefined) return;
  const source = sourceRun(state);
  if (map.ablate) removeHere(app, map.ablate, map.site, cell);
  else if (source) {
    const taken = { ...cell, run_id: source.id, site: map.site, text: "" };
    patchHere(app, taken, cell, (edit) => edit.taken?.run_id === source.id);
  }
}

/** The tokens that a map is asked for, until others are chosen: what either prompt answers. */
function formOf(app: App, source: RunInfo | null, run: RunInfo): MapForm {
  const own = run.edited?.effect.id ?? run.next.id;
  const answer = source?.next.id ?? own;
  const ablate = source ? null : "zero";
  return app.get().mapForm ?? { answer, foil: answer === own ? null : own, ablate };
}

/** The form of a causal map: what it is measured for, its progress, and where its estimate is wrong. */
export function mapForm(app: App, run: RunInfo): Child {
  const state = app.get();
  const source = sourceRun(state);
  const form = formOf(app, source, run);
  const cells = app.cells();
  const set = (patch: Partial<MapForm>) => app.local({ mapForm: { ...form, ...patch } });
  const last = { layer: run.n_layers - 1, position: run.tokens.length - 1 };
  const ids = [form.answer, ...(form.foil === null ? [] : [form.foil]), ...candidates(app, last)];
  const labelOf = (id: number) => source?.labels[String(id)]?.[0] ?? cells?.label(id)[0] ?? `#${id}`;
  const tokens = [...new Set([...ids, ...(source ? [source.next.id] : [])])].map(
    (id) => [String(id), labelOf(id)] as const,
  );
  const { mapping, progress } = state;
  const how = [
    ...(source ? [["patch", "patching"] as const] : []),
    ["zero", "zeroing"],
    ["mean", "mean"],
  ] as const;
  return h(
    "div.lw-mapform",
    { key: "map", role: "group", "aria-label": "Causal map" },
    h("strong", "Causal map"),
    select("by", form.ablate ?? "patch", how, (by) =>
      set({ ablate: by === "zero" || by === "mean" ? by : null }),
    ),
    select("answer", String(form.answer), tokens, (id) => set({ answer: Number(id) })),
    select("against", String(form.foil ?? ""), [["", "all tokens"], ...tokens], (id) =>
      set({ foil: id === "" ? null : Number(id) }),
    ),
    mapping
      ? [
          h("progress", {
            key: "progress",
            max: String(progress?.id === mapping ? progress.total : 1),
            value: String(progress?.id === mapping ? progress.done : 0),
            "aria-label": "Cells measured",
          }),
          button("Stop", () => stopMap(app), { className: "lw-small", title: "Stop the map" }),
        ]
      : button("Map", () => void startMap(app, form), { className: "lw-primary" }),
  );
}

interface Pair {
  readonly cell: CellRef;
  readonly estimate: number;
  readonly measured: number;
}

function pairsOf({ layers, positions, estimate, measured }: CausalInfo): Pair[] {
  const pairs: Pair[] = [];
  layers.forEach((layer, row) => {
    positions.forEach((position, column) => {
      const at = row * positions.length + column;
      const [guess, found] = [estimate[at], measured[at]];
      if (guess != null && found != null)
        pairs.push({ cell: { layer, position }, estimate: guess, measured: found });
    });
  });
  return pairs;
}

function scatter(pairs: readonly Pair[]): Child {
  const all = pairs.flatMap(({ estimate, measured }) => [estimate, measured]);
  const [low, high] = [Math.min(0, ...all), Math.max(0.1, ...all)];
  const at = (value: number) => (SCATTER_PX * (value - low)) / (high - low);
  return h(
    "svg.lw-scatter",
    {
      width: SCATTER_PX,
      height: SCATTER_PX,
      role: "img",
      "aria-label": `Estimate (across) against measurement (up) of ${pairs.length} cells`,
    },
    h("line", {
      x1: 0,
      y1: SCATTER_PX,
      x2: SCATTER_PX,
      y2: 0,
      stroke: "currentColor",
      "stroke-opacity": "0.4",
    }),
    pairs.map(({ cell, estimate, measured }) =>
      h("circle", {
        key: `${cell.layer} ${cell.position}`,
        cx: at(estimate),
        cy: SCATTER_PX - at(measured),
        r: 2,
        fill: "currentColor",
        "fill-opacity": "0.5",
      }),
    ),
  );
}

/** How the estimate compares with what was measured: a scatter, and the cells where it is furthest off. */
export function mapCheck(app: App, run: RunInfo): Child {
  const map = causalOf(app);
  if (!map || app.traits().view !== "map") return null;
  const pairs = pairsOf(map);
  const n = map.layers.length * map.positions.length;
  const worst = [...pairs]
    .sort((a, b) => Math.abs(b.estimate - b.measured) - Math.abs(a.estimate - a.measured))
    .slice(0, N_WORST);
  const place = ({ layer, position }: CellRef) =>
    `layer ${layerName(layer, run)}, ${quoted(promptLabel(run, position))}`;
  return h(
    "div.lw-mapcheck",
    { key: "check" },
    pairs.length > 1 && scatter(pairs),
    h(
      "div",
      h("p", `${pairs.length} of ${n} cells measured${map.is_done ? "" : "…"}; the others are estimates.`),
      !!worst.length && h("p.lw-dim", "The estimate is furthest off at"),
      h(
        "ul",
        worst.map((pair) =>
          h(
            "li",
            { key: place(pair.cell) },
            button(place(pair.cell), () => openCell(app, pair.cell), { className: "lw-small" }),
            ` estimate ${fixed(pair.estimate)}, measured ${fixed(pair.measured)}`,
          ),
        ),
      ),
    ),
  );
}
