import { type Child, h } from "../base/dom.ts";
import type { Match } from "../kernel/protocol.ts";
import type { App } from "../state/context.ts";
import type { Search } from "../state/state.ts";
import { tokenChip } from "./elements.ts";

export interface SearchProps {
  readonly placeholder: string;
  readonly pick: (match: Match) => void;
}

/** A box that searches the whole vocabulary by text; `box` is the key of a card, or "pins". */
export function searchBox(app: App, box: string, state: Search, { placeholder, pick }: SearchProps): Child {
  const { query, matches, note } = state;
  const search = (text: string) => app.dispatch({ type: "search", box, query: text });
  const choose = (match: Match) => {
    app.cells()?.labels.set(match.id, match.label);
    pick(match);
    if (box === "pins") search("");
  };
  const keydown = (event: KeyboardEvent) => {
    if (event.key === "Enter" && matches?.[0]) choose(matches[0]);
    else if (event.key === "Escape" && query) search("");
    else return;
    event.preventDefault();
    event.stopPropagation();
  };
  const input = ({ target }: Event) => search((target as HTMLInputElement).value);
  return h(
    "div.lw-search",
    { key: "search" },
    h("input", {
      type: "search",
      placeholder,
      "aria-label": placeholder,
      "data-search": box,
      autocomplete: "off",
      spellcheck: "false",
      value: query,
      on: { input, keydown },
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
    note && h("p.lw-facts lw-dim", note),
  );
}
