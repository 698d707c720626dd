// Builds ../lenswidget/static/{widget,survey}.{js,css} with esbuild, makes the scripts smaller with terser, and prints
// their sizes. The same input gives the same bytes: no hashes, no dates, no source map. `--watch` rebuilds on every change,
// with an inline source map and without terser.
import { mkdir, writeFile } from "node:fs/promises";
import { basename } from "node:path";
import { gzipSync } from "node:zlib";
import { build, context } from "esbuild";
import { minify } from "terser";

/** Every saved widget carries the script, so it has a budget, in bytes. */
const MOST_RAW = 160_000;
const MOST_GZIP = 61_000;

const outdir = new URL("../lenswidget/static/", import.meta.url).pathname;
const shared = {
  bundle: true,
  minify: true,
  charset: "utf8",
  legalComments: "none",
  absWorkingDir: new URL(".", import.meta.url).pathname,
};
const script = (entry, name) => ({
  ...shared,
  entryPoints: [entry],
  format: "esm",
  target: "es2022",
  outfile: `${outdir}${name}.js`,
});
// chrome 111 knows color-mix and container queries; light-dark() must stay as written
const style = (entry, name) => ({
  ...shared,
  entryPoints: [entry],
  target: "chrome123",
  outfile: `${outdir}${name}.css`,
});
// the widget of a survey has a bundle of its own, which holds the other: no other widget carries its picture
const parts = [
  script("src/index.ts", "widget"),
  style("src/style/index.css", "widget"),
  script("src/survey.ts", "survey"),
  style("src/style/survey.css", "survey"),
];

async function watch() {
  for (const part of parts) {
    const watched = await context({ ...part, sourcemap: "inline", logLevel: "info" });
    await watched.watch();
  }
}

/** The parts of a list that is separated by commas, but for those in brackets. */
function selectorsOf(list) {
  const parts = [""];
  let depth = 0;
  for (const character of list) {
    if (character === "(") depth++;
    if (character === ")") depth--;
    if (character === "," && !depth) parts.push("");
    else parts[parts.length - 1] += character;
  }
  return parts;
}

/**
 * Lifts each rule of a style sheet over those of the page that it comes to, by the weight of two ids. The order among
 * the rules themselves stays.
 */
function lifted(css) {
  const lift = (selector) => selector.replace(/\.(lenswidget|lw-[\w-]+)|\.is-[\w-]+/, "$&:not(#_#_)");
  return css.replace(/[^{}]+(?=\{)/g, (list) =>
    list.startsWith("@") ? list : selectorsOf(list).map(lift).join(","),
  );
}

/** The same script, some hundredths smaller than esbuild alone makes it. */
async function smaller(script) {
  return (await minify(script, { module: true, ecma: 2020, compress: { passes: 2 } })).code;
}

/** Writes the bundle, unless the script is over its budget. */
async function buildAll() {
  const built = await Promise.all(parts.map((part) => build({ ...part, write: false })));
  const finished = built.map(async ({ outputFiles: [{ path, text }] }) => {
    const contents = new TextEncoder().encode(path.endsWith(".css") ? lifted(text) : await smaller(text));
    return { path, contents, gzip: gzipSync(contents, { level: 9 }).length };
  });
  const files = await Promise.all(finished);
  for (const { path, contents, gzip } of files)
    console.log(`${basename(path).padEnd(10)} ${kilobytes(contents.length)} raw, ${kilobytes(gzip)} gzip`);
  const [script] = files; // the widget's
  if (script.contents.length > MOST_RAW || script.gzip > MOST_GZIP) {
    console.error(
      `widget.js is over its budget of ${kilobytes(MOST_RAW)} raw and ${kilobytes(MOST_GZIP)} gzip. Nothing was written.`,
    );
    process.exit(1);
  }
  await mkdir(outdir, { recursive: true });
  await Promise.all(files.map(({ path, contents }) => writeFile(path, contents)));
}

const kilobytes = (n_bytes) => `${(n_bytes / 1000).toFixed(1)} kB`;

await (process.argv.includes("--watch") ? watch() : buildAll());
