import { expect, test, vi } from "vitest";
import { createTransport } from "../../src/kernel/transport.ts";
import { FakeKernel } from "../fakekernel.ts";

function setUp() {
  const kernel = new FakeKernel();
  const controller = new AbortController();
  const events = { progress: vi.fn(), overheard: vi.fn(), alive: vi.fn() };
  return { kernel, controller, events, transport: createTransport(kernel, events, controller.signal) };
}

test("a reply reaches its own request, whatever the order", async () => {
  const { kernel, transport } = setUp();
  kernel.isSilent = true;
  const first = transport.request("ping", {});
  const second = transport.request("ping", {});
  kernel.emit("msg:custom", { id: second.id, value: { n: 2 } });
  kernel.emit("msg:custom", { id: first.id, value: { n: 1 } });
  expect(await first.reply).toMatchObject({ value: { n: 1 } });
  expect(await second.reply).toMatchObject({ value: { n: 2 } });
});

test("the kernel's words come as they are", async () => {
  const { transport } = setUp();
  await expect(transport.request("run", { prompt: "" }).reply).rejects.toThrow(
    "The prompt is empty. Type at least one character.",
  );
});

test("replies to another view are overheard, not taken", () => {
  const { kernel, events } = setUp();
  kernel.emit("msg:custom", { id: "other:0", value: 1 }, []);
  expect(events.overheard).toHaveBeenCalledWith(1, []);
});

test("after closing the view nothing is waited for, and no listener is left", () => {
  const { kernel, controller, transport } = setUp();
  kernel.isSilent = true;
  const settled = vi.fn();
  transport.request("ping", {}).reply.then(settled, settled);
  controller.abort();
  expect(transport.pending()).toEqual([]);
  expect(kernel.n_listeners()).toBe(0);
  expect(settled).not.toHaveBeenCalled();
});

test("a host that cannot send rejects instead of waiting for ever", async () => {
  const { kernel, transport } = setUp();
  kernel.send = () => {
    throw new Error("no comm");
  };
  await expect(transport.request("ping", {}).reply).rejects.toMatchObject({ type: "Disconnected" });
});

test("whoever waits is told that the kernel went", async () => {
  const { kernel, transport } = setUp();
  kernel.isSilent = true;
  const { reply } = transport.request("ping", {});
  transport.drop();
  await expect(reply).rejects.toMatchObject({ type: "Disconnected" });
  expect(transport.pending()).toEqual([]);
});
