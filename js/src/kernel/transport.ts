import { whenClosed } from "../base/events.ts";
import type { Binary, Incoming, Kind, Requests } from "./protocol.ts";

/** The methods used of a host's widget model; `staticModel` has them too. */
export interface HostModel {
  get(name: string): unknown;
  set(name: string, value: unknown): void;
  save_changes(): void;
  send(content: unknown, callbacks?: unknown, buffers?: unknown): void;
  on(event: string, callback: (...args: never[]) => void): void;
  off(event: string, callback: (...args: never[]) => void): void;
}

/** An error that the kernel replied with; the message is the kernel's own. */
export class KernelError extends Error {
  constructor(
    readonly type: string,
    message: string,
  ) {
    super(message);
  }
}

export interface Reply<K extends Kind> {
  readonly value: Requests[K]["reply"];
  readonly buffers: readonly Binary[];
}

export interface Pending<K extends Kind> {
  readonly id: string;
  readonly reply: Promise<Reply<K>>;
}

export interface TransportEvents {
  progress(id: string, done: number, total: number): void;
  /** A reply to another view of the same widget. */
  replyToOtherView(value: unknown, buffers: readonly Binary[]): void;
  /** A message arrived, so the kernel is alive. */
  alive(): void;
  /** The host did not take a request: no kernel is there any more. */
  lost(): void;
}

export interface Transport {
  /** `isIdle` says that nobody waits for the reply. */
  request<K extends Kind>(kind: K, request: Requests[K]["request"], isIdle?: boolean): Pending<K>;
  /** The ids of requests that have no reply yet and that somebody waits for. */
  pending(): readonly string[];
  /** Reject all open requests: the kernel is gone and will not answer them. */
  drop(): void;
}

interface Waiting {
  readonly isIdle: boolean;
  resolve(reply: { value: never; buffers: readonly Binary[] }): void;
  reject(error: KernelError): void;
}

const disconnected = () =>
  new KernelError("Disconnected", "The kernel did not get this request. Run the cell again to reconnect.");

/**
 * Requests over `model.send` and `msg:custom`, which every host has. Replies reach all views of a widget, so an id
 * starts with the view's own name. There is no timeout, since a busy kernel answers later. Closing the view forgets
 * the open requests; `drop` rejects them.
 */
export function createTransport(model: HostModel, events: TransportEvents, signal: AbortSignal): Transport {
  const view = Math.random().toString(36).slice(2, 10);
  const waiting = new Map<string, Waiting>();
  let n_sent = 0;

  const receive = (content: Incoming, buffers: readonly Binary[] = []): void => {
    if (!content || typeof content !== "object" || !("id" in content)) return;
    events.alive();
    if ("kind" in content) {
      events.progress(content.id, content.done, content.total);
      return;
    }
    const entry = waiting.get(content.id);
    if (!entry) {
      if ("value" in content) events.replyToOtherView(content.value, buffers);
      return;
    }
    waiting.delete(content.id);
    if ("error" in content) entry.reject(new KernelError(content.error.type, content.error.message));
    else entry.resolve({ value: content.value as never, buffers });
  };
  model.on("msg:custom", receive);
  whenClosed(signal, () => {
    model.off("msg:custom", receive);
    waiting.clear();
  });

  return {
    request(kind, request, isIdle = false) {
      const id = `${view}:${n_sent++}`;
      const reply = new Promise<Reply<typeof kind>>((resolve, reject) => {
        waiting.set(id, { isIdle, resolve: resolve as Waiting["resolve"], reject });
        try {
          model.send({ id, kind, ...request });
        } catch {
          waiting.delete(id);
          reject(disconnected());
          events.lost();
        }
      });
      return { id, reply };
    },
    pending: () => [...waiting].filter(([, { isIdle }]) => !isIdle).map(([id]) => id),
    drop() {
      for (const { reject } of waiting.values()) reject(disconnected());
      waiting.clear();
    },
  };
}
