import { type Child, h } from "../base/dom.ts";
import { clamp } from "../look/format.ts";
import type { App } from "../state/context.ts";
import { isOffline } from "../state/selectors.ts";
import { playControls } from "./spine.ts";

/** Show the next run of a film, or the one before; false at its ends. */
export function stepFrame(app: App, by: number): boolean {
  const { traits, wishedFrame } = app.get();
  const now = wishedFrame ?? traits.frame;
  const frame = clamp(now + by, 0, traits.frames.length - 1);
  if (frame !== now) app.dispatch({ type: "frame", frame });
  return frame !== now;
}

/** The scrubber of a film: which of its runs is shown. */
export function filmView(app: App): Child {
  const { traits, wishedFrame } = app.get();
  const { frames } = traits;
  if (!frames.length) return null;
  const now = wishedFrame ?? traits.frame;
  const name = frames[now] ?? "";
  const move = (event: Event) =>
    app.dispatch({ type: "frame", frame: Number((event.target as HTMLInputElement).value) });
  return h(
    "section.lw-film",
    { key: "film", "aria-label": "Film" },
    playControls(app, "frames", (by) => stepFrame(app, by)),
    h("input.lw-scrub", {
      type: "range",
      min: 0,
      max: frames.length - 1,
      step: 1,
      value: String(now),
      disabled: isOffline(app.get()),
      "aria-label": "Run",
      "aria-valuetext": `${now + 1} of ${frames.length}: ${name}`,
      on: { input: move },
    }),
    h("span.lw-framename", h("bdi", { dir: "auto" }, name)),
    h("span.lw-dim", `${now + 1} of ${frames.length}`),
  );
}
