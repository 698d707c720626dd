import { whenClosed } from "../base/events.ts";
import { DEFAULTS, PAGE_TRAITS, TRAIT_NAMES, type Traits, type ViewTraits } from "../kernel/traits.ts";
import type { HostModel } from "../kernel/transport.ts";

/** Some traits of a model, or all; one that the model does not have is at its default. */
export function readTraits<K extends keyof Traits>(model: HostModel, names: readonly K[]): Pick<Traits, K> {
  const values = names.map((name) => [name, model.get(name) ?? DEFAULTS[name]]);
  return Object.fromEntries(values) as Pick<Traits, K>;
}

/** Listen to the changes of traits. Those of one message come as one change, because `run` and `snapshot` belong together. */
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
        // the selection may be one that this page has not confirmed yet; a new run has the kernel's
        if ("run" in heard) heard = { ...heard, ...readTraits(model, ["selection", "decoded"]) };
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
export function push(model: HostModel, before: ViewTraits, after: ViewTraits): void {
  let isChanged = false;
  for (const name of PAGE_TRAITS) {
    if (before[name] === after[name] || model.get(name) === after[name]) continue;
    model.set(name, after[name]);
    isChanged = true;
  }
  if (isChanged) model.save_changes();
}
