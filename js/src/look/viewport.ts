import { extentOf, type Scroll, type Shape, windowOf } from "./layout.ts";

/** What the picture of a long prompt holds of the grid. */
export interface Sample {
  /** The positions of the picture's columns, and the layers of its rows, the last first. */
  readonly positions: readonly number[];
  readonly layers: readonly number[];
  /**
   * How many columns of the picture a position stands for until those between are known. In the order in which they
   * are best requested: a coarse picture first, then finer ones.
   */
  readonly spans: ReadonlyMap<number, number>;
}

/** Of more columns or rows than this, only some are drawn; the page scales the picture. */
const MAX_COLS = 1024;
const MAX_ROWS = 32;
/** Of more columns than this, only some are requested where nobody looks at their cells. */
const MAX_SPANS = 256;
/** The coarse picture has one in so many of them. */
const COARSE = 8;

const samples = new WeakMap<Shape, Sample>();

export function sampleOf(shape: Shape): Sample {
  const { isAcross, rows, cols } = shape;
  let sample = samples.get(shape);
  if (!sample) {
    const layers = [...(isAcross ? rows : cols)].sort((a, b) => b - a);
    const positions = evenly(isAcross ? cols : rows, MAX_COLS);
    sample = { positions, layers: evenly(layers, MAX_ROWS), spans: spansOf(positions) };
    samples.set(shape, sample);
  }
  return sample;
}

/** Of more than `most` values, as many as that at even distances. */
function evenly(values: readonly number[], most: number): number[] {
  const n = Math.min(values.length, most);
  return Array.from({ length: n }, (_, i) => values[Math.floor((i * values.length) / n)] as number);
}

function spansOf(positions: readonly number[]): Map<number, number> {
  const spans = new Map<number, number>();
  const finest = Math.ceil(positions.length / MAX_SPANS);
  for (let span = COARSE * finest; span >= finest; span /= 2)
    for (let i = 0; i < positions.length; i += span) {
      const position = positions[i] as number;
      if (!spans.has(position)) spans.set(position, span);
    }
  return spans;
}

/** The layers (last first) and positions (in order) in view, and those near it. */
export interface Viewport {
  readonly layers: readonly number[];
  readonly positions: readonly number[];
  readonly nearLayers: readonly number[];
  readonly nearPositions: readonly number[];
  /** The cells of the overview's picture, those of a coarse one first; null where the view holds all positions. */
  readonly far: Pick<Sample, "layers" | "spans"> | null;
}

/** The layers and positions in view, those a screenful around them, and those of the overview. */
export function viewportOf(shape: Shape, scroll: Scroll): Viewport {
  const { r0, r1, c0, c1 } = windowOf(shape, scroll, false);
  const rows = Math.max(1, r1 - r0);
  const cols = Math.max(1, c1 - c0);
  const clip = (items: readonly number[], from: number, to: number) => items.slice(Math.max(0, from), to);
  const inView = [clip(shape.rows, r0, r1), clip(shape.cols, c0, c1)] as const;
  const near = [clip(shape.rows, r0 - rows, r1 + rows), clip(shape.cols, c0 - cols, c1 + cols)] as const;
  const i = shape.isAcross ? 0 : 1;
  const { size_px, whole } = extentOf(shape, scroll);
  const lastFirst = (layers: readonly number[]) => [...layers].sort((a, b) => b - a);
  return {
    layers: lastFirst(inView[i]),
    positions: inView[1 - i] as number[],
    nearLayers: lastFirst(near[i]),
    nearPositions: near[1 - i] as number[],
    far: size_px < whole ? sampleOf(shape) : null,
  };
}
