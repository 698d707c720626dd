// Builds ../lenswidget/static/widget.{js,css}. The same input gives the same bytes: no hashes, no dates, no map.
import { readFile, writeFile } from "node:fs/promises";
import { parse } from "acorn";
import { build, context } from "esbuild";
import { minify } from "terser";

const outdir = new URL("../lenswidget/static/", import.meta.url).pathname;
const shared = {
  bundle: true,
  minify: true,
  charset: "utf8",
  legalComments: "none",
  logLevel: "info",
  absWorkingDir: new URL(".", import.meta.url).pathname,
};
// Names of our own that occur often and mean nothing to the page, the host or the wire: shortened in the bundle,
// which every saved widget carries. A trait, a message field or a name of the DOM must never be among them.
const OURS = `
  traits dispatch connection isPending isExact isCancelled transport trajectories col_px row_px head_row_px
  head_col_px isAcross nearLayers nearPositions flush setViewport setTheme offerText local draft notice running
  panel said ticks vnode props fields tiles needs unit request reply currentShape pageRows cellOf element cells
  pending progress alive overheard arrived query patch chroma addLabels version look expanded hues index isPatient n_opened
  kernelCard tellSelection isStale follow hide dash ink css draw grid last cell note cols col row lines node page
  tops scalar overview size_px pick want poke measured ranks notes width_px tile card decode
  stops tick format shape viewport wishes whole failed takeFocus room_px surface
`;
const parts = [
  {
    ...shared,
    entryPoints: ["src/index.ts"],
    format: "esm",
    target: "es2022",
    mangleProps: new RegExp(`^(${OURS.trim().split(/\s+/).join("|")})$`),
    outfile: `${outdir}widget.js`,
  },
  // chrome 111 knows color-mix and container queries; light-dark() must stay as written
  { ...shared, entryPoints: ["src/style/index.css"], target: "chrome123", outfile: `${outdir}widget.css` },
];

/**
 * The functions of a module as arrows, which are shorter. None of ours is constructed, asks for its own `this`, or is
 * called while the modules before its own are loaded: the bundle has them in the order of their imports.
 */
function asArrows(code) {
  const texts = [];
  let at = 0;
  const replace = (start, end, text) => {
    texts.push(code.slice(at, start), text);
    at = end;
  };
  const program = parse(code, { ecmaVersion: 2022, sourceType: "module" });
  for (const { type, start, end, id, async, generator, body } of program.body) {
    if (type !== "FunctionDeclaration" || generator) continue;
    replace(start, id.end, `var ${id.name}=${async ? "async" : ""}`);
    replace(body.start, body.start, "=>");
    replace(end, end, ";");
  }
  return texts.join("") + code.slice(at);
}

if (process.argv.includes("--watch")) {
  for (const part of parts) await (await context(part)).watch();
} else {
  await Promise.all(parts.map(build));
  // a second pass saves another 4 %
  const path = `${outdir}widget.js`;
  const { code } = await minify(asArrows(await readFile(path, "utf8")), {
    module: true,
    ecma: 2020,
    // unsafe: only where somebody changed JavaScript's own objects; pure_getters: no property is read for its effect;
    // arrows: no function of ours is constructed, or asks for its own `this` or `arguments`
    compress: {
      passes: 4,
      unsafe: true,
      unsafe_arrows: true,
      pure_getters: true,
      hoist_funs: true,
    },
  });
  await writeFile(path, `${code}\n`);
}
