import { onTestFinished } from "vitest";

/** A signal that the test's end aborts: what still comes then finds the view closed. */
export function duringTest(): AbortSignal {
  const controller = new AbortController();
  onTestFinished(() => controller.abort());
  return controller.signal;
}
