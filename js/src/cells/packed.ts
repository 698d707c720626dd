import type { ArrayDtype, Binary, ReadoutHeader } from "../kernel/protocol.ts";

export type NumberArray = Int32Array | Float32Array | Uint8Array;

/** A readout as it arrived: flat arrays, layer-major over `layers` x `positions`. */
export interface Tile {
  readonly header: ReadoutHeader;
  readonly arrays: ReadonlyMap<string, NumberArray>;
}

export function toBytes(buffer: Binary): Uint8Array {
  if (typeof buffer === "string") return Uint8Array.from(atob(buffer), (char) => char.charCodeAt(0));
  if (buffer instanceof ArrayBuffer) return new Uint8Array(buffer);
  return new Uint8Array(buffer.buffer, buffer.byteOffset, buffer.byteLength);
}

function typed(bytes: Uint8Array, dtype: ArrayDtype): NumberArray {
  // copied, because a host's buffer may not be aligned for the element type
  const own = bytes.slice().buffer;
  if (dtype === "int32") return new Int32Array(own);
  return dtype === "float32" ? new Float32Array(own) : new Uint8Array(own);
}

/** The reference's own cells in a tile that compares two runs, as a tile of that run; null in any other tile. */
export function referenceTile({ header, arrays }: Tile): Tile | null {
  const { against } = header;
  if (!against) return null;
  const own = new Map<string, NumberArray>();
  for (const [name, array] of arrays)
    if (name.startsWith("reference_")) own.set(name.slice("reference_".length), array);
  return { header: { ...header, run_id: against, against: null }, arrays: own };
}

/** Unpack a header and its buffers into typed arrays, one per named array. */
export function readTile(header: ReadoutHeader, buffers: readonly Binary[]): Tile {
  const arrays = new Map<string, NumberArray>();
  header.arrays.forEach((spec, index) => {
    const buffer = buffers[index];
    if (buffer === undefined) throw new Error(`The readout names ${spec.name} but carries no buffer for it.`);
    arrays.set(spec.name, typed(toBytes(buffer), spec.dtype));
  });
  return { header, arrays };
}
