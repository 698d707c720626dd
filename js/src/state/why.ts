/**
 * Why a card's cell says what it says: the terms of a logit, which the kernel is asked for once a person opens them.
 *
 * They are kept here, beside the state of the view they belong to: they are large, and drawn only while they are open.
 */

import { sameItems } from "../base/memo.ts";
import type {
  Attention,
  CellRef,
  CodeRequest,
  EditRequest,
  Why,
  WhyRequest,
  WhyTerm,
} from "../kernel/protocol.ts";
import type { App } from "./context.ts";
import { cardOf, drawnId, isOffline, keptEdits, shownRun } from "./selectors.ts";
import { type CardState, MAIN } from "./state.ts";
import { NOT_STORED, stored, storedOf, type Target } from "./storedWhy.ts";

/** What splits a layer's parts, in the order in which it is asked for. */
export const PIECES = ["head", "source", "neuron"] as const;
export type Piece = (typeof PIECES)[number];

/** A term that was switched off: what was said of it before. */
export interface Switched {
  readonly name: string;
  readonly predicted: number;
  readonly measured: number;
  readonly position: number;
}

export interface WhyState {
  /** The ids of the token and of the foil, if there is one: "12" or "12-7"; null for the first choice. */
  readonly target: string | null;
  readonly why: Why | null;
  readonly error: string | null;
  readonly isPending: boolean;
  /** The layer whose parts are split, and its pieces as far as they are here. */
  readonly layer: number | null;
  readonly pieces: Readonly<Partial<Record<Piece, Why | string>>>;
  /** Where the attention of that layer looks; null until it is here, and where it cannot be seen. */
  readonly attention: Attention | null;
  /** The head that is pointed at, and the one that was pressed. */
  readonly hovered: number | null;
  readonly held: number | null;
  readonly switched: Switched | null;
  /** What was asked for last. */
  readonly asked: string;
}

const CLOSED: WhyState = {
  target: null,
  why: null,
  error: null,
  isPending: false,
  layer: null,
  pieces: {},
  attention: null,
  hovered: null,
  held: null,
  switched: null,
  asked: "",
};

/** Of a layer that is not open. */
const FOLDED = { pieces: {}, attention: null, hovered: null, held: null };

const opened = new WeakMap<App, Map<string, WhyState>>();

/** The open explanation of a card; null while it is closed. */
export function whyOf(app: App, key: string): WhyState | null {
  return opened.get(app)?.get(key) ?? null;
}

function change(app: App, key: string, patch: Partial<WhyState>): void {
  const ofApp = opened.get(app) ?? new Map<string, WhyState>();
  opened.set(app, ofApp);
  ofApp.set(key, { ...(ofApp.get(key) ?? CLOSED), ...patch });
  app.dispatch({ type: "arrived" });
}

/** Open or close the explanation of a card. */
export function toggleWhy(app: App, key: string): void {
  if (opened.get(app)?.delete(key)) app.dispatch({ type: "arrived" });
  else {
    change(app, key, {});
    followWhy(app);
  }
}

/** Explain another token, or a difference. */
export function chooseTarget(app: App, key: string, target: string): void {
  change(app, key, { target, switched: null });
  followWhy(app);
}

/** What a card can be asked about: pinned tokens, their differences, and the cell's best tokens; in a file, what it has. */
export function targets(app: App, state: CardState): { value: string; ids: readonly number[] }[] {
  if (isOffline(app.get()))
    return storedOf(app, state)
      .filter(({ by }) => by === "part")
      .map(({ token, foil }) => (foil ? [token.id, foil.id] : [token.id]))
      .map((ids) => ({ value: ids.join("-"), ids }));
  const pins = app.traits().pins.map(({ ids }) => ids[0] ?? -1);
  const pairs = pins.flatMap((one, i) => pins.flatMap((other, j) => (i === j ? [] : [[one, other]])));
  const best = (state.card?.ids ?? []).slice(0, 5);
  const all = [...pairs, ...pins.map((id) => [id]), ...best.map((id) => [id])];
  const found = new Map(all.map((ids) => [ids.join("-"), ids]));
  return [...found].map(([value, ids]) => ({ value, ids }));
}

/** The target that is explained: the chosen one; else the first pinned token, or the cell's best. */
export function targetOf(app: App, state: CardState, { target }: WhyState): readonly number[] | null {
  const all = targets(app, state);
  const chosen = all.find(({ value }) => value === target) ?? all.find(({ ids }) => ids.length === 1);
  return chosen?.ids ?? null;
}

/** What copied code is to explain too; null while that is closed. */
export function whyCoded(app: App, key: string): CodeRequest["why"] {
  const [open, card] = [whyOf(app, key), cardOf(app.get(), key)];
  const ids = open && card && targetOf(app, card, open);
  return ids ? { token: ids[0] ?? 0, foil: ids[1] ?? null, of_layer: open.layer } : null;
}

/** Ask for what the open explanations lack; called after every action. A card's own numbers come first. */
export function followWhy(app: App): void {
  for (const [key, open] of opened.get(app) ?? []) {
    const card = cardOf(app.get(), key);
    const ids = card && targetOf(app, card, open);
    const run_id = drawnId(app.get());
    if (!card?.card || card.isPending || run_id === null) continue;
    const off = isOffline(app.get());
    if (!ids && off && open.error !== NOT_STORED)
      change(app, key, { why: null, error: NOT_STORED, asked: "" });
    if (!ids) continue;
    const { layer, position, lens, site } = card;
    if (site !== "resid_post") continue;
    const request = { run_id, layer, position, lens, token: ids[0] ?? 0, foil: ids[1] ?? null };
    const asked = JSON.stringify(request);
    if (asked !== open.asked) void ask(app, key, asked, request);
  }
}

