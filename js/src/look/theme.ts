import { on, whenClosed } from "../base/events.ts";
import { sameItems } from "../base/memo.ts";
import { contrast, elementsAround, type PageColors, pageColors } from "./background.ts";
import type { Theme } from "./scales.ts";

const DARK = "(prefers-color-scheme: dark)";
/** High contrast: the system's few colours replace those of the host. */
const FORCED = "(forced-colors: active)";
/** What hosts mark their theme with, on the page or around the widget. */
const MARKERS = ["theme", "data-theme", "data-bs-theme", "data-jp-theme-light", "data-vscode-theme-kind"];
/** The least contrast of text, and of the theme's dim text (theme.css has the same colours). Source: WCAG 2.2. */
const [TEXT_CONTRAST, DIM_CONTRAST] = [7, 4.5];
const DIM = { light: [86, 92, 102], dark: [163, 169, 180] } as const;

/** How the widget looks: light or dark, and the page's own colours where the host's stylesheet names none. */
export interface HostLook {
  readonly theme: Theme;
  readonly surface: string | null;
  readonly ink: string | null;
}

/** Whether the host marks itself as dark; undefined if it has no marker. */
function saysDark(element: Element): boolean | undefined {
  const { body, documentElement } = document;
  const vscode = vscodeKind();
  if (vscode) return /dark|contrast$/.test(vscode);
  if (body.dataset.jpThemeLight) return body.dataset.jpThemeLight === "false";
  const around = elementsAround(element).find((each) => each.hasAttribute("data-bs-theme"));
  const markers = [documentElement.getAttribute("theme"), body.dataset.theme, documentElement.dataset.theme];
  const marker = [around?.getAttribute("data-bs-theme"), ...markers].find(
    (value) => value === "dark" || value === "light",
  );
  return marker && marker === "dark";
}

function vscodeKind(): string | undefined {
  const { body } = document;
  return body.dataset.vscodeThemeKind ?? /\bvscode-(dark|light|high-contrast\S*)/.exec(body.className)?.[0];
}

/** Whether theme.css takes the host's own colours: VS Code's, and those of JupyterLab but not of voila's pages. */
function namesColors(): boolean {
  const { body } = document;
  return !!vscodeKind() || (!!body.dataset.jpThemeLight && !body.dataset.voila);
}

const css = (color: readonly number[]) => `rgb(${color.join(" ")})`;

/** The page's own colours, as far as they go with the theme and text can be read on them. */
function taken(page: PageColors | null, theme: Theme): Pick<HostLook, "surface" | "ink"> {
  const isFit = page?.isDark === (theme === "dark") && contrast(page.surface, DIM[theme]) >= DIM_CONTRAST;
  if (!isFit) return { surface: null, ink: null };
  const { surface, ink } = page;
  return {
    surface: css(surface),
    ink: ink && contrast(surface, ink) >= TEXT_CONTRAST ? css(ink) : null,
  };
}

/**
 * Light or dark: by the host's own marker, else by the first opaque background behind the widget, else by the system;
 * light on paper. VS Code's marker is read first, because VS Code also sets Jupyter's variables, with light values in
 * dark themes.
 */
function hostLook(element: Element): HostLook {
  const is = (medium: string) => matchMedia(medium).matches;
  const none = { surface: null, ink: null };
  if (is("print")) return { theme: "light", ...none };
  if (is(FORCED)) return { theme: is(DARK) ? "dark" : "light", ...none };
  const page = namesColors() ? null : pageColors(element);
  const isDark = saysDark(element) ?? page?.isDark ?? is(DARK);
  const theme = isDark ? "dark" : "light";
  return { theme, ...taken(page, theme) };
}

/** Calls `changed` with the look of the host now, and again when the host switches it. */
export function followTheme(element: Element, changed: (look: HostLook) => void, signal: AbortSignal): void {
  let last: HostLook | null = null;
  let frame = 0;
  const look = () => {
    const now = hostLook(element);
    const isSame = now.theme === last?.theme && now.surface === last.surface && now.ink === last.ink;
    last = now;
    if (!isSame) changed(now);
  };
  // styles come in many pieces, so they are looked at once per frame
  const lookSoon = () => {
    cancelAnimationFrame(frame);
    frame = requestAnimationFrame(look);
  };
  const marked = new MutationObserver(look);
  const styled = new MutationObserver(lookSoon);
  let around: readonly Element[] | null = null;
  const watch = () => {
    const found = elementsAround(element);
    if (around && sameItems(found, around)) return;
    around = found;
    marked.disconnect();
    const { body, documentElement } = document;
    const options = { attributes: true, attributeFilter: [...MARKERS, "class", "style"] };
    for (const node of new Set([documentElement, body, ...found])) marked.observe(node, options);
    look();
  };
  styled.observe(document.head, { childList: true, subtree: true, attributes: true, characterData: true });
  // when it is put into the page, or elsewhere in it
  const placed = new ResizeObserver(watch);
  placed.observe(element);
  // a style sheet has come; a fade from one theme to the other is over
  for (const type of ["load", "transitionend"]) on(document, type, lookSoon, signal, { capture: true });
  // nothing tells of a change that scripts made to a style sheet
  for (const type of ["pointerenter", "focusin"]) on(element, type, lookSoon, signal);
  for (const medium of ["print", DARK, FORCED]) on(matchMedia(medium), "change", look, signal);
  whenClosed(signal, () => {
    for (const observer of [marked, styled, placed]) observer.disconnect();
    cancelAnimationFrame(frame);
  });
  watch();
}
