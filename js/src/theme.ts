import { atEnd, on } from "./events.ts";
import type { Theme } from "./scales.ts";

/**
 * Light or dark, from the host's own marker; light on paper. VS Code's comes before `--jp-*`, which it defines with light values
 * in dark themes too.
 */
export function hostTheme(): Theme {
  if (matchMedia("print").matches) return "light";
  const html = document.documentElement;
  const { body } = document;
  const vscode =
    body.dataset.vscodeThemeKind ??
    /\bvscode-(dark|light|high-contrast(?:-light)?)\b/.exec(body.className)?.[0];
  if (vscode) return vscode === "vscode-dark" || vscode === "vscode-high-contrast" ? "dark" : "light";
  if (body.dataset.jpThemeLight) return body.dataset.jpThemeLight === "false" ? "dark" : "light";
  const marker = html.getAttribute("theme") ?? body.dataset.theme;
  if (marker) return marker === "dark" ? "dark" : "light";
  return matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
}

/** Tell of the theme whenever the host switches it. */
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
  for (const medium of ["print", "(prefers-color-scheme: dark)"])
    on(matchMedia(medium), "change", look, signal);
  atEnd(signal, () => observer.disconnect());
  look();
}
