// Builds ../lenswidget/static/widget.{js,css}. The same input gives the same bytes: no hashes, no dates, no map.
import { build, context } from "esbuild";

const outdir = new URL("../lenswidget/static/", import.meta.url).pathname;
const shared = {
  bundle: true,
  minify: true,
  charset: "utf8",
  legalComments: "none",
  logLevel: "info",
  absWorkingDir: new URL(".", import.meta.url).pathname,
};
const parts = [
  {
    ...shared,
    entryPoints: ["src/index.ts"],
    format: "esm",
    target: "es2022",
    outfile: `${outdir}widget.js`,
  },
  // chrome 111 knows color-mix and container queries; light-dark() must stay as written
  { ...shared, entryPoints: ["src/style/index.css"], target: "chrome123", outfile: `${outdir}widget.css` },
];

if (process.argv.includes("--watch")) {
  for (const part of parts) await (await context(part)).watch();
} else {
  await Promise.all(parts.map(build));
}
