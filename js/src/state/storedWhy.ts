/** Why the cells of a saved file say what they say: what the file has of it. */

import type { Why } from "../kernel/protocol.ts";
import type { App } from "./context.ts";
import { drawnId } from "./selectors.ts";

/** Whose logit is explained. */
export type Target = Pick<Why, "run_id" | "layer" | "position" | "lens"> & {
  token: number;
  foil: number | null;
};

export const NOT_STORED =
  "Why is stored of the cells whose cards were open when this file was saved. This needs a kernel.";

/** What a file has of a cell. */
export function storedOf(
  app: App,
  { layer, position, lens }: Pick<Why, "layer" | "position" | "lens">,
): Why[] {
  const run_id = drawnId(app.get());
  return app
    .traits()
    .whys.filter(
      (why) => why.run_id === run_id && why.layer === layer && why.position === position && why.lens === lens,
    );
}

/** The answer to a request as a file has it, or why there is none. */
export function stored(app: App, request: Target, by: string, of_layer: number | null): Why | string {
  const all = storedOf(app, request);
  const isAsked = ({ token, foil }: Why) => token.id === request.token && (foil?.id ?? null) === request.foil;
  const why = all.find((each) => each.by === by && isAsked(each));
  if (!why) return all.length ? "not stored for this token" : NOT_STORED;
  if (of_layer === null) return why;
  const terms = why.terms.filter(({ layer }) => layer === of_layer);
  return by === "neuron" && !terms.length ? "none is among the strongest of all layers" : { ...why, terms };
}
