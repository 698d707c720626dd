import type { HostModel } from "../kernel/transport.ts";
import { createApp } from "../state/app.ts";
import type { App } from "../state/context.ts";
import { isOffline } from "../state/selectors.ts";
import { Root } from "./root.ts";

/** A view of a widget; `close` removes it again. */
export interface Mounted {
  readonly app: App;
  readonly root: Root;
  close(): void;
}

/** Show a widget model in an element; `drawn` is called after each drawing. */
export function mount(model: HostModel, el: HTMLElement, drawn?: (mounted: Mounted) => void): Mounted {
  const controller = new AbortController();
  let mounted: Mounted | null = null;
  // ipywidgets marks the views of models that have no kernel: a stored notebook, or a page made of one
  const isStored = !!el.closest(".jupyter-widgets-disconnected");
  const draw = () => {
    mounted?.root.draw();
    if (mounted) drawn?.(mounted);
  };
  const app = createApp(model, draw, controller.signal, { isStored });
  const root = new Root(app, el);
  mounted = { app, root, close: () => controller.abort() };
  app.flush();
  if (!isOffline(app.get())) app.transport.request("ping", {}).reply.catch(() => {});
  return mounted;
}
