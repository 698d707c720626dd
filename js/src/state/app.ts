import { whenClosed } from "../base/events.ts";
import { createStore } from "../base/store.ts";
import { Cells } from "../cells/cells.ts";
import { createLoader } from "../cells/loader.ts";
import { readTile } from "../cells/packed.ts";
import { createTrajectories, type Wish } from "../cells/trajectories.ts";
import type { Binary, Card, ReadoutHeader, Traits } from "../kernel/protocol.ts";
import { runOf } from "../kernel/traits.ts";
import { createTransport, type HostModel } from "../kernel/transport.ts";
import type { Viewport } from "../look/layout.ts";
import type { Theme } from "../look/scales.ts";
import type { App, Local } from "./context.ts";
import { Effects, refOf } from "./effects.ts";
import { type Action, reduce } from "./reduce.ts";
import { chartedPositions, isOffline } from "./selectors.ts";
import { initialState, type State } from "./state.ts";
import { listen, push, readTraits } from "./sync.ts";

const WAITING_AFTER_MS = 900;

function addSnapshot(cells: Cells | null, { traits: { snapshot } }: State): void {
  if (!cells || !("header" in snapshot)) return;
  cells.add(readTile(snapshot.header as ReadoutHeader, snapshot.buffers as Binary[]));
}

/** The cells of a run, with what its snapshot brings. */
function cellsOf(state: State): Cells | null {
  const run = runOf(state.traits);
  const cells = run && new Cells(run);
  addSnapshot(cells, state);
  return cells;
}

function isReadout(value: unknown): value is ReadoutHeader {
  return typeof value === "object" && value !== null && "arrays" in value && "positions" in value;
}

export function createApp(model: HostModel, draw: (app: App) => void, signal: AbortSignal): App {
  const first = initialState(readTraits(model));
  let cells = cellsOf(first);
  let viewport: Viewport | null = null;
  let theme: Theme = "light";
  let frame = 0;
  let isDrawing = false;
  let waitTimer: ReturnType<typeof setTimeout> | undefined;

  const transport = createTransport(
    model,
    {
      progress: (id, done, total) => local({ progress: { id, done, total } }),
      replyToOtherView: (value, buffers) => {
        if (isReadout(value) && cells?.add(readTile(value, buffers))) store.dispatch({ type: "arrived" });
      },
      alive: () => {
        clearTimeout(waitTimer);
        waitTimer = undefined;
        const { connection } = store.get();
        if (connection === "waiting" || connection === "gone") {
          local({ connection: "live" });
        }
        // replies come one by one, so look again once this one is dealt with
        queueMicrotask(watchWaiting);
      },
    },
    signal,
  );
  const store = createStore<State, Action>(first, reduce, (action, before, after) => {
    if (runOf(before.traits)?.id !== runOf(after.traits)?.id) cells = cellsOf(after);
    else if (before.traits.snapshot !== after.traits.snapshot) addSnapshot(cells, after);
    effects.after(action, before, after);
    // opening a cell sends a decode, with which the kernel sets the selection itself
    if (action.type !== "traits" && action.type !== "open" && before.traits !== after.traits)
      push(model, before.traits, after.traits);
    watchWaiting();
    if (before !== after) schedule();
  });

  function watchWaiting(): void {
    if (waitTimer !== undefined || !transport.pending().length || store.get().connection !== "live") return;
    waitTimer = setTimeout(() => {
      waitTimer = undefined;
      const { running, connection } = store.get();
      if (transport.pending().length && !running && connection === "live") local({ connection: "waiting" });
    }, WAITING_AFTER_MS);
  }

  function schedule(): void {
    if (!frame && !signal.aborted && !store.get().isPatient) frame = requestAnimationFrame(flush);
  }

  function flush(): void {
    cancelAnimationFrame(frame);
    frame = 0;
    if (signal.aborted) return;
    isDrawing = true;
    draw(app);
    isDrawing = false;
    ask();
  }

  /** Ask for what the page now shows and lacks. */
  function ask(): void {
    const state = store.get();
    const { traits, connection, focus } = state;
    if (isOffline(state) || connection === "gone" || !cells) return;
    loader.update(cells, traits, viewport);
    const { site, lens, pins } = traits;
    const positions = chartedPositions(traits, focus, cells.run);
    const wishes: Wish[] = [{ site, lens, positions, ids: [...new Set(pins.flatMap((pin) => pin.ids))] }];
    for (const [key, { site, lens, tracked: ids }] of Object.entries(state.cards)) {
      const ref = refOf(state, key);
      if (ref) wishes.push({ site, lens, positions: [ref.position], ids });
    }
    trajectories.want(cells, wishes);
    watchWaiting();
  }

  const local = (patch: Local) => store.dispatch({ type: "local", patch });
  const arrived = () => store.dispatch({ type: "arrived" });
  const failed = (notice: string) => local({ notice });
  const loader = createLoader(transport, { arrived, failed });
  const trajectories = createTrajectories(transport, arrived);

  const app: App = {
    transport,
    trajectories,
    signal,
    get: store.get,
    traits: () => store.get().traits,
    dispatch: store.dispatch,
    set: (traits) => store.dispatch({ type: "set", traits }),
    local,
    cells: () => cells,
    theme: () => theme,
    setTheme(next) {
      theme = next;
      schedule();
    },
    setViewport(next) {
      viewport = next;
      if (!isDrawing) ask();
    },
    flush,
    kernelCard: () => model.get("decoded") as Card | null,
    tellSelection() {
      const { selection } = store.get().traits;
      model.set("selection", selection && { ...selection });
      model.save_changes();
    },
  };
  const effects = new Effects(app);
  const heard = (all: Partial<Traits>) => {
    const { selection, decoded, ...others } = all;
    const cell = decoded ?? selection;
    const traits = cell && effects.isStale(cell) ? others : all;
    store.dispatch({ type: "traits", traits });
    // a card is what was clicked for: draw it now rather than with the next frame
    if ("decoded" in traits) flush();
  };
  listen(model, heard, signal);
  const gone = () => {
    local({ connection: "gone" });
    transport.drop();
  };
  onDisconnect(model, gone, signal);
  whenClosed(signal, () => {
    cancelAnimationFrame(frame);
    clearTimeout(waitTimer);
  });
  return app;
}

/** Hosts on ipywidgets' base manager say so when a restart cuts the comm. */
function onDisconnect(model: HostModel, gone: () => void, signal: AbortSignal): void {
  model.on("comm_live_update", gone);
  whenClosed(signal, () => model.off("comm_live_update", gone));
}
