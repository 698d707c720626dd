import { type Child, h } from "../base/dom.ts";
import { OWN_READING } from "../cells/asides.ts";
import type { RunInfo } from "../kernel/protocol.ts";
import { asPercent, clamp, fixed, nats, percent, quoted, toNumber, UNKNOWN } from "../look/format.ts";
import { colorAt } from "../look/scales.ts";
import type { App } from "../state/context.ts";
import { isOffline, promptLabel, promptWords, shownRun } from "../state/selectors.ts";
import type { State } from "../state/state.ts";
import { forkAt, mayFork } from "./cardTable.ts";
import { openCell } from "./causal.ts";
import { button, select, tokenChip } from "./elements.ts";
import { SPEEDS } from "./player.ts";

/** A surprise of so many nats (1 in 22,000) has the darkest shade. */
const FULL_NATS = 10;
const N_ALTERNATIVES = 5;
/** Of a long text, the tokens around the one that is looked at. */
const MOST_WORDS = 1200;

/** The surprise and the entropy of each token of the run that is shown; null while they are not there. */
export function spineOf({ traits, shown }: Pick<State, "traits" | "shown">) {
  const { spine } = traits;
  return "run_id" in spine && spine.run_id === shown ? spine : null;
}

/** Whether a run's tokens have a surprise: the model says what comes next before it has seen it. */
export function canHaveSpine(run: RunInfo | null): run is RunInfo {
  return !!run && run.predicts !== "same" && run.is_causal !== false && !run.compared;
}

/** The column that the spine speaks of: the focused one, else the last. */
export function spineColumn({ focus, traits }: Pick<State, "focus" | "traits">, run: RunInfo): number {
  return Math.min(run.tokens.length - 1, (focus ?? traits.selection)?.position ?? run.tokens.length - 1);
}

/** How a token came, in words: "0.31 nats (73.3 %), 1.20 expected". */
export function surpriseWords(state: Pick<State, "traits" | "shown">, position: number): string {
  const spine = spineOf(state);
  const surprise = toNumber(spine?.surprise[position] ?? UNKNOWN);
  if (!spine || Number.isNaN(surprise)) return "";
  const expected = toNumber(spine.entropy[position] ?? UNKNOWN);
  return `surprise ${nats(surprise)} (${percent(Math.exp(-surprise))}), ${nats(expected)} expected`;
}

/** A token's text as it stands in prose: with its own spaces and ends of lines. */
function proseOf(run: RunInfo, position: number): string {
  const label = promptLabel(run, position);
  const [text, kind, raw] = label;
  if (kind !== "text" && kind !== "space") return text;
  // an end of a line is to be seen, and pressed
  return raw.replace(/\n/g, "↵\n");
}

function word(app: App, run: RunInfo, position: number, now: number): Child {
  const spine = spineOf(app.get());
  const surprise = toNumber(spine?.surprise[position] ?? UNKNOWN);
  const entropy = toNumber(spine?.entropy[position] ?? UNKNOWN);
  const isKnown = !Number.isNaN(surprise);
  const { css, ink } = colorAt("spread", app.theme(), isKnown ? surprise / FULL_NATS : 0);
  const style: Record<string, string> = isKnown
    ? { "--lw-word": css, "--lw-ink": ink, "--lw-expected": fixed(clamp(entropy / FULL_NATS, 0, 1), 2) }
    : {};
  const words = surpriseWords(app.get(), position);
  return h(
    "span",
    {
      key: position,
      class: `lw-word${isKnown ? "" : " is-unknown"}${position === now ? " is-now" : ""}`,
      style,
      title: `${position}: ${quoted(promptLabel(run, position))}${words && `, ${words}`}`,
      "data-position": position,
    },
    proseOf(run, position),
  );
}

/** The first and the one behind the last of the tokens that are written out. */
export function writtenOut(n: number, now: number): [number, number] {
  if (n <= MOST_WORDS) return [0, n];
  const start = clamp(now - MOST_WORDS / 2, 0, n - MOST_WORDS);
  return [start, start + MOST_WORDS];
}

function words(app: App, run: RunInfo, now: number, go: (position: number) => void): Child {
  const n = run.tokens.length;
  const [start, stop] = writtenOut(n, now);
  const valueText = `${now}: ${promptWords(run, now)}, ${surpriseWords(app.get(), now) || "no surprise known"}`;
  const keydown = (event: KeyboardEvent) => {
    const to: Record<string, number> = {
      ArrowLeft: now - 1,
      ArrowRight: now + 1,
      ",": now - 1,
      ".": now + 1,
      Home: 0,
      End: n - 1,
    };
    const next = to[event.key];
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    if (next !== undefined) go(clamp(next, 0, n - 1));
    else if (event.key === " ") togglePlay(app, "columns");
    else if (event.key === "Enter" && now) openCell(app, { layer: run.n_layers - 1, position: now - 1 });
    else return;
    event.preventDefault();
    event.stopPropagation();
  };
  const click = (event: MouseEvent) => {
    const at = event.target instanceof Element ? event.target.closest<HTMLElement>(".lw-word") : null;
    if (at) go(Number(at.dataset.position));
  };
  return h(
    "div.lw-words",
    {
      key: "words",
      role: "slider",
      tabindex: 0,
      dir: "auto",
      "aria-label": "The prompt by its surprise: arrows step through its tokens, space plays",
      "aria-valuemin": 0,
      "aria-valuemax": n - 1,
      "aria-valuenow": now,
      "aria-valuetext": valueText,
      on: { click, keydown },
    },
    start > 0 && h("span.lw-dim", { key: "before" }, `… ${start} tokens … `),
    Array.from({ length: stop - start }, (_, i) => word(app, run, start + i, now)),
    stop < n && h("span.lw-dim", { key: "after" }, ` … ${n - stop} tokens`),
  );
}

