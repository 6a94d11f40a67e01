/**
 * Holds the documents: every relative link of theirs leads to a file that there
 * is, every anchor to a heading, and the README to every page.
 *
 * @module
 */

import { assertEquals } from "@std/assert";
import { posix } from "node:path";

const ROOT = new URL("../", import.meta.url);

/** Folders that hold documents of other projects, or none. */
const SKIPPED = new Set([".git", "coverage", "node_modules", "tmp"]);

/** The text of a document without what is code. */
function prose(text: string): string {
  return text
    .replace(/^( *)(`{3,}|~{3,})[^\n]*\n[\s\S]*?^\1\2[ \t]*$/gm, "")
    .replace(
      /(`+)[^`](?:[\s\S]*?[^`])?\1(?!`)/g,
      (code) => code.replace(/[[\]()]/g, " "),
    );
}

/** Where the links of a document lead, in its own words. */
function linksOf(text: string): string[] {
  const source = prose(text);
  const inline = source.matchAll(/\]\(\s*<?([^\s)>]+)>?(?:\s+"[^"]*")?\s*\)/g);
  const defined = source.matchAll(/^ {0,3}\[[^\]]+\]:\s*<?([^\s>]+)>?/gm);
  return [...inline, ...defined].map((match) => match[1]!);
}

/**
 * The anchors of a document's headings, as GitHub makes them: in lower case,
 * without punctuation, with hyphens for spaces; numbered if there are several.
 */
function anchorsOf(text: string): Set<string> {
  const anchors = new Set<string>();
  const code = /^( *)(`{3,}|~{3,})[^\n]*\n[\s\S]*?^\1\2[ \t]*$/gm;
  for (const [, title] of text.replace(code, "").matchAll(/^#+ +(.+)$/gm)) {
    const plain = title!.trim().toLowerCase()
      .replace(/\]\([^)]*\)/g, "")
      .replace(/[^\p{L}\p{N}\p{M} _-]/gu, "").replaceAll(" ", "-");
    let anchor = plain;
    for (let n = 1; anchors.has(anchor); n++) anchor = `${plain}-${n}`;
    anchors.add(anchor);
  }
  return anchors;
}

/**
 * Every link that leads nowhere, as `path: link: what is wrong`.
 *
 * @param documents The documents by their paths.
 * @param exists Whether something else is there.
 */
function deadLinks(
  documents: ReadonlyMap<string, string>,
  exists: (path: string) => boolean,
): string[] {
  const dead: string[] = [];
  for (const [path, text] of documents) {
    for (const link of linksOf(text)) {
      if (/^[a-z][a-z0-9+.-]*:/i.test(link)) continue;
      const [file = "", anchor] = link.split("#");
      const target = file === ""
        ? path
        : posix.join(posix.dirname(path), decodeURIComponent(file));
      const page = documents.get(target);
      if (page === undefined && (target.startsWith("..") || !exists(target))) {
        dead.push(`${path}: ${link}: no such file`);
      } else if (anchor !== undefined && !anchorsOf(page ?? "").has(anchor)) {
        dead.push(`${path}: ${link}: no such heading`);
      }
    }
  }
  return dead;
}

function exists(path: string): boolean {
  try {
    Deno.statSync(new URL(path, ROOT));
    return true;
  } catch {
    return false;
  }
}

async function readDocuments(): Promise<Map<string, string>> {
  const documents = new Map<string, string>();
  const visit = async (folder: string) => {
    for await (const entry of Deno.readDir(new URL(folder || ".", ROOT))) {
      const path = `${folder}${entry.name}`;
      if (entry.isDirectory && !SKIPPED.has(entry.name)) {
        await visit(`${path}/`);
      } else if (entry.isFile && path.endsWith(".md")) {
        documents.set(path, await Deno.readTextFile(new URL(path, ROOT)));
      }
    }
  };
  await visit("");
  return documents;
}

Deno.test("deadLinks() finds links to what there is not, and no others", () => {
  const documents = new Map([
    [
      "README.md",
      "# Top\n## Two words, `code`\n## Top\n" +
      "[a](docs/a.md) [b](docs/b.md) [self](#two-words-code) [twice](#top-1)\n" +
      "[wrong](#two-words) [code](docs/a.md#not-a-heading)\n" +
      "![image](docs/a.svg) [out](https://example.org/x.md) [to][ref]\n" +
      '[title](docs/a.md "A title") [`code`](docs/c.md) `[no](link.md)`\n' +
      "[above](../secret.md)\n\n[ref]: docs/d.md\n",
    ],
    [
      "docs/a.md",
      "# A\n[up](../README.md#top) [down](../README.md#bottom)\n" +
      "```sh\n# not a heading\n[no](link.md)\n```\n",
    ],
  ]);
  assertEquals(
    deadLinks(documents, (path) => path === "docs/a.svg"),
    [
      "README.md: docs/b.md: no such file",
      "README.md: #two-words: no such heading",
      "README.md: docs/a.md#not-a-heading: no such heading",
      "README.md: docs/c.md: no such file",
      "README.md: ../secret.md: no such file",
      "README.md: docs/d.md: no such file",
      "docs/a.md: ../README.md#bottom: no such heading",
    ],
  );
});

Deno.test("every link of the documents leads somewhere", async () => {
  assertEquals(deadLinks(await readDocuments(), exists), []);
});

Deno.test("the README leads to every page, and the package ships them", async () => {
  const documents = await readDocuments();
  const links = new Set(linksOf(documents.get("README.md")!));
  const pages = [...documents.keys()].filter((path) =>
    /^docs\/|^[^/]+$/.test(path) && path !== "README.md"
  );
  assertEquals(pages.filter((path) => !links.has(path)), []);
  const { publish } = JSON.parse(
    await Deno.readTextFile(new URL("deno.json", ROOT)),
  ) as { publish: { include: string[] } };
  assertEquals(
    ["README.md", ...pages].filter((path) =>
      !publish.include.some((each) =>
        each === path || each.endsWith("/") && path.startsWith(each)
      )
    ),
    [],
  );
});
