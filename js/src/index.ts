import { staticModel } from "./kernel/staticModel.ts";
import type { Traits } from "./kernel/traits.ts";
import type { HostModel } from "./kernel/transport.ts";
import { createApp } from "./state/app.ts";
import { isOffline } from "./state/selectors.ts";
import { Root } from "./views/root.ts";

/** Show a widget model in an element; returns a function that removes it again. */
function mount(model: HostModel, el: HTMLElement): () => void {
  const controller = new AbortController();
  let root: Root | null = null;
  // ipywidgets marks the views of models that have no kernel: a stored notebook, or a page made of one
  const isStored = !!el.closest(".jupyter-widgets-disconnected");
  const app = createApp(model, () => root?.draw(), controller.signal, { isStored });
  root = new Root(app, el);
  app.flush();
  if (!isOffline(app.get())) app.transport.request("ping", {}).reply.catch(() => {});
  return () => controller.abort();
}

/** anywidget's entry: one call per view. */
function render({ model, el }: { model: HostModel; el: HTMLElement }): () => void {
  return mount(model, el);
}

/**
 * Show a stored widget in a page without a kernel. All views of the stored cells work; a control that needs the kernel
 * says so. `state` holds the traits; buffers may be base64 text.
 */
export function mountStatic(el: HTMLElement, state: Partial<Traits>): () => void {
  return mount(staticModel(state), el);
}

export default { render };
