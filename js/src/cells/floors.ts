import type { Floor, Reading, Show } from "../kernel/protocol.ts";
import type { Transport } from "../kernel/transport.ts";
import { toNumber } from "../look/format.ts";

/** Of each reading and choice, what a cell of each layer must exceed to say more than noise; null where refused. */
export class Floors {
  readonly #known = new Map<string, ReadonlyMap<number, number> | null>();

  of(reading: Reading, show: string): ReadonlyMap<number, number> | null | undefined {
    return this.#known.get(keyOf(reading, show));
  }

  add(reading: Reading, show: string, floor: Floor | null): void {
    const pairs = floor?.layers.map((layer, i) => [layer, toNumber(floor.values[i])] as const);
    this.#known.set(keyOf(reading, show), pairs ? new Map(pairs) : null);
  }
}

const keyOf = ({ site, lens }: Reading, show: string) => `${site}\n${lens}\n${show}`;

/** Asks for the floor of what is shown, once per run and reading, when nothing else is asked for. */
export function createFloors(transport: Transport, arrived: () => void) {
  let isBusy = false;
  return {
    async want(
      { floors: known }: { readonly floors: Floors },
      { site, lens }: Reading,
      show: Show,
    ): Promise<void> {
      const reading = { site, lens };
      if (isBusy || known.of(reading, show) !== undefined || transport.pending().length) return;
      isBusy = true;
      try {
        const { value } = await transport.request("floor", { ...reading, show }).reply;
        known.add(reading, show, value);
      } catch {
        // an older kernel, or a model that no text can be given to: nothing is dimmed
        known.add(reading, show, null);
      }
      isBusy = false;
      arrived();
    },
  };
}
