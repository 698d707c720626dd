import type { Traits } from "./traits.ts";
import type { HostModel } from "./transport.ts";

/** A widget model for a page without a kernel: it keeps the values it is given and sends nothing. */
export function staticModel(state: Partial<Traits>): HostModel {
  const offline = { state: "offline", text: "", done: 0, total: 0 };
  const values: Record<string, unknown> = { ...state, status: offline };
  return {
    get: (name) => values[name],
    set: (name, value) => {
      values[name] = value;
    },
    save_changes: () => {},
    send: () => {},
    on: () => {},
    off: () => {},
  };
}
