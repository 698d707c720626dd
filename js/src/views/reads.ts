import { type Child, div, h, patch } from "../base/dom.ts";
import { sameItems } from "../base/memo.ts";
import type { CellRange, Shape } from "../look/layout.ts";
import type { Reads } from "../state/why.ts";
import type { Head } from "./heads.ts";

/** A column from which less was read is not marked. */
const LEAST_SHARE = 0.02;
/** So many arcs at most. */
const MOST_ARCS = 12;

/** The head of a column that was read, tinted by how much; sinks are hatched. */
export function readHead(head: Head, reads: Reads | null, position: number): Head {
  const share = reads?.shares[position] ?? 0;
  if (!reads || share < LEAST_SHARE) return head;
  const isSink = reads.sinks.includes(position);
  const by = reads.head === null ? "" : ` by head ${reads.head}`;
  const told = `${isSink ? "a sink, " : ""}read${by}: ${(100 * share).toFixed(0)} %`;
  return {
    ...head,
    title: `${head.title}; ${told}`,
    className: `${head.className} is-read${isSink ? " is-sink" : ""}`,
    share,
  };
}

/** Over the cells: the columns that were read, and arcs from them to the cell for a single head. Not for the pointer. */
export class ReadsLayer {
  readonly element = div("lw-readlayer");
  #key: unknown[] = [];

  constructor() {
    this.element.ariaHidden = "true";
  }

  draw(reads: Reads | null, shape: Shape, window: CellRange): void {
    const { r0, r1, c0, c1 } = window;
    const key = [reads, shape, ...(reads ? [r0, r1, c0, c1] : [])];
    if (sameItems(key, this.#key)) return;
    this.#key = key;
    patch(this.element, reads ? [columns(reads, shape, window), arcs(reads, shape)] : []);
  }
}

function columns({ shares }: Reads, shape: Shape, { r0, r1, c0, c1 }: CellRange): Child {
  const { isAcross, rows, cols, col_px, row_px, head_col_px } = shape;
  const [positions, from, to] = isAcross ? [cols, c0, c1] : [rows, r0, r1];
  return positions.slice(from, to).map((position, i) => {
    const share = shares[position] ?? 0;
    if (share < LEAST_SHARE) return null;
    const at = from + i;
    const style = isAcross
      ? { left: `${head_col_px + at * col_px}px`, width: `${col_px}px`, top: "0", bottom: "0" }
      : { top: `${at * row_px}px`, height: `${row_px}px`, left: `${head_col_px}px`, right: "0" };
    return h("i.lw-readcolumn", { key: position, style: { ...style, opacity: Math.sqrt(share).toFixed(2) } });
  });
}

/** From each column that a head read, at the layer below, to the cell. */
function arcs({ layer, position, head, shares, sinks }: Reads, shape: Shape): Child {
  const { isAcross, rows, cols, col_px, row_px, head_col_px } = shape;
  const [layers, positions] = isAcross ? [rows, cols] : [cols, rows];
  const [to, below] = [layers.indexOf(layer), layers.indexOf(layer - 1)];
  const own = positions.indexOf(position);
  if (head === null || to < 0 || own < 0) return null;
  const from = below < 0 ? to : below;
  const place = (at: number, of_layer: number) => {
    const [col, row] = isAcross ? [at, of_layer] : [of_layer, at];
    return [head_col_px + (col + 0.5) * col_px, (row + 0.5) * row_px] as const;
  };
  const [x1, y1] = place(own, to);
  const strongest = [...shares.entries()]
    .filter(([at, share]) => at !== position && share >= LEAST_SHARE && positions.includes(at))
    .sort(([, a], [, b]) => b - a)
    .slice(0, MOST_ARCS);
  const size = { width: head_col_px + cols.length * col_px, height: rows.length * row_px };
  return h(
    "svg.lw-arcs",
    { key: "arcs", ...size },
    strongest.map(([at, share]) => {
      const [x0, y0] = place(positions.indexOf(at), from);
      // along the layers' axis the arc swings out by a part of its length
      const swing = 8 + 0.12 * Math.abs(isAcross ? x1 - x0 : y1 - y0);
      const bent = isAcross
        ? `C${x0} ${y0 + swing} ${x1} ${y1 + swing} ${x1} ${y1}`
        : `C${x0 - swing} ${y0} ${x1 - swing} ${y1} ${x1} ${y1}`;
      return h("path", {
        key: at,
        d: `M${x0} ${y0}${bent}`,
        class: sinks.includes(at) ? "is-sink" : "",
        "stroke-width": (0.75 + 3.5 * share).toFixed(2),
      });
    }),
  );
}
