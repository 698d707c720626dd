import { type Child, h } from "../base/dom.ts";
import { leaders } from "../cells/inhere.ts";
import { combine } from "../cells/trajectories.ts";
import type { Pin, RunInfo, TrajectoryMetric } from "../kernel/protocol.ts";
import { pinColor } from "../look/scales.ts";
import type { App } from "../state/context.ts";
import { chartedPositions, isOffline } from "../state/selectors.ts";
import { chart, type Line, valueText } from "./chart.ts";
import { button, promptChip, select } from "./elements.ts";
import { searchBox } from "./search.ts";

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

function pinChip(app: App, pin: Pin, index: number, lines: readonly Line[], layer: number): Child {
  const { trajectory } = app.traits();
  const cells = app.cells();
  const mine = lines.filter((line) => line.pin === pin);
  // with several positions only the chart says which number belongs to which
  const value = mine.length > 1 ? undefined : mine[0]?.values[layer + 1];
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
function leaderChip(app: App, pin: Pin, lines: readonly Line[], layer: number): Child {
  const { trajectory } = app.traits();
  const value = lines.find((line) => line.pin === pin)?.values[layer + 1];
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

/** The pinned tokens and their trajectories over the layers. */
export function pinsView(app: App, run: RunInfo, width_px: number): Child {
  const { traits, focus, pinSearch } = app.get();
  const { trajectory } = traits;
  const positions = chartedPositions(traits, focus, run);
  const cells = app.cells();
  const isLed = !traits.pins.length;
  // until something is pinned, what led in the upper layers
  const pins = isLed && cells ? leaders(cells, traits, positions[0] ?? 0) : traits.pins;
  const { lines, isExact } = pinLines(app, pins, positions);
  const layer = (focus ?? traits.selection)?.layer ?? run.n_layers - 1;
  const pick = (next: number) =>
    app.dispatch({ type: "focus", cell: { layer: next, position: positions[0] ?? 0 } });
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
            isLed ? leaderChip(app, pin, lines, layer) : pinChip(app, pin, index, lines, layer),
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
        positionChips(app, run, positions),
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
        n_layers: run.n_layers,
        d_vocab: run.d_vocab,
        rows: run.rows,
        width_px,
        layer,
        pick,
      }),
    ],
  );
}
