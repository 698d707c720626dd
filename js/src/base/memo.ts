import type { Child } from "./dom.ts";

export function sameItems(a: readonly unknown[], b: readonly unknown[]): boolean {
  return a.length === b.length && a.every((value, i) => value === b[i]);
}

interface Kept {
  readonly inputs: readonly unknown[];
  readonly node: Child;
}

/** Keeps the nodes of a drawing by name, for the next one: a node that `patch` has drawn costs it nothing. */
export class Memo {
  #last = new Map<string, Kept>();
  #now = new Map<string, Kept>();

  /** The node of the last drawing, if its inputs were the same ones; else a new one. */
  node(name: string, inputs: readonly unknown[], make: () => Child): Child {
    const last = this.#last.get(name);
    const kept = last && sameItems(last.inputs, inputs) ? last : { inputs, node: make() };
    this.#now.set(name, kept);
    return kept.node;
  }

  /** End a drawing, and forget the nodes that it did not use. */
  end(): void {
    this.#last = this.#now;
    this.#now = new Map();
  }
}
