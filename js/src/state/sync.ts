import { whenClosed } from "../base/events.ts";
import type { Traits } from "../kernel/protocol.ts";
import { DEFAULTS, KERNEL_ONLY, TRAIT_NAMES } from "../kernel/traits.ts";
import type { HostModel } from "../kernel/transport.ts";

/** All traits of a model; what it does not have keeps its default. */
export function readTraits(model: HostModel): Traits {
  const traits: Record<string, unknown> = { ...DEFAULTS };
  for (const name of TRAIT_NAMES) {
    const value = model.get(name);
    if (value !== undefined) traits[name] = value;
  }
  return traits as unknown as Traits;
}

/**
 * Hear the kernel's changes: all that one message brings come as one change, since `run` and `snapshot` belong
 * together.
 */
export function listen(
  model: HostModel,
  changed: (traits: Partial<Traits>) => void,
  signal: AbortSignal,
): void {
  let heard: Record<string, unknown> = {};
  let isQueued = false;
  for (const name of TRAIT_NAMES) {
    const hear = () => {
      heard[name] = model.get(name);
      if (isQueued) return;
      isQueued = true;
      queueMicrotask(() => {
        isQueued = false;
        const traits = heard as Partial<Traits>;
        heard = {};
        if (!signal.aborted) changed(traits);
      });
    };
    model.on(`change:${name}`, hear);
    whenClosed(signal, () => model.off(`change:${name}`, hear));
  }
}

/** Send what this view changed. */
export function push(model: HostModel, before: Traits, after: Traits): void {
  let isChanged = false;
  for (const name of TRAIT_NAMES) {
    if (before[name] === after[name] || KERNEL_ONLY.has(name) || model.get(name) === after[name]) continue;
    model.set(name, after[name]);
    isChanged = true;
  }
  if (isChanged) model.save_changes();
}
