import { type Child, h } from "../base/dom.ts";
import type { App } from "../state/context.ts";
import { isOffline, shownRun } from "../state/selectors.ts";
import type { Continuing } from "../state/state.ts";
import { button, checkbox, toggle } from "./elements.ts";

/** The button that continues the prompt, and the one that shows how. */
export function continueButton(app: App): Child {
  const state = app.get();
  const run = shownRun(state);
  const isFixed = run?.extras.length || state.traits.frames.length;
  if (!run || run.predicts === "same" || isFixed || isOffline(state)) return null;
  const { n_tokens, temperature, top_p, seed } = state.continuing;
  const how = temperature ? `temperature ${temperature}, top-p ${top_p}, seed ${seed}` : "greedily";
  const some = run.edits?.some(({ is_on }) => is_on);
  const edits = run.edits?.some(({ is_on, generated }) => is_on && generated)
    ? ". Edits of generated positions are made at each new token, the others at the prompt only"
    : ". The edits are made at the prompt only";
  return h(
    "span.lw-continue",
    button("Continue", () => app.dispatch({ type: "generate" }), {
      title: `Generate ${n_tokens} tokens ${how}${some ? edits : ""}`,
    }),
    button("▾", () => toggle(app, "continue"), {
      className: "lw-icon",
      title: "How to continue",
      expanded: state.panel === "continue",
    }),
  );
}

/** The choice whether the grid follows the prompt as it is typed. */
export function liveBox(app: App): Child {
  const { isLive } = app.get();
  return h(
    "span.lw-live",
    { title: "Run the prompt while it is typed; only what changed is run" },
    checkbox("Live typing", isLive, (live) => app.local({ isLive: live })),
  );
}

/** How the prompt is continued. */
export function continuePanel(app: App): Child {
  const { panel, continuing } = app.get();
  if (panel !== "continue") return null;
  const field = (name: keyof Continuing, label: string, min: number, max: number, step: number) =>
    h(
      "label.lw-field",
      h("span", label),
      h("input", {
        type: "number",
        min,
        max,
        step,
        value: String(continuing[name]),
        on: {
          change: (event: Event) => {
            const value = Number((event.target as HTMLInputElement).value);
            if (value >= min && value <= max)
              app.local({ continuing: { ...app.get().continuing, [name]: value } });
          },
        },
      }),
    );
  return h(
    "div.lw-panel lw-menu",
    { role: "group", "aria-label": "How to continue" },
    field("n_tokens", "Tokens", 1, 1000, 1),
    field("temperature", "Temperature (0: greedy)", 0, 10, 0.1),
    field("top_p", "Top-p", 0.01, 1, 0.01),
    field("seed", "Seed", 0, 2 ** 31 - 1, 1),
  );
}
