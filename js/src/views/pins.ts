import { type Child, h } from "../base/dom.ts";
import { leaders } from "../cells/inhere.ts";
import { combine, storedAlong } from "../cells/trajectories.ts";
import type { Pin, RunInfo, TrajectoryMetric } from "../kernel/protocol.ts";
import { layerPhrase, UNKNOWN } from "../look/format.ts";
import { pinColor } from "../look/scales.ts";
import type { App } from "../state/context.ts";
import { chartedPositions, isOffline, promptLabel } from "../state/selectors.ts";
import { type Along, chart, type Line, overLayers, valueText } from "./chart.ts";
import { button, promptChip, select } from "./elements.ts";
import { searchBox } from "./search.ts";
import { spineColumn } from "./spine.ts";

function pinLines(
  app: App,
  pins: readonly Pin[],
  positions: readonly number[],
): { lines: Line[]; isExact: boolean } {
  const traits = app.traits();
  const { trajectory } = traits;
  const cells = app.cells();
  let isExact = true;
  const lines: Line[] = [];
  if (!cells) return { lines, isExact };
  for (const pin of pins) {
    positions.forEach((position, dash) => {
      const tracks = pin.ids.map((id) => app.trajectories.track(cells, traits, position, id));
      isExact &&= tracks.every((track) => track.isExact);
      const name = positions.length > 1 ? `${pin.label} at ${position}` : pin.label;
      lines.push({
        name,
        pin,
        color: pinColor(pin.color, app.theme()),
        dash,
        values: combine(tracks, trajectory.metric),
      });
    });
  }
  return { lines, isExact };
}

/** A pinned token's line along the prompt, in one layer, and where it rises most. */
function linesAlong(app: App, pins: readonly Pin[], layer: number): { lines: Line[]; isExact: boolean } {
  const traits = app.traits();
  const cells = app.cells();
  let isExact = true;
  if (!cells) return { lines: [], isExact };
  const { metric } = traits.trajectory;
  const { tokens } = cells.run;
  const lines = pins.map((pin) => {
    const tracks = pin.ids.map((id) => {
      const known = app.asides.along(cells, traits, layer, id);
      isExact &&= !!known;
      return known ?? storedAlong(cells, traits, layer, id);
    });
    const values = combine(tracks, metric);
    const rise = largestRise(combine(tracks, "prob"));
    const color = pinColor(pin.color, app.theme());
    return { name: pin.label, pin, color, dash: 0, values, ...(rise > 0 ? { rise } : {}) };
  });
  return { lines: tokens.length ? lines : [], isExact };
}

/** The place where values rise most from one to the next; 0 where they never do. */
export function largestRise(values: readonly number[]): number {
  let best = 0;
  let rise = 0;
  values.forEach((value, i) => {
    const step = value - (values[i - 1] ?? UNKNOWN);
    if (step > rise) [best, rise] = [i, step];
  });
  return best;
}

/** Along the tokens of a prompt. */
function overTokens(run: RunInfo): Along {
  const n = run.tokens.length;
  return {
    n,
    title: "Along the prompt",
    ends: ["first token", "last token"],
    name: (i) => (n > 40 ? `${i}` : `${i} ${promptLabel(run, i)[0]}`.slice(0, 9)),
  };
}

function pinChip(app: App, pin: Pin, index: number, lines: readonly Line[], now: number): Child {
  const { trajectory } = app.traits();
  const cells = app.cells();
  const mine = lines.filter((line) => line.pin === pin);
  // with several positions only the chart says which number belongs to which
  const value = mine.length > 1 ? undefined : mine[0]?.values[now];
  const forms = pin.ids.map((id) => cells?.label(id)[0] ?? `#${id}`).join(", ");
  return h(
    "li",
    {
      key: `${pin.ids}`,
      class: "lw-pin",
      style: { "--lw-pin": pinColor(pin.color, app.theme()) },
      title: pin.ids.length > 1 ? `Sum of ${forms}` : `id ${pin.ids[0]}`,
    },
    h("i.lw-dotmark", {}),
    h("bdi.lw-token", { dir: "auto" }, pin.label),
    pin.ids.length > 1 && h("span.lw-dim", `×${pin.ids.length}`),
    value !== undefined && h("span.lw-num", valueText(trajectory.metric, value)),
    pin.ids.length === 1 &&
      button("Σ", () => app.dispatch({ type: "group", index }), {
        className: "lw-icon",
        title: `Sum with the other forms of ${pin.label}`,
      }),
    button("×", () => app.dispatch({ type: "unpin", index }), {
      className: "lw-icon",
      title: `Unpin ${pin.label}`,
    }),
  );
}

