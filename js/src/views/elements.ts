import { type Child, h } from "../base/dom.ts";
import type { Label, RunInfo } from "../kernel/protocol.ts";
import type { App } from "../state/context.ts";
import { pinOf, promptLabel } from "../state/selectors.ts";
import type { State } from "../state/state.ts";

/** Open or close a panel, then call `chosen`, which was picked in it. */
export function toggle(app: App, name: NonNullable<State["panel"]>, chosen?: () => void): void {
  app.local({ panel: app.get().panel === name ? null : name });
  chosen?.();
}

/** Pin a token, or unpin it. */
export function togglePin(app: App, id: number, label: Label): void {
  const { pins } = app.traits();
  const pinned = pinOf(pins, id);
  if (pinned) app.dispatch({ type: "unpin", index: pins.indexOf(pinned) });
  else app.dispatch({ type: "pin", ids: [id], label: label[0] });
}

export interface ButtonProps {
  readonly title?: string;
  readonly className?: string;
  readonly disabled?: boolean;
  readonly expanded?: boolean;
}

export function button(label: Child, click: () => void, props: ButtonProps = {}): Child {
  const { title, className = "", disabled, expanded } = props;
  return h(
    "button",
    {
      type: "button",
      class: `lw-button ${className}`,
      title,
      "aria-label": className.includes("lw-icon") ? title : undefined,
      "aria-expanded": expanded === undefined ? undefined : String(expanded),
      disabled,
      on: { click },
    },
    label,
  );
}

export type Options = readonly (string | readonly [value: string, text: string])[];

export function select(
  label: string,
  value: string,
  options: Options,
  change: (value: string) => void,
  disabled = false,
): Child {
  return h(
    "label.lw-field",
    h("span", label),
    h(
      "select",
      {
        "aria-label": label,
        value,
        disabled,
        on: { change: (event: Event) => change((event.target as HTMLSelectElement).value) },
      },
      options.map((option) => {
        const [name, text] = typeof option === "string" ? [option, option] : option;
        return h("option", { key: name, value: name }, text);
      }),
    ),
  );
}

export function checkbox(label: string, checked: boolean, change: (checked: boolean) => void): Child {
  return h(
    "label.lw-field lw-check",
    h("input", {
      type: "checkbox",
      checked,
      on: { change: (event: Event) => change((event.target as HTMLInputElement).checked) },
    }),
    h("span", label),
  );
}

/** A token as text, with its id on hover, because several ids have the same text. */
export function tokenChip([text, kind, raw]: Label, id: number): Child {
  const title = kind === "bytes" ? `bytes ${text}, id ${id}` : `${JSON.stringify(raw || text)}, id ${id}`;
  return h("bdi", { class: `lw-token is-${kind}`, dir: "auto", title }, text);
}

/** The token at a position of the prompt. */
export function promptChip(run: RunInfo, position: number): Child {
  return tokenChip(promptLabel(run, position), run.tokens[position] ?? -1);
}
