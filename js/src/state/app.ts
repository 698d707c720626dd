import { whenClosed } from "../base/events.ts";
import { createStore } from "../base/store.ts";
import { Asides } from "../cells/asides.ts";
import type { Cells } from "../cells/cells.ts";
import { createFloors } from "../cells/floors.ts";
import { leaders } from "../cells/inhere.ts";
import { createLoader } from "../cells/loader.ts";
import type { Tile } from "../cells/packed.ts";
import { RunCells } from "../cells/runCells.ts";
import { createTrajectories, type Wish } from "../cells/trajectories.ts";
import type { Binary, ReadoutHeader, Snapshot } from "../kernel/protocol.ts";
import { TRAIT_NAMES, type Traits } from "../kernel/traits.ts";
import { createTransport, type HostModel } from "../kernel/transport.ts";
import type { Theme } from "../look/scales.ts";
import type { Viewport } from "../look/viewport.ts";
import type { App } from "./context.ts";
import { Effects } from "./effects.ts";
import { type Action, type Local, reduce } from "./reduce.ts";
import {
  asSource,
  cardOf,
  chartedPositions,
  drawnId,
  isFromStore,
  isOffline,
  shownCards,
} from "./selectors.ts";
import { FIRST_STATE, MAIN, type State } from "./state.ts";
import { listen, push, readTraits } from "./sync.ts";

const WAITING_AFTER_MS = 900;
/** A busy kernel may be silent this long too: what is stored can be read meanwhile. */
const SILENT_AFTER_MS = 5000;

export interface AppOptions {
  /** The host marks this view as stored, without a kernel. */
  readonly isStored?: boolean;
}

function isReadout(value: unknown): value is ReadoutHeader {
  return typeof value === "object" && value !== null && "arrays" in value && "positions" in value;
}

