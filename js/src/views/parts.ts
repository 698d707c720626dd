import type { App } from "../app.ts";
import { type Child, h } from "../dom.ts";
import type { Label } from "../protocol.ts";

/** Open a panel, or close it when it is open, and then do what was chosen in it. */
export function toggle(app: App, name: "help" | "menu", chosen?: () => void): void {
  app.local({ panel: app.get().panel === name ? null : name });
  chosen?.();
}

export interface ButtonProps {
  readonly label: Child;
  readonly title?: string;
  readonly className?: string;
  readonly disabled?: boolean;
  readonly pressed?: boolean;
  readonly expanded?: boolean;
  readonly click: () => void;
}

export function button({
  label,
  title,
  className = "",
  disabled = false,
  pressed,
  expanded,
  click,
}: ButtonProps): Child {
  return h(
    "button",
    {
      type: "button",
      class: `lw-button ${className}`,
      title,
      "aria-label": className.includes("lw-icon") ? title : undefined,
      "aria-pressed": pressed === undefined ? undefined : String(pressed),
      "aria-expanded": expanded === undefined ? undefined : String(expanded),
      disabled,
      on: { click },
    },
    label,
  );
}

export interface SelectProps {
  readonly label: string;
  readonly value: string;
  readonly options: readonly (string | readonly [value: string, text: string])[];
  readonly disabled?: boolean;
  readonly change: (value: string) => void;
}

/** A labelled choice. */
export function select({ label, value, options, disabled = false, change }: SelectProps): Child {
  return h(
    "label.lw-field",
    {},
    h("span", {}, label),
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
    {},
    h("input", {
      type: "checkbox",
      checked,
      on: { change: (event: Event) => change((event.target as HTMLInputElement).checked) },
    }),
    h("span", {}, label),
  );
}

/** A token as text; its id on hover, since several ids print alike. */
export function tokenChip([text, kind, raw]: Label, id: number): Child {
  const title = kind === "bytes" ? `bytes ${text}, id ${id}` : `${JSON.stringify(raw || text)}, id ${id}`;
  return h("bdi", { class: `lw-token is-${kind}`, dir: "auto", title }, text);
}
