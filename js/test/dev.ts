// A page to look at the widget without a notebook: `npm run dev`, then open test/dev.html.
import widget, { mountStatic } from "../src/index.ts";
import { FakeKernel } from "./fakekernel.ts";

const params = new URLSearchParams(location.search);
const n_tokens = Number(params.get("tokens") ?? 0);
const words = [
  "<|im_start|>",
  "The",
  "␣Eiffel",
  "␣Tower",
  "␣is",
  "␣in",
  "␣the",
  "␣city",
  "␣of",
  "日本",
  "␣שלום",
  "🙂",
  "E2 82",
  "⏎",
  "␣internationalisation",
];
document.body.dataset.theme = params.get("theme") ?? "light";
document.body.style.cssText = `margin: 0; background: ${params.get("theme") === "dark" ? "#16181c" : "#fff"}`;
const kernel = new FakeKernel({
  n_layers: Number(params.get("layers") ?? 30),
  words: n_tokens ? Array.from({ length: n_tokens }, (_, i) => words[1 + (i % 14)] ?? "") : words,
  delay_ms: Number(params.get("delay") ?? 20),
  n_snapshot: Number(params.get("snapshot") ?? 64),
});
const el = document.createElement("div");
document.body.append(el);
const started = performance.now();
if (params.has("offline")) mountStatic(el, kernel.values as never);
else widget.render({ model: kernel, el });
Object.assign(globalThis, { kernel, mount_ms: performance.now() - started });
