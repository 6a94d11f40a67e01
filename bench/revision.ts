/**
 * Another revision of this repository as a directory, to be measured beside this
 * one.
 *
 * @module
 */

import { pathToFileURL } from "node:url";

/** A revision that Git does not know, or cannot unpack. */
export class RevisionError extends Error {}

/** A tree of its own, gone when it is disposed of. */
export class Revision implements AsyncDisposable {
  /** The commit, abbreviated. */
  readonly name: string;
  /** Where the tree is. */
  readonly directory: string;

  private constructor(name: string, directory: string) {
    this.name = name;
    this.directory = directory;
  }

  /**
   * Unpacks a revision.
   *
   * @param revision As Git takes it: a commit, a branch, a tag.
   * @returns The tree.
   * @throws {RevisionError} If Git does not know it, or is not there.
   */
  static async unpack(revision: string): Promise<Revision> {
    const name = await git(
      ...["rev-parse", "--short", "--verify", "--end-of-options"],
      `${revision}^{commit}`,
    );
    const directory = await Deno.makeTempDir({ prefix: "platter_bench_" });
    const made = new Revision(name.trim(), directory);
    try {
      const archive = `${directory}/tree.tar`;
      await git("archive", "--format=tar", `--output=${archive}`, made.name);
      await run("tar", ["-C", directory, "-xf", archive]);
      await Deno.remove(archive);
      return made;
    } catch (error) {
      await made[Symbol.asyncDispose]();
      throw error;
    }
  }

  /** The tree as a URL that ends with a slash. */
  get root(): string {
    return pathToFileURL(`${this.directory}/`).href;
  }

  /** Takes the tree away. */
  async [Symbol.asyncDispose](): Promise<void> {
    await Deno.remove(this.directory, { recursive: true });
  }
}

function git(...args: string[]): Promise<string> {
  const here = new URL("..", import.meta.url).pathname;
  return run("git", ["-C", here, ...args]);
}

async function run(command: string, args: string[]): Promise<string> {
  const { success, stdout, stderr } = await new Deno.Command(command, {
    args,
    stdin: "null",
  }).output();
  const decoder = new TextDecoder();
  if (!success) {
    throw new RevisionError(`${command}: ${decoder.decode(stderr).trim()}`);
  }
  return decoder.decode(stdout);
}
