import { build } from "esbuild";

const absWorkingDir = new URL("..", import.meta.url).pathname;
const shared = { bundle: true, charset: "utf8", absWorkingDir, logLevel: "info" };
await build({
  ...shared,
  entryPoints: ["test/dev.ts"],
  format: "esm",
  target: "es2022",
  outfile: "test/dist/dev.js",
});
await build({
  ...shared,
  entryPoints: ["src/style/index.css"],
  target: "chrome123",
  outfile: "test/dist/widget.css",
});
