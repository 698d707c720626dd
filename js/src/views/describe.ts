import { cellValue, coloringOf, inWords } from "../cells/fields.ts";
import type { CellRef, RunInfo } from "../kernel/protocol.ts";
import { asPercent, layerPhrase, quoted } from "../look/format.ts";
import type { App } from "../state/context.ts";
import { isNext, promptWords } from "../state/selectors.ts";

/** Where a cell is: "layer 20, position 8 after “␣of”". */
export function whereIs(run: RunInfo, { layer, position }: CellRef): string {
  return `${layerPhrase(layer)}, position ${position} after ${promptWords(run, position)}`;
}

/** A cell in one sentence, for the line under the grid, which is also the live region. */
export function describe(app: App, cell: CellRef): string {
  const traits = app.traits();
  const cells = app.cells();
  if (!cells) return "";
  const { run } = cells;
  const { layer, position } = cell;
  const where = whereIs(run, cell);
  const top = cells.top(traits, layer, position);
  if (!top) return `${where}: not computed`;
  const parts = [`${quoted(cells.label(top.id))} ${asPercent(top.log_prob)}`];
  if (coloringOf(traits, run) !== "prob")
    parts.push(inWords(cells, traits, cellValue(cells, traits, layer, position)));
  if (isNext(run, position, top.id)) parts.push("which is the next token");
  return `${where}: ${parts.join(", ")}`;
}
