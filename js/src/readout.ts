import type { ArrayDtype, Binary, ReadoutHeader } from "./protocol.ts";

export type NumberArray =
  | Int32Array
  | Float32Array
  | Float64Array
  | Uint8Array
  | Uint16Array
  | Int8Array
  | Int16Array;

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

function halfToFloat(halves: Uint16Array): Float32Array {
  return Float32Array.from(halves, (half) => {
    const sign = half & 0x8000 ? -1 : 1;
    const exponent = (half >> 10) & 31;
    const fraction = half & 1023;
    if (exponent === 0) return sign * fraction * 2 ** -24;
    if (exponent === 31) return fraction ? Number.NaN : sign * Number.POSITIVE_INFINITY;
    return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
  });
}

function typed(bytes: Uint8Array, dtype: ArrayDtype): NumberArray {
  // a copy, since a host's buffer need not be aligned for the element type
  const own = bytes.slice().buffer;
  switch (dtype) {
    case "int32":
      return new Int32Array(own);
    case "float32":
      return new Float32Array(own);
    case "float64":
      return new Float64Array(own);
    case "float16":
      return halfToFloat(new Uint16Array(own));
    case "int64":
      return Int32Array.from(new BigInt64Array(own), Number);
    default:
      return new Uint8Array(own);
  }
}

/** Header and buffers to typed arrays, one per named array. */
export function readTile(header: ReadoutHeader, buffers: readonly Binary[]): Tile {
  const arrays = new Map<string, NumberArray>();
  header.arrays.forEach((spec, index) => {
    const buffer = buffers[index];
    if (buffer === undefined) throw new Error(`The readout names ${spec.name} but carries no buffer for it.`);
    arrays.set(spec.name, typed(toBytes(buffer), spec.dtype));
  });
  return { header, arrays };
}
