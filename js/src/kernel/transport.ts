import { atEnd } from "../base/events.ts";
import type { Binary, Incoming, Kind, Requests } from "./protocol.ts";

/** The part of a host's widget model that we use; an exported file brings its own. */
export interface HostModel {
  get(name: string): unknown;
  set(name: string, value: unknown): void;
  save_changes(): void;
  send(content: unknown, callbacks?: unknown, buffers?: unknown): void;
  on(event: string, callback: (...args: never[]) => void): void;
  off(event: string, callback: (...args: never[]) => void): void;
}

/** A failure in the kernel's own words. */
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
  overheard(value: unknown, buffers: readonly Binary[]): void;
  /** Something arrived, so the kernel lives. */
  alive(): void;
}

export interface Transport {
  request<K extends Kind>(kind: K, ask: Requests[K]["ask"]): Pending<K>;
  /** Requests without a reply so far. */
  pending(): readonly string[];
  /** The kernel is gone: what is still open will not be answered. */
  drop(): void;
}

interface Waiting {
  resolve(reply: { value: never; buffers: readonly Binary[] }): void;
  reject(error: KernelError): void;
}

const disconnected = () =>
  new KernelError("Disconnected", "No kernel takes this. Run the cell again to reconnect.");

/**
 * Requests over `model.send` and `msg:custom`, which every host has. Replies go to all views of a widget, so ids
 * carry the view's own name. There is no timeout: a kernel that is busy answers later. When the view goes, nobody
 * waits any more for what is still open; when the kernel goes, whoever waits is told.
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
      if ("value" in content) events.overheard(content.value, buffers);
      return;
    }
    waiting.delete(content.id);
    if ("error" in content) entry.reject(new KernelError(content.error.type, content.error.message));
    else entry.resolve({ value: content.value as never, buffers });
  };
  model.on("msg:custom", receive);
  atEnd(signal, () => {
    model.off("msg:custom", receive);
    waiting.clear();
  });

  return {
    request(kind, ask) {
      const id = `${view}:${n_sent++}`;
      const reply = new Promise<Reply<typeof kind>>((resolve, reject) => {
        waiting.set(id, { resolve: resolve as Waiting["resolve"], reject });
        try {
          model.send({ id, kind, ...ask });
        } catch {
          waiting.delete(id);
          reject(disconnected());
        }
      });
      return { id, reply };
    },
    pending: () => [...waiting.keys()],
    drop() {
      for (const { reject } of waiting.values()) reject(disconnected());
      waiting.clear();
    },
  };
}