/** A token that led in an upper layer, to be pinned with a press. */
function leaderChip(app: App, pin: Pin, lines: readonly Line[], now: number): Child {
  const { trajectory } = app.traits();
  const value = lines.find((line) => line.pin === pin)?.values[now];
  return h(
    "li",
    {
      key: `${pin.ids}`,
      class: "lw-pin is-led",
      style: { "--lw-pin": pinColor(pin.color, app.theme()) },
      title: `id ${pin.ids[0]}: led in an upper layer`,
    },
    h("i.lw-dotmark", {}),
    h("bdi.lw-token", { dir: "auto" }, pin.label),
    value !== undefined && h("span.lw-num", valueText(trajectory.metric, value)),
    button("+", () => app.dispatch({ type: "pin", ids: pin.ids, label: pin.label }), {
      className: "lw-icon",
      title: `Pin ${pin.label}`,
    }),
  );
}

function positionChips(app: App, run: RunInfo, positions: readonly number[]): Child {
  const { trajectory } = app.traits();
  const isFollowing = !trajectory.positions.length;
  const set = (next: readonly number[]) => app.set({ trajectory: { ...trajectory, positions: next } });
  return h(
    "span.lw-positions",
    isFollowing ? "at position " : "at ",
    positions.map((position) => {
      const token = promptChip(run, position);
      if (isFollowing) return h("span", { key: position }, `${position} `, token);
      const title = `Stop charting position ${position}`;
      return h(
        "button",
        {
          key: position,
          type: "button",
          class: "lw-button lw-small",
          title,
          "aria-label": title,
          on: { click: () => set(positions.filter((p) => p !== position)) },
        },
        `${position} `,
        token,
        " ×",
      );
    }),
    isFollowing &&
      button("Hold", () => set(positions), {
        className: "lw-small",
        title: "Keep charting this position (t adds one)",
      }),
  );
}

const OVERS = [
  ["layers", "layers"],
  ["tokens", "tokens"],
] as const;

/** In which layer the prompt is followed, and where each token rises most. */
function rises(run: RunInfo, lines: readonly Line[], layer: number): Child {
  const risen = lines.filter(({ rise }) => rise);
  return h(
    "span.lw-positions",
    `in ${layerPhrase(layer, run)}`,
    risen.map(({ name, rise = 0 }) => [
      h("span", { key: name }, ` · ${name} rises most at ${rise} `, promptChip(run, rise)),
    ]),
  );
}

/** The pinned tokens and their trajectories over the layers, or along the prompt. */
export function pinsView(app: App, run: RunInfo, width_px: number): Child {
  const { traits, focus, pinSearch } = app.get();
  const { trajectory } = traits;
  const positions = chartedPositions(traits, focus, run);
  const cells = app.cells();
  const isLed = !traits.pins.length;
  // until something is pinned, what led in the upper layers
  const pins = isLed && cells ? leaders(cells, traits, positions[0] ?? 0) : traits.pins;
  const layer = (focus ?? traits.selection)?.layer ?? run.n_layers - 1;
  const isAlong = trajectory.over === "tokens";
  const { lines, isExact } = isAlong ? linesAlong(app, pins, layer) : pinLines(app, pins, positions);
  const now = isAlong ? spineColumn({ focus, traits }, run) : layer + 1;
  const pick = (i: number) => {
    const cell = isAlong ? { layer, position: i } : { layer: i - 1, position: positions[0] ?? 0 };
    app.dispatch({ type: "focus", cell });
  };
  const metrics = [
    ["prob", "Probability"],
    ["log_prob", "Log-prob"],
    ["rank", "Rank"],
  ] as const;
  return h(
    "section.lw-pins",
    { "aria-label": "Pinned tokens" },
    h(
      "div.lw-pinbar",
      pins.length > 0 &&
        h(
          "ul.lw-pinlist",
          pins.map((pin, index) =>
            isLed ? leaderChip(app, pin, lines, now) : pinChip(app, pin, index, lines, now),
          ),
        ),
      searchBox(app, "pins", pinSearch, {
        placeholder: "Pin a token…",
        pick: ({ id, label }) => app.dispatch({ type: "pin", ids: [id], label: label[0] }),
      }),
    ),
    pins.length > 0 && [
      h(
        "div.lw-chartbar",
        select("Chart", trajectory.metric, metrics, (metric) =>
          app.set({ trajectory: { ...trajectory, metric: metric as TrajectoryMetric } }),
        ),
        select("Over", trajectory.over ?? "layers", OVERS, (over) =>
          app.set({ trajectory: { ...trajectory, over: over as "layers" | "tokens" } }),
        ),
        isAlong ? rises(run, lines, layer) : positionChips(app, run, positions),
        isLed && h("span.lw-dim", "tokens that led in the upper layers, until some are pinned"),
        !isExact &&
          h(
            "span.lw-dim",
            isOffline(app.get()) ? "stored top tokens only: gaps are not computed" : "fetching…",
          ),
      ),
      chart({
        lines,
        metric: trajectory.metric,
        along: isAlong ? overTokens(run) : overLayers(run),
        d_vocab: run.d_vocab,
        width_px,
        at: now,
        pick,
      }),
    ],
  );
}
