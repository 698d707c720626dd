/** The colours of the page that a widget stands in, where it names no theme: read, not guessed. */

type Rgb = readonly [red: number, green: number, blue: number];

export interface PageColors {
  readonly isDark: boolean;
  readonly surface: Rgb;
  readonly ink: Rgb | null;
}

/** The node around another one, out of shadow roots and of frames that may be looked out of. */
function around(node: Node): Node | null {
  if (node instanceof Element && node.assignedSlot) return node.assignedSlot;
  if (node instanceof ShadowRoot) return node.host;
  if (node !== node.ownerDocument?.documentElement) return node.parentNode;
  try {
    return node.ownerDocument.defaultView?.frameElement ?? null;
  } catch {
    return null;
  }
}

/** The elements around one, the nearest first. */
export function elementsAround(element: Element): Element[] {
  const found: Element[] = [];
  for (let node = around(element); node; node = around(node)) if (node instanceof Element) found.push(node);
  return found;
}

let pixel: CanvasRenderingContext2D | null = null;

/** What is seen of some CSS colours, in any notation, laid over one another from the last to the first. */
function blend(colors: readonly string[]): Rgb | null {
  if (!pixel) {
    const canvas = document.createElement("canvas");
    canvas.width = canvas.height = 1;
    pixel = canvas.getContext("2d", { willReadFrequently: true });
  }
  if (!pixel) return null;
  pixel.clearRect(0, 0, 1, 1);
  for (const color of [...colors].reverse()) {
    pixel.fillStyle = color;
    pixel.fillRect(0, 0, 1, 1);
  }
  const [red = 0, green = 0, blue = 0, alpha = 0] = pixel.getImageData(0, 0, 1, 1).data;
  return alpha === 255 ? [red, green, blue] : null;
}

/** The colour under all backgrounds of a page: white, unless the page says that it knows dark ones. */
function canvasColor(root: Element): string {
  const probe = document.createElement("i");
  probe.style.cssText = "position: absolute; color: Canvas !important";
  root.append(probe);
  const { color } = getComputedStyle(probe);
  probe.remove();
  return color;
}

const channel = (value: number) => (value <= 10 ? value / 3294 : ((value / 255 + 0.055) / 1.055) ** 2.4);

/** Relative luminance, 0 (black) to 1 (white). Source: WCAG 2.2. */
export function luminance([red, green, blue]: Rgb): number {
  return 0.2126 * channel(red) + 0.7152 * channel(green) + 0.0722 * channel(blue);
}

/** The contrast ratio of two colours, 1 to 21. Source: WCAG 2.2. */
export function contrast(a: Rgb, b: Rgb): number {
  const [low = 0, high = 0] = [luminance(a), luminance(b)].sort((x, y) => x - y);
  return (high + 0.05) / (low + 0.05);
}

/**
 * What is behind an element: the first opaque background, under those that let it through. Null where nothing says,
 * which is in a frame of another origin that paints no background of its own.
 */
export function pageColors(element: Element): PageColors | null {
  if (!element.isConnected) return null;
  const elements = elementsAround(element);
  const backgrounds = elements.map((each) => getComputedStyle(each).backgroundColor);
  const opaque = backgrounds.findIndex((color) => blend([color]));
  const root = elements.at(-1)?.ownerDocument;
  if (opaque < 0 && (!root || root.defaultView !== root.defaultView?.top)) return null;
  const layers = opaque < 0 ? [...backgrounds, canvasColor(root?.documentElement as Element)] : backgrounds;
  const surface = blend(opaque < 0 ? layers : layers.slice(0, opaque + 1));
  if (!surface || !elements[0]) return null;
  const isDark = contrast(surface, [255, 255, 255]) > contrast(surface, [0, 0, 0]);
  return { isDark, surface, ink: blend([getComputedStyle(elements[0]).color]) };
}
