/// <reference types="vite/client" />
import { expect, test } from "vitest";

/** From the lowest: a file imports from its own folder and from those before it. */
const FOLDERS = ["base", "kernel", "look", "cells", "state", "views", "."];
const SOURCES: Record<string, string> = import.meta.glob("../src/**/*.ts", {
  query: "?raw",
  import: "default",
  eager: true,
});

const nameOf = (href: string) => new URL(href, "file:/").pathname.replace("/src/", "");
const folderOf = (file: string) => (file.includes("/") ? file.slice(0, file.lastIndexOf("/")) : ".");

/** Each source file, named from js/src, with the source files that it imports; types count as well. */
function importsOf(): Map<string, string[]> {
  const read = ([path, text]: [string, string]) => {
    const file = nameOf(`file:/test/${path}`);
    const found = [...text.matchAll(/(?:from|import)\s*\(?\s*"(\.[^"]+)"/g)];
    const imported = found.map(([, other = ""]) => nameOf(new URL(other, `file:/src/${file}`).href));
    return [file, imported] as const;
  };
  return new Map(Object.entries(SOURCES).map(read));
}

/** The files of a circle of imports, or undefined where there is none. */
function circleIn(imports: ReadonlyMap<string, readonly string[]>): string[] | undefined {
  const done = new Set<string>();
  const walk = (file: string, path: readonly string[]): string[] | undefined => {
    if (path.includes(file)) return [...path.slice(path.indexOf(file)), file];
    if (done.has(file)) return undefined;
    for (const next of imports.get(file) ?? []) {
      const circle = walk(next, [...path, file]);
      if (circle) return circle;
    }
    done.add(file);
    return undefined;
  };
  for (const file of imports.keys()) {
    const circle = walk(file, []);
    if (circle) return circle;
  }
  return undefined;
}

const imports = importsOf();

test("every file lies in one of the folders, and imports files that exist", () => {
  expect(imports.size).toBeGreaterThan(30);
  for (const [file, imported] of imports) {
    expect(FOLDERS, file).toContain(folderOf(file));
    for (const other of imported) expect([...imports.keys()], file).toContain(other);
  }
});

test("a file imports only from its own folder and from lower ones", () => {
  const floor = (file: string) => FOLDERS.indexOf(folderOf(file));
  const upwards = [...imports].flatMap(([file, imported]) =>
    imported.filter((other) => floor(other) > floor(file)).map((other) => `${file} imports ${other}`),
  );
  expect(upwards).toEqual([]);
});

test("no files import each other in a circle", () => {
  expect(circleIn(imports)).toBeUndefined();
  // the search itself finds one
  const ring = new Map([
    ["a", ["b"]],
    ["b", ["c"]],
    ["c", ["b"]],
  ]);
  expect(circleIn(ring)).toEqual(["b", "c", "b"]);
});