async function ask(app: App, key: string, asked: string, request: Target): Promise<void> {
  const before = whyOf(app, key);
  const stays = before?.layer !== undefined && before.layer !== null && before.layer <= request.layer;
  opened.get(app)?.set(key, { ...(before ?? CLOSED), asked, isPending: true, ...FOLDED });
  const why = await answer(app, request, "part", null);
  const found = typeof why === "string" ? { why: null, error: why } : { why, error: null };
  // closed meanwhile, or about another cell by now
  if (whyOf(app, key)?.asked !== asked) return;
  change(app, key, { ...found, isPending: false });
  const layer = whyOf(app, key)?.layer;
  if (stays && layer !== null && layer !== undefined) void split(app, key, layer);
}

/** The kernel's answer, or the stored one, or in words why there is none. */
async function answer(
  app: App,
  request: Target,
  by: WhyRequest["by"],
  of_layer: number | null,
): Promise<Why | string> {
  if (isOffline(app.get())) return stored(app, request, by, of_layer);
  return app.transport
    .request("why", { ...request, by, of_layer })
    .reply.then(({ value }): Why | string => value)
    .catch(({ message }: Error) => message);
}

/** Split the parts of a layer, or fold them again. */
export function openLayer(app: App, key: string, layer: number): void {
  const open = whyOf(app, key);
  if (!open?.why) return;
  if (open.layer === layer) change(app, key, { layer: null, ...FOLDED });
  else {
    change(app, key, { layer, ...FOLDED });
    void split(app, key, layer);
  }
}

async function split(app: App, key: string, of_layer: number): Promise<void> {
  const begun = whyOf(app, key);
  if (!begun?.asked) return;
  const request = JSON.parse(begun.asked) as Target;
  for (const by of PIECES) {
    const piece = await answer(app, request, by, of_layer);
    const now = whyOf(app, key);
    if (now?.asked !== begun.asked || now.layer !== of_layer) return;
    change(app, key, { pieces: { ...now.pieces, [by]: piece } });
    if (by === "head") void look(app, key, begun.asked, of_layer);
  }
}

/** Ask where the attention of the open layer looks. */
async function look(app: App, key: string, asked: string, layer: number): Promise<void> {
  if (isOffline(app.get())) return;
  const { run_id, position } = JSON.parse(asked) as Target;
  const attention = await app.transport
    .request("attention", { run_id, layer, position })
    .reply.then(({ value }) => value)
    .catch(() => null); // the list of what it reads says why
  const now = whyOf(app, key);
  if (now?.asked === asked && now.layer === layer) change(app, key, { attention });
}

/** Point at a head, or at none. */
export function hoverHead(app: App, key: string, hovered: number | null): void {
  const open = whyOf(app, key);
  if (open && open.hovered !== hovered) change(app, key, { hovered });
}

/** Hold what a head reads on the grid, or let it go. */
export function holdHead(app: App, key: string, head: number): void {
  change(app, key, { held: whyOf(app, key)?.held === head ? null : head });
}

/** What the grid marks as read. */
export interface Reads extends CellRef {
  /** Of one head; null for all. */
  readonly head: number | null;
  /** By position, of what was read or of the head's weight. */
  readonly shares: readonly number[];
  readonly sinks: readonly number[];
}

let last: { readonly from: readonly unknown[]; readonly reads: Reads } | null = null;

/** What the grid of a view marks as read: by the attention of the layer that is open in its main card, or by a head. */
export function readsOf(app: App): Reads | null {
  const open = whyOf(app, MAIN);
  const attention = open?.attention;
  const card = cardOf(app.get(), MAIN);
  if (!open || !attention || attention.position !== card?.position || open.isPending) return null;
  const head = open.hovered ?? open.held;
  const { layer, position, sinks } = attention;
  const shares = (head !== null && attention.weights[head]) || attention.read;
  const from = [attention, head];
  // the same object while nothing changes: a grid is drawn again for a new one
  if (!last || !sameItems(from, last.from)) last = { from, reads: { layer, position, head, shares, sinks } };
  return last.reads;
}

const SITES: Readonly<Record<string, string>> = {
  attn: "attn_out",
  head: "attn_out",
  mlp: "mlp_out",
  neuron: "mlp_out",
};

/** Whether a term can be switched off: what a part, a head or a neuron adds. */
export function canSwitch(term: WhyTerm): boolean {
  return term.kind in SITES && !/ (bias|other neurons)$/.test(term.name);
}

/** Take a term out of the run, at the card's position: a new edit, which is run. */
export function switchOff(app: App, key: string, term: WhyTerm): void {
  const run = shownRun(app.get());
  const why = whyOf(app, key)?.why;
  const site = SITES[term.kind];
  if (!run || !why || !site) return;
  const edit: EditRequest = {
    op: "zero",
    site,
    layers: [term.layer],
    positions: [why.position],
    tokens: [],
    lens: "logit",
    source: null,
    strength: 1,
    is_on: true,
    ...(term.kind === "head" ? { heads: [term.unit] } : {}),
    ...(term.kind === "neuron" ? { neurons: [term.unit] } : {}),
  };
  const { name } = term;
  const [predicted, measured] = [Number(term.predicted), Number(term.measured)];
  change(app, key, { switched: { name, predicted, measured, position: why.position } });
  app.dispatch({ type: "edits", edits: [...keptEdits(run), edit] });
  if (app.traits().view === "before") app.set({ view: "after" });
}
