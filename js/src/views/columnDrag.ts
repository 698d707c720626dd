import { on } from "../base/events.ts";
import type { App } from "../state/context.ts";
import { setWidth } from "./keys.ts";

/** Drag the right edge of a column's header. */
export function dragColumn(app: App, event: PointerEvent): void {
  const header = event.target instanceof Element ? event.target.closest<HTMLElement>(".lw-colhead") : null;
  const box = header?.getBoundingClientRect();
  if (!header || !box || event.clientX < box.right - 7) return;
  event.preventDefault();
  const start = { x: event.clientX, width: header.offsetWidth };
  const drag = new AbortController();
  const signal = AbortSignal.any([drag.signal, app.signal]);
  const move = ({ clientX }: PointerEvent) => {
    setWidth(app, start.width + clientX - start.x);
  };
  on(window, "pointermove", move, signal);
  for (const end of ["pointerup", "pointercancel"]) on(window, end, () => drag.abort(), signal);
}