/** The state of one view, kept in step with the host's model; `draw` is called with each frame that changed it. */
export function createApp(
  model: HostModel,
  draw: (app: App) => void,
  signal: AbortSignal,
  { isStored = false }: AppOptions = {},
): App {
  const runCells = new RunCells();
  let viewport: Viewport | null = null;
  let sourceViewport: Viewport | null = null;
  let theme: Theme = "light";
  let frame = 0;
  let isDrawing = false;
  let waitTimer: ReturnType<typeof setTimeout> | undefined;
  let silentTimer: ReturnType<typeof setTimeout> | undefined;
  let isHeard = false;

  const arrived = () => store.dispatch({ type: "arrived" });
  const transport = createTransport(
    model,
    {
      progress: (id, done, total) => local({ progress: { id, done, total } }),
      replyToOtherView: (value, buffers) => {
        if (isReadout(value) && runCells.add(value, buffers)) arrived();
      },
      alive: () => {
        isHeard = true;
        clearTimeout(waitTimer);
        clearTimeout(silentTimer);
        waitTimer = undefined;
        const { connection } = store.get();
        if (connection !== "live" && connection !== "offline") local({ connection: "live" });
        // the card that was read from the store meanwhile
        if (connection === "silent") store.dispatch({ type: "change", change: {} });
        // after this reply has settled its request: others may still be open
        queueMicrotask(watchWaiting);
      },
      lost: () => lose(),
    },
    signal,
  );
  const first: State = isStored ? { ...FIRST_STATE, connection: "offline" } : FIRST_STATE;
  const store = createStore<State, Action>(first, reduce, (action, before, after) => {
    if (before.runs !== after.runs) runCells.keep(after.runs);
    if (action.type === "traits") addSnapshots(action.traits);
    effects.after(action, before, after);
    // opening a cell sends a decode, with which the kernel sets the selection itself
    if (action.type !== "traits" && action.type !== "open" && before.traits !== after.traits)
      tell(() => push(model, before.traits, after.traits));
    watchWaiting();
    if (before !== after) schedule();
  });

  function addSnapshots({ snapshot, source_snapshot }: Partial<Traits>): void {
    for (const each of [snapshot, source_snapshot]) {
      if (!each || !("header" in each)) continue;
      const { header, buffers } = each as Snapshot;
      if (runCells.add(header, buffers as Binary[])) arrived();
    }
  }

  /** Hand something to the host's model, which may throw once its kernel is gone. */
  function tell(send: () => void): void {
    try {
      send();
    } catch {
      lose();
    }
  }

  function lose(): void {
    if (store.get().connection !== "offline") local({ connection: "gone" });
    transport.drop();
  }

  /** Say that the kernel is waited for if it does not answer for a while. */
  function watchWaiting(): void {
    if (!isHeard && silentTimer === undefined && transport.pending().length)
      silentTimer = setTimeout(() => {
        if (isHeard || isFromStore(store.get())) return;
        local({ connection: "silent" });
        store.dispatch({ type: "change", change: {} });
      }, SILENT_AFTER_MS);
    if (waitTimer !== undefined || !transport.pending().length || store.get().connection !== "live") return;
    waitTimer = setTimeout(() => {
      waitTimer = undefined;
      const { running, connection } = store.get();
      if (transport.pending().length && !running && connection === "live") local({ connection: "waiting" });
    }, WAITING_AFTER_MS);
  }

  function schedule(): void {
    if (!frame && !signal.aborted) frame = requestAnimationFrame(flush);
  }

  function flush(): void {
    cancelAnimationFrame(frame);
    frame = 0;
    if (signal.aborted) return;
    isDrawing = true;
    draw(app);
    isDrawing = false;
    fetchMissing();
  }

  /** Request the numbers that the page shows and lacks. */
  function fetchMissing(): void {
    const state = store.get();
    const { traits, connection, focus } = state;
    const cells = runCells.of(drawnId(state));
    if (isOffline(state) || connection === "gone" || !cells) return;
    // the card that was pressed for goes first; its reply is drawn, and leads here again
    if (cardOf(state, MAIN)?.ask) {
      pauseOverviews();
      return;
    }
    // what the person waits for goes before the overviews
    const now = (view: Viewport | null) => (view && state.running ? { ...view, far: null } : view);
    loader.update(cells, traits, now(viewport));
    sourceLoader.update(runCells.of(traits.source_run.id ?? null), asSource(traits), now(sourceViewport));
    const { site, lens, pins } = traits;
    const positions = chartedPositions(traits, focus, cells.run);
    const charted = pins.length ? pins : leaders(cells, traits, positions[0] ?? 0);
    const wishes: Wish[] = [{ site, lens, positions, ids: [...new Set(charted.flatMap((pin) => pin.ids))] }];
    for (const { site, lens, position, tracked: ids } of Object.values(shownCards(state)))
      wishes.push({ site, lens, positions: [position], ids });
    trajectories.want(cells, wishes);
    wantAsides(state, cells);
    if (traits.floor) void floors.want(cells, traits, traits.show);
    watchWaiting();
  }

  /** Request what stands beside the grid: the numbers of the prompt written out. */
  function wantAsides(state: State, cells: Cells): void {
    const { traits, shown, focus } = state;
    const { show_spine, spine, selection, k } = traits;
    const own = runCells.of(shown);
    if (!own) return;
    const at = Math.min(
      (focus ?? selection)?.position ?? own.run.tokens.length - 1,
      own.run.tokens.length - 1,
    );
    asides.want({
      cells,
      own,
      spine: show_spine && spine.run_id !== shown,
      alternativesAt: show_spine && at ? at - 1 : null,
      along: alongOf(state, cells),
      k,
    });
  }

  /** The tokens that the chart follows along the prompt; null where it runs over the layers. */
  function alongOf({ traits, focus }: State, cells: Cells) {
    const { trajectory, pins, site, lens, selection } = traits;
    if (trajectory.over !== "tokens") return null;
    const at = focus ?? selection;
    const charted = pins.length
      ? pins
      : leaders(cells, traits, chartedPositions(traits, focus, cells.run)[0] ?? 0);
    const ids = [...new Set(charted.flatMap((pin) => pin.ids))];
    return { ids, layer: at?.layer ?? cells.run.n_layers - 1, reading: { site, lens } };
  }

  const local = (patch: Local) => store.dispatch({ type: "local", patch });
  const took = (tile: Tile) => {
    if (runCells.addTile(tile)) arrived();
  };
  const failed = (notice: string, run_id: string) => {
    const state = store.get();
    // of a run that is no longer looked at, nobody misses the cells
    if (run_id === drawnId(state) || run_id === state.traits.source_run.id) local({ notice });
  };
  const events = { took, failed };
  const loader = createLoader(transport, events);
  const sourceLoader = createLoader(transport, events);
  const pauseOverviews = () => {
    for (const each of [loader, sourceLoader]) each.pause();
  };
  const trajectories = createTrajectories(transport, arrived);
  const asides = new Asides(transport, took, arrived);
  const floors = createFloors(transport, arrived);

  const app: App = {
    transport,
    trajectories,
    asides,
    signal,
    get: store.get,
    traits: () => store.get().traits,
    dispatch: store.dispatch,
    set: (traits) => store.dispatch({ type: "set", traits }),
    local,
    cells: (run_id) => runCells.of(run_id ?? drawnId(store.get())),
    theme: () => theme,
    setTheme(next) {
      theme = next;
      schedule();
    },
    setViewport(next) {
      viewport = next;
      if (!isDrawing) fetchMissing();
    },
    setSourceViewport(next) {
      sourceViewport = next;
    },
    flush,
    tellSelection(cell) {
      tell(() => {
        model.set("selection", { layer: cell.layer, position: cell.position });
        model.save_changes();
      });
    },
  };
  const effects = new Effects(app);
  const take = ({ decoded, ...traits }: Partial<Traits>) => {
    store.dispatch({ type: "traits", traits });
    if (decoded) store.dispatch({ type: "card", key: MAIN, ask: 0, card: decoded });
  };
  take(readTraits(model, TRAIT_NAMES));
  listen(model, take, signal);
  onDisconnect(model, lose, signal);
  whenClosed(signal, () => {
    pauseOverviews();
    cancelAnimationFrame(frame);
    clearTimeout(waitTimer);
    clearTimeout(silentTimer);
  });
  return app;
}

/** Hosts with ipywidgets' own manager announce a restart, which cuts the widget off from its kernel. */
function onDisconnect(model: HostModel, gone: () => void, signal: AbortSignal): void {
  model.on("comm_live_update", gone);
  whenClosed(signal, () => model.off("comm_live_update", gone));
}
