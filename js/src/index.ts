import { staticModel } from "./kernel/staticModel.ts";
import type { Traits } from "./kernel/traits.ts";
import type { HostModel } from "./kernel/transport.ts";
import { mount } from "./views/mount.ts";

/** anywidget's entry: one call per view; returns a function that removes it again. */
function render({ model, el }: { model: HostModel; el: HTMLElement }): () => void {
  return mount(model, el).close;
}

/**
 * Show a stored widget in a page without a kernel. All views of the stored cells work; a control that needs the kernel
 * says so. `state` holds the traits; buffers may be base64 text.
 */
export function mountStatic(el: HTMLElement, state: Partial<Traits>): () => void {
  return mount(staticModel(state), el).close;
}

export default { render };
