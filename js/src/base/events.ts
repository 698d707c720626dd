/** Listen until the view closes. */
export function on(
  target: EventTarget,
  type: string,
  heard: (event: never) => void,
  signal: AbortSignal,
  options: AddEventListenerOptions = {},
): void {
  target.addEventListener(type, heard as EventListener, { ...options, signal });
}

/** Call `close` when the view closes. */
export function whenClosed(signal: AbortSignal, close: () => void): void {
  signal.addEventListener("abort", close);
}