export function togglePlay(app: App, what: "columns" | "frames"): void {
  app.local({ playing: app.get().playing === what ? null : what });
}

/** The buttons that play, and how fast. */
export function playControls(app: App, what: "columns" | "frames", step: (by: number) => void): Child {
  const { playing, speed } = app.get();
  const isOn = playing === what;
  const [last, next] = what === "columns" ? ["Last token (,)", "Next token (.)"] : ["Last run", "Next run"];
  return h(
    "span.lw-play",
    button("◂", () => step(-1), { className: "lw-icon", title: last }),
    button(isOn ? "❚❚" : "▶", () => togglePlay(app, what), {
      className: "lw-icon",
      title: isOn ? "Pause" : "Play",
    }),
    button("▸", () => step(1), { className: "lw-icon", title: next }),
    select(
      "Speed",
      String(speed),
      SPEEDS.map((n) => [String(n), `${n}/s`] as const),
      (value) => app.local({ speed: Number(value) }),
    ),
  );
}

/** The tokens that the model would rather have gone on with, each a press away. */
function alternatives(app: App, run: RunInfo, now: number): Child {
  const cells = app.cells(run.id);
  if (!cells || !now) return null;
  const last = run.n_layers - 1;
  const own = cells.tops(OWN_READING, last, now - 1, N_ALTERNATIVES + 1);
  const tops = own.length ? own : cells.tops(app.traits(), last, now - 1, N_ALTERNATIVES + 1);
  const others = tops.filter(({ id }) => id >= 0 && id !== run.tokens[now]).slice(0, N_ALTERNATIVES);
  if (!others.length) return null;
  const canFork = mayFork(app, run);
  return h(
    "span.lw-others",
    h("span.lw-dim", "instead "),
    others.map(({ id, log_prob }) => {
      const label = cells.label(id);
      const share = asPercent(log_prob);
      const title = `Go on with ${label[0]} after position ${now - 1}`;
      if (!canFork) return h("span", { key: id }, tokenChip(label, id), ` ${share} `);
      return h(
        "button.lw-button lw-small lw-other",
        {
          key: id,
          type: "button",
          title,
          "aria-label": `${title}: ${share}`,
          on: { click: () => forkAt(app, run, now - 1, id) },
        },
        tokenChip(label, id),
        h("span.lw-num", ` ${share}`),
      );
    }),
  );
}

function meanWords(values: readonly (number | string | null)[]): string {
  const known = values.map((value) => toNumber(value ?? UNKNOWN)).filter(Number.isFinite);
  if (!known.length) return "";
  const mean = known.reduce((sum, value) => sum + value, 0) / known.length;
  return `mean ${nats(mean)}, perplexity ${fixed(Math.exp(mean), 1)}`;
}

/** The prompt as running text: each token shaded by how much it surprised the model, over a line of what was expected. */
export function spineView(app: App, go: (position: number) => void): Child {
  const state = app.get();
  const run = shownRun(state);
  if (!state.traits.show_spine || !canHaveSpine(run)) return null;
  const spine = spineOf(state);
  const now = spineColumn(state, run);
  const step = (by: number) => go(clamp(now + by, 0, run.tokens.length - 1));
  return h(
    "section.lw-spine",
    { "aria-label": "Surprise" },
    words(app, run, now, go),
    h(
      "div.lw-spinebar",
      { key: "bar" },
      playControls(app, "columns", step),
      h(
        "span.lw-came",
        h("span.lw-dim", `${now} `),
        tokenChip(promptLabel(run, now), run.tokens[now] ?? -1),
        spine ? ` ${surpriseWords(state, now) || "came first"}` : isOffline(state) ? " not stored" : " …",
      ),
      alternatives(app, run, now),
      h("span.lw-gap", {}),
      spine && h("span.lw-dim", meanWords(spine.surprise)),
      h(
        "span.lw-key",
        {
          title:
            "The fill is the surprise of the token that came; the line under it the surprise that was expected",
        },
        h("i.lw-spinekey", { style: { "--lw-word": ramp(app) } }),
        `0 to ${FULL_NATS} nats; line: expected`,
      ),
    ),
  );
}

function ramp(app: App): string {
  const stops = [0, 0.25, 0.5, 0.75, 1].map((t) => colorAt("spread", app.theme(), t).css);
  return `linear-gradient(to right, ${stops.join(", ")})`;
}
