import type { Label, RunInfo } from "../kernel/protocol.ts";
import { bandPhrase, bandsAt, isOfTemplate, passAt, stripText } from "../look/bands.ts";
import { layerName } from "../look/format.ts";
import type { Shape } from "../look/layout.ts";
import { promptLabel, promptWords } from "../state/selectors.ts";

/** What stands at the head of a row or a column. */
export interface Head {
  readonly text: string;
  /** The small text beside it: a position, the name of a pass. */
  readonly at: string;
  readonly title: string;
  /** The accessible name; empty for the text itself. */
  readonly label: string;
  readonly className: string;
  /** At the first column of a band, what the band is called. */
  readonly band: string;
  /** Index of its band's colour, or null. */
  readonly color: number | null;
  /** Whether it is folded, where a press folds and unfolds it; else null. */
  readonly isFolded: boolean | null;
  /** Where the columns that an attention read are marked, how much was read here. */
  readonly share?: number;
}

const PLAIN: Head = {
  text: "",
  at: "",
  title: "",
  label: "",
  className: "",
  band: "",
  color: null,
  isFolded: null,
};

/** A label for a narrow cell, with a small dot for a leading space. */
export function brief([text, kind]: Label): string {
  return kind === "text" && text.length > 1 && text.startsWith("␣") ? `·${text.slice(1)}` : text;
}

/** The layers or positions of a shape, in visual order. */
function valuesOf({ isAcross, rows, cols }: Shape, isLayer: boolean): readonly number[] {
  return isAcross === isLayer ? rows : cols;
}

/** The head of the row or column at a place of the shape. */
export function headOf(run: RunInfo, shape: Shape, index: number, isLayer: boolean): Head {
  const values = valuesOf(shape, isLayer);
  const value = values[index] ?? 0;
  return isLayer ? layerHead(run, values, value, index) : tokenHead(run, shape, value, index);
}

function layerHead(run: RunInfo, layers: readonly number[], layer: number, index: number): Head {
  const kind = layer === run.n_layers - 1 ? "is-last" : "is-layer";
  const row = run.rows?.[layer];
  const found = passAt(run, layer);
  if (!row || !found) return { ...PLAIN, text: layerName(layer, run), className: kind };
  const [, pass] = found;
  const isIn = (other: number | undefined) => other !== undefined && pass.start <= other && other < pass.stop;
  const isFirst = !isIn(layers[index - 1]);
  const isLast = !isIn(layers[index + 1]);
  const n = pass.stop - pass.start;
  const isFolded = n > 1 ? layers.filter(isIn).length === 1 : null;
  const folded = isFolded ? `, the last of ${n} rows of this pass` : "";
  const title = `${row.phrase}, ${row.path}: layer ${layer}${folded}`;
  const edges = `${isFirst ? " is-first" : ""}${isLast ? " is-final" : ""}`;
  const className = `${kind}${n > 1 ? ` is-pass${edges}` : ""}`;
  const at = n > 1 && isFirst ? `${isFolded ? "▸" : "▾"} ${pass.label}` : "";
  return { text: row.name, at, title, label: title, className, band: "", color: null, isFolded };
}

function tokenHead(run: RunInfo, shape: Shape, position: number, index: number): Head {
  const label = promptLabel(run, position);
  const fold = shape.folds.get(position);
  const places = bandsAt(run, position);
  const strip = shape.strips.filter(({ from, to }) => from <= index && index < to).at(-1);
  const names = places.flatMap((place) => {
    const band = run.bands?.[place];
    return band?.names?.length ? [band.names[position - band.start] ?? ""] : [];
  });
  const words = promptWords(run, position) + names.map((name) => `, ${name}`).join("");
  const role = roleAt(run, position);
  const other = run.others?.[position];
  const same = run.predicts === "same" ? "; its cells say what stands here" : "";
  const title = fold
    ? `${bandPhrase(fold)}, folded; its last is ${words}${same}`
    : `${words}${role && `, ${role}`}${other ? `; the other side has ${other}` : ""}${same}`;
  const at = fold ? `${fold.start}–${fold.stop - 1}` : `${position}${other ? ` · ${other}` : ""}`;
  const isFirst = strip?.from === index;
  const isTemplate = isOfTemplate(run, position);
  const classes = [`is-${label[1]}`];
  if (strip) classes.push("is-band");
  if (isTemplate) classes.push("is-template");
  return {
    text: fold ? `…${brief(label)}` : (names.at(-1) ?? brief(label)),
    at: !shape.isAcross && strip && isFirst ? `${at} ${stripText(strip)}` : at,
    title,
    label: places.length || same || other ? `position ${at}, ${title}` : "",
    className: classes.join(" "),
    band: strip && isFirst ? stripText(strip) : "",
    color: strip?.color ?? null,
    isFolded: strip && isFirst ? strip.isFolded : null,
  };
}

/** Whose message a position is of: "user", "template of assistant"; empty outside chats. */
export function roleAt(run: RunInfo, position: number): string {
  const found = bandsAt(run, position).map((place) => run.bands?.[place]);
  const words = found.map((band) => band?.label ?? "").join(", ");
  if (!isOfTemplate(run, position)) return words;
  return words ? `template of ${words}` : "template";
}
