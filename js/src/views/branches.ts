import { type Child, h } from "../base/dom.ts";
import type { BranchInfo } from "../kernel/protocol.ts";
import type { App } from "../state/context.ts";
import { isOffline, shownRun } from "../state/selectors.ts";
import { button, tokenChip } from "./elements.ts";

/** A run of the tree: a press shows it, another shows the shown run beside it. */
function branch(app: App, info: BranchInfo, all: readonly BranchInfo[], shown: string | null): Child {
  const { id, at, label, text, n_tokens, parent } = info;
  const isShown = id === shown;
  const children = all.filter((other) => other.parent === id);
  const where = parent ? (label ? `from position ${at}` : `ends after ${at} tokens`) : "the first run";
  const title = `${parent ? text : "The first run"}: ${where}, ${n_tokens} tokens${isShown ? ", shown" : ""}`;
  const disabled = isOffline(app.get());
  const show = () => app.dispatch({ type: "branch", run_id: id, how: "show" });
  return h(
    "li",
    { key: at + id },
    h(
      "div.lw-branch",
      h(
        "button",
        {
          type: "button",
          class: `lw-button lw-small${isShown ? " is-shown" : ""}`,
          "aria-current": isShown ? "true" : undefined,
          "aria-label": title,
          title,
          disabled: disabled && !isShown,
          on: { click: () => !isShown && show() },
        },
        parent ? h("span.lw-dim", `${at} `) : null,
        parent && label ? tokenChip(label, -1) : null,
        h("bdi.lw-rest", { dir: "auto" }, parent ? restOf(info) : text),
      ),
      !isShown &&
        !disabled &&
        button("⇄", () => app.dispatch({ type: "branch", run_id: id, how: "beside" }), {
          className: "lw-icon lw-small",
          title: `Compare the shown run with ${parent ? text : "the first run"}`,
        }),
    ),
    children.length > 0 &&
      h(
        "ul",
        children.map((child) => branch(app, child, all, shown)),
      ),
  );
}

/** What follows the token that differs. */
function restOf({ text, label }: BranchInfo): string {
  return label?.[2] && text.startsWith(label[2]) ? text.slice(label[2].length) : text;
}

/** The runs that were forked from one another, as a tree. */
export function branchesView(app: App): Child {
  const { traits, shown } = app.get();
  const all = traits.branches;
  if (all.length < 2) return null;
  const run = shownRun(app.get());
  return h(
    "section.lw-branches",
    { key: "branches", "aria-label": "Branches" },
    h(
      "ul",
      all.filter(({ parent }) => !parent).map((root) => branch(app, root, all, shown)),
    ),
    run?.compared &&
      button("Show one run again", () => app.dispatch({ type: "branch", run_id: "", how: "beside" }), {
        className: "lw-small",
      }),
  );
}
