import { cellValue, coloringOf, effectAt, inWords } from "../cells/fields.ts";
import { isNoise, standingIn } from "../cells/standing.ts";
import type { CellRef, RunInfo } from "../kernel/protocol.ts";
import type { ViewTraits } from "../kernel/traits.ts";
import { asPercent, layerPhrase, quoted, rankText } from "../look/format.ts";
import type { App } from "../state/context.ts";
import { isTarget, promptWords } from "../state/selectors.ts";
import { roleAt } from "./heads.ts";

/** The token that a cell speaks of. */
export function targetName({ predicts }: Pick<RunInfo, "predicts">): string {
  return predicts === "same" ? "the token that stands there" : "the next token";
}

/** Where a cell is: "layer 20, position 8 after “␣of”"; in a masked language model "at" it. */
export function whereIs(run: RunInfo, { layer, position }: CellRef): string {
  const role = roleAt(run, position);
  const at = `position ${position}${role && ` (${role})`} ${run.predicts === "same" ? "at" : "after"}`;
  return `${layerPhrase(layer, run)}, ${at} ${promptWords(run, position)}`;
}

/** Of a cell of a causal map whether it is an estimate; else empty. */
export function noteOf(traits: ViewTraits, { layer, position }: CellRef): string {
  if (traits.view !== "map") return "";
  return effectAt(traits.causal, layer, position)?.isMeasured === false ? "an estimate" : "";
}

/** A cell in one sentence, for the line under the grid, which is also the live region. */
export function describe(app: App, cell: CellRef): string {
  const traits = app.traits();
  const cells = app.cells();
  if (!cells) return "";
  const { run } = cells;
  const { layer, position } = cell;
  const where = whereIs(run, cell);
  const top = standingIn(cells, traits, layer, position);
  const first = cells.top(traits, layer, position);
  if (!top) return `${where}: not computed`;
  const parts = [`${quoted(cells.label(top.id))} ${asPercent(top.log_prob)}`];
  if (coloringOf(traits, run) !== "prob")
    parts.push(inWords(cells, traits, cellValue(cells, traits, layer, position), noteOf(traits, cell)));
  if (first && top.rank > 0)
    parts.push(`${rankText(top.rank)} of all, the top being ${quoted(cells.label(first.id))}`);
  if (isNoise(cells, traits, layer, position)) parts.push("no more than noise would say");
  if (isTarget(run, position, top.id)) parts.push(`which is ${targetName(run)}`);
  return `${where}: ${parts.join(", ")}`;
}
