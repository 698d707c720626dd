import type { Viewport } from "../look/viewport.ts";
import type { App } from "./context.ts";
import type { Action } from "./reduce.ts";
import { asSource, isOffline, sourceRun } from "./selectors.ts";
import type { MapForm, State } from "./state.ts";

/** Run the prompt that patches are taken from; null lets it go. */
export async function runSource(app: App, prompt: string | null): Promise<void> {
  // letting it go waits for nothing
  if (prompt !== null && app.get().running) return;
  const pending = app.transport.request("source", { prompt });
  app.local({
    ...(prompt === null ? {} : { running: pending.id }),
    notice: null,
    said: "Running the second prompt",
  });
  try {
    await pending.reply;
    app.local({
      ...(prompt === null ? {} : { running: null }),
      said: prompt === null ? "The second prompt is let go" : "The second prompt is ready",
      sourceDraft: null,
      mapForm: null,
    });
  } catch (error) {
    const notice = (error as Error).message;
    app.local({ ...(prompt === null ? {} : { running: null }), notice, said: notice });
  }
}

/** Measure the causal map of the shown run; it grows in the grid meanwhile. */
export async function startMap(app: App, form: MapForm): Promise<void> {
  const { mapping, traits } = app.get();
  if (mapping) return;
  const { site } = traits;
  const pending = app.transport.request("map", { ...form, site });
  app.local({ mapping: pending.id, notice: null, said: "Measuring the map" });
  app.set({ view: "map" });
  try {
    await pending.reply;
    app.local({ mapping: null, progress: null, said: "The map is measured" });
  } catch (error) {
    const notice = app.get().mapping ? (error as Error).message : "";
    app.local({ mapping: null, progress: null, notice: notice || null, said: notice });
  }
}

/** Stop the map that is under way; what is measured stays. */
export function stopMap(app: App): void {
  const { mapping: target } = app.get();
  if (!target) return;
  app.local({ said: "Stopping the map" });
  app.transport.request("cancel", { target }).reply.catch(() => {});
}

/** The app as the second prompt's grid sees it: the same view, of the other run, with a focus of its own. */
export function sourceApp(app: App, width_px: () => number | undefined): App {
  let last: { state: State; width: number | undefined; own: State } | null = null;
  const get = (): State => {
    const state = app.get();
    const width = width_px();
    if (last?.state === state && last.width === width) return last.own;
    const traits = asSource(state.traits);
    const column_width_px = width ?? traits.column_width_px;
    const own = {
      ...state,
      shown: sourceRun(state)?.id ?? null,
      focus: state.sourceFocus,
      dropAt: null,
      traits: { ...traits, column_width_px },
    };
    last = { state, width, own };
    return own;
  };
  return {
    ...app,
    get,
    traits: () => get().traits,
    cells: (run_id) => app.cells(run_id ?? sourceRun(app.get())?.id ?? ""),
    dispatch(action: Action) {
      if (action.type === "focus") app.local({ sourceFocus: action.cell });
      else if (action.type !== "open") app.dispatch(action);
    },
    setViewport: (viewport: Viewport) => app.setSourceViewport(viewport),
  };
}

/** Whether the second prompt can be asked for: there is a kernel, and the grid is not one of two runs. */
export function canPatch(state: State): boolean {
  const run = state.shown === null ? null : state.runs.get(state.shown);
  return !isOffline(state) && !run?.compared;
}
