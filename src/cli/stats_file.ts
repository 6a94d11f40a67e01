/**
 * The file that figures of a disk go to: always a whole one, as each version is
 * written beside it and takes its name. It is a note about the work and never
 * decides over it: nothing that is no such file is overwritten, and if it cannot
 * be written, the work goes on.
 *
 * @module
 */

import { realpath } from "node:fs/promises";
import {
  type FileIdentity,
  identify,
  identityOf,
  isShared,
} from "../backends/same_file.ts";
import { followLinks, openFile } from "../platform/files.ts";
import { replaceFile } from "../backends/replace_file.ts";
import { CliError, fileError, lookAt } from "./images.ts";
import { isOwnFile } from "./own_file.ts";
import { takeBack } from "./take_back.ts";

/** How often the figures are written while something happens, in ms. */
const INTERVAL_MS = 1000;

/** How every such file begins. */
const START = '{\n  "format": "platter-stats"';

/** A file that has the latest figures in it. */
export class StatsFile {
  readonly #path: string;
  readonly #figures: () => object;
  readonly #onFailure: (error: CliError) => void;
  readonly #timer: ReturnType<typeof setInterval>;
  /** What it is, as the last one that was written: the name may lead elsewhere. */
  #identity: FileIdentity;
  #last = "";
  #isLast = false;
  #writing: Promise<void> = Promise.resolve();
  #failure: CliError | null = null;

  private constructor(
    path: string,
    identity: FileIdentity,
    figures: () => object,
    onFailure: (error: CliError) => void,
  ) {
    this.#path = path;
    this.#identity = identity;
    this.#figures = figures;
    this.#onFailure = onFailure;
    this.#timer = setInterval(() => this.#update(), INTERVAL_MS);
  }

  /**
   * Makes the file, or takes one with earlier figures.
   *
   * @param path The file.
   * @param others Files that it must not be, by what they are called.
   * @param figures What to write each time; it changes if anything happened.
   * @param onFailure Called once if the file cannot be written any more.
   * @returns The file.
   * @throws {CliError} If it cannot be made, or has something else in it.
   */
  static async open(
    path: string,
    others: Readonly<Record<string, FileIdentity | null>>,
    figures: () => object,
    onFailure: (error: CliError) => void,
  ): Promise<StatsFile> {
    const there = await lookAt("write --stats", path);
    if (there !== null) await check(path, there, others);
    // A name that leads elsewhere goes on to do so, also to where nothing is yet.
    const place = there === null
      ? await followLinks(path)
      : await realpath(path).catch((error) => {
        throw fileError("write --stats", path, error);
      });
    let identity: FileIdentity;
    try {
      // An empty one first, so that the name is taken by nobody else.
      using file = await openFile(
        place,
        there === null ? { write: true, createNew: true } : { read: true },
      );
      identity = identityOf(await file.stat(), place);
    } catch (error) {
      throw fileError("write --stats", path, error);
    }
    const file = new StatsFile(place, identity, figures, onFailure);
    try {
      await check(path, identity, others);
      file.#update();
      await file.#writing;
      if (file.#failure !== null) throw file.#failure;
      return file;
    } catch (error) {
      clearInterval(file.#timer);
      if (there === null) await takeBack(place, identity);
      throw error;
    }
  }

  /** Why the file has not the last figures; `null` if it has. */
  get failure(): CliError | null {
    return this.#failure;
  }

  /**
   * Writes the last figures.
   *
   * @returns When they are written, or cannot be.
   */
  async close(): Promise<void> {
    clearInterval(this.#timer);
    this.#isLast = true;
    this.#update();
    await this.#writing;
  }

  #update(): void {
    this.#writing = this.#writing.then(() => this.#write()).catch((error) => {
      if (this.#failure !== null) return;
      this.#failure = error instanceof CliError
        ? error
        : fileError("write --stats", this.#path, error);
      this.#onFailure(this.#failure);
    });
  }

  async #write(): Promise<void> {
    if (this.#failure !== null) return;
    const text = print(this.#figures());
    // Time passes also where nothing happens.
    const news = text.replace(/"seconds": [\d.]+,/, "");
    if (news === this.#last && !this.#isLast) return;
    await replaceFile(this.#path, text, {
      check: async (made) => {
        const there = await identify(this.#path);
        // The number of a file that was removed may come again.
        if (
          there?.key !== this.#identity.key || !await hasFigures(this.#path)
        ) {
          throw new CliError(
            `Cannot write --stats "${this.#path}" as it is another file by now, or has another content`,
          );
        }
        this.#identity = identityOf(made, this.#path);
      },
    });
    this.#last = news;
  }
}

/** JSON to be read by people as well: a list of numbers stays on a line. */
function print(figures: object): string {
  const json = JSON.stringify({ format: "platter-stats", ...figures }, null, 2);
  return `${
    json.replace(
      /\[[\s\d.,]+\]/g,
      (list) => list.replace(/\s+/g, "").replaceAll(",", ", "),
    )
  }\n`;
}

/** Refuses what has something in it that would be lost. */
async function check(
  path: string,
  identity: FileIdentity,
  others: Readonly<Record<string, FileIdentity | null>>,
): Promise<void> {
  const refuse = (reason: string): never => {
    throw new CliError(
      `Cannot write --stats "${path}" as ${reason}: name another file`,
    );
  };
  for (const [name, other] of Object.entries(others)) {
    if (isShared(identity, other)) refuse(`it is ${name}`);
  }
  if (!identity.isFile) refuse("it is no file");
  if (!await hasFigures(path)) refuse("it has content that is no figures");
}

/** Whether a file is empty or has figures in it. */
async function hasFigures(path: string): Promise<boolean> {
  try {
    return await isOwnFile(path, START);
  } catch (error) {
    throw fileError("write --stats", path, error);
  }
}
