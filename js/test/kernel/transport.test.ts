import { expect, test, vi } from "vitest";
import { createTransport } from "../../src/kernel/transport.ts";
import { FakeKernel } from "../fakekernel.ts";

function setUp() {
  const kernel = new FakeKernel();
  const controller = new AbortController();
  const events = { progress: vi.fn(), replyToOtherView: vi.fn(), alive: vi.fn(), lost: vi.fn() };
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

test("an error keeps the kernel's own words", async () => {
  const { transport } = setUp();
  await expect(transport.request("run", { prompt: "" }).reply).rejects.toThrow(
    "The prompt is empty. Type at least one character.",
  );
});

test("a reply to another view is passed on, and settles no request of this one", () => {
  const { kernel, events } = setUp();
  kernel.emit("msg:custom", { id: "other:0", value: 1 }, []);
  expect(events.replyToOtherView).toHaveBeenCalledWith(1, []);
});

test("closing the view forgets the open requests and leaves no listener", () => {
  const { kernel, controller, transport } = setUp();
  kernel.isSilent = true;
  const settled = vi.fn();
  transport.request("ping", {}).reply.then(settled, settled);
  controller.abort();
  expect(transport.pending()).toEqual([]);
  expect(kernel.n_listeners()).toBe(0);
  expect(settled).not.toHaveBeenCalled();
});

test("a host that cannot send rejects the request at once", async () => {
  const { kernel, transport } = setUp();
  kernel.send = () => {
    throw new Error("no comm");
  };
  await expect(transport.request("ping", {}).reply).rejects.toMatchObject({ type: "Disconnected" });
});

test("when the kernel goes, every open request is rejected", async () => {
  const { kernel, transport } = setUp();
  kernel.isSilent = true;
  const { reply } = transport.request("ping", {});
  transport.drop();
  await expect(reply).rejects.toMatchObject({ type: "Disconnected" });
  expect(transport.pending()).toEqual([]);
});
