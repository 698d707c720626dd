import { type Child, h } from "../base/dom.ts";
import type { Match } from "../kernel/protocol.ts";
import type { App } from "../state/context.ts";
import { tokenChip } from "./elements.ts";

export interface SearchProps {
  readonly placeholder: string;
  readonly pick: (match: Match) => void;
}

/** A box that searches the whole vocabulary by text; `key` is a card's, or "pins". */
export function searchBox(app: App, key: string, { placeholder, pick }: SearchProps): Child {
  const state = app.get().cards[key];
  const matches = state?.matches ?? null;
  const change = (event: Event) =>
    app.dispatch({ type: "search", key, query: (event.target as HTMLInputElement).value });
  const clear = () => app.dispatch({ type: "search", key, query: "" });
  const choose = (match: Match) => {
    app.cells()?.labels.set(match.id, match.label);
    pick(match);
    if (key === "pins") clear();
  };
  const keydown = (event: KeyboardEvent) => {
    if (event.key === "Enter" && matches?.[0]) choose(matches[0]);
    else if (event.key === "Escape" && state?.query) clear();
    else return;
    event.preventDefault();
    event.stopPropagation();
  };
  return h(
    "div.lw-search",
    h("input", {
      type: "search",
      placeholder,
      "aria-label": placeholder,
      "data-search": key,
      autocomplete: "off",
      spellcheck: "false",
      value: state?.query ?? "",
      on: { input: change, keydown },
    }),
    matches &&
      h(
        "ul.lw-matches",
        { "aria-label": "Matching tokens" },
        matches.map((match) =>
          h(
            "li",
            { key: match.id },
            h(
              "button",
              { type: "button", class: "lw-match", on: { click: () => choose(match) } },
              tokenChip(match.label, match.id),
              h("span.lw-dim", match.id),
            ),
          ),
        ),
      ),
    state?.note && h("p.lw-facts lw-dim", state.note),
  );
}
