import { on, whenClosed } from "../base/events.ts";
import type { Theme } from "./scales.ts";

const DARK = "(prefers-color-scheme: dark)";
/** High contrast: the system's few colours replace those of the host. */
const FORCED = "(forced-colors: active)";

/**
 * Light or dark, by the host's own marker; light on paper. VS Code's marker is read first, because VS Code also sets
 * Jupyter's variables, with light values in dark themes.
 */
function hostTheme(): Theme {
  const is = (medium: string) => matchMedia(medium).matches;
  const isDark = (is(FORCED) ? undefined : saysDark()) ?? is(DARK);
  return isDark && !is("print") ? "dark" : "light";
}

/** Whether the host marks itself as dark; undefined if it has no marker. */
function saysDark(): boolean | undefined {
  const { body, documentElement } = document;
  const vscode =
    body.dataset.vscodeThemeKind ?? /\bvscode-(dark|light|high-contrast\S*)/.exec(body.className)?.[0];
  if (vscode) return /dark|contrast$/.test(vscode);
  if (body.dataset.jpThemeLight) return body.dataset.jpThemeLight === "false";
  const marker = documentElement.getAttribute("theme") ?? body.dataset.theme;
  return marker ? marker === "dark" : undefined;
}

/** Calls `changed` with the theme now, and again when the host switches it. */
export function followTheme(changed: (theme: Theme) => void, signal: AbortSignal): void {
  let last: Theme | null = null;
  const look = () => {
    const now = hostTheme();
    if (now !== last) changed(now);
    last = now;
  };
  const observer = new MutationObserver(look);
  const attributeFilter = ["class", "theme", "data-theme", "data-jp-theme-light", "data-vscode-theme-kind"];
  for (const node of [document.documentElement, document.body])
    observer.observe(node, { attributes: true, attributeFilter });
  for (const medium of ["print", DARK, FORCED]) on(matchMedia(medium), "change", look, signal);
  whenClosed(signal, () => observer.disconnect());
  look();
}
