/**
 * The file that a trace of requests goes to. It is a note about the work and
 * never decides over it: nothing that a trace is not is overwritten, and if it
 * cannot be written, the trace ends and the work goes on.
 *
 * @module
 */

import {
  type FileIdentity,
  identityOf,
  isShared,
} from "../backends/same_file.ts";
import { type OpenedFile, openFile } from "../platform/files.ts";
import { stepTimeout } from "../step_timeout.ts";
import { CliError, fileError, lookAt } from "./images.ts";

/** How long lines wait for company, in ms. */
const PATIENCE_MS = 250;

/** Characters that are written without waiting. */
const ENOUGH_LENGTH = 65_536;

/** Characters that wait at most: more, and the file is too slow. */
const MAX_LENGTH = 64 << 20;

/** How long the end of a trace may take, in ms: a pipe may have no reader. */
const END_MS = 5000;

/** The steps of that time. */
const END_STEPS = 10;

/** How every trace begins. */
const FIRST_LINE = '{"event":"disk"';

/** A file that takes the lines of a trace. */
export class TraceFile {
  readonly #file: OpenedFile;
  readonly #path: string;
  readonly #onFailure: (error: CliError) => void;
  readonly #timer: ReturnType<typeof setInterval>;
  #text = "";
  #writing: Promise<void> | null = null;
  #failure: CliError | null = null;

  private constructor(
    file: OpenedFile,
    path: string,
    onFailure: (error: CliError) => void,
  ) {
    this.#file = file;
    this.#path = path;
    this.#onFailure = onFailure;
    this.#timer = setInterval(() => this.#flush(), PATIENCE_MS);
  }

  /**
   * Opens a file for a trace. What an earlier trace left in it is given up;
   * anything else in it is not.
   *
   * @param path The file.
   * @param others Files that it must not be, by what they are called.
   * @param onFailure Called once if the trace ends early.
   * @returns The file.
   * @throws {CliError} If it cannot be opened, or has something else in it.
   */
  static async open(
    path: string,
    others: Readonly<Record<string, FileIdentity | null>>,
    onFailure: (error: CliError) => void,
  ): Promise<TraceFile> {
    await check(path, await lookAt("write --trace", path), others);
    let file: OpenedFile;
    try {
      file = await openFile(path, { write: true, create: true });
    } catch (error) {
      throw fileError("write --trace", path, error);
    }
    try {
      // Once more, as the name may lead elsewhere by now.
      const opened = identityOf(await file.stat(), path);
      await check(path, opened, others);
      if (opened.isFile) await file.truncate();
    } catch (error) {
      file.close();
      throw error instanceof CliError
        ? error
        : fileError("write --trace", path, error);
    }
    return new TraceFile(file, path, onFailure);
  }

  /** Why the trace ended early; `null` if it did not. */
  get failure(): CliError | null {
    return this.#failure;
  }

  /**
   * Takes a line.
   *
   * @param line The line.
   * @throws {CliError} If the trace ended early.
   */
  write(line: string): void {
    if (this.#failure !== null) throw this.#failure;
    this.#text += `${line}\n`;
    if (this.#text.length > MAX_LENGTH) {
      this.#fail(new Error("it takes the lines too slowly"));
    } else if (this.#text.length >= ENOUGH_LENGTH) this.#flush();
  }

  /**
   * Writes what is left, and closes the file.
   *
   * @returns When that is done, or has taken too long.
   */
  async close(): Promise<void> {
    clearInterval(this.#timer);
    const late = Promise.withResolvers<void>();
    const stopTimeout = stepTimeout(END_MS, () => {
      this.#fail(new Error("it takes the lines too slowly"));
      late.resolve();
    }, { steps: END_STEPS });
    const all = async () => {
      while (this.#text !== "" || this.#writing !== null) {
        this.#flush();
        await this.#writing;
      }
    };
    await Promise.race([all(), late.promise]);
    stopTimeout();
    this.#file.close();
  }

  #flush(): void {
    if (this.#writing !== null || this.#text === "") return;
    const bytes = new TextEncoder().encode(this.#text);
    this.#text = "";
    this.#writing = this.#write(bytes)
      .catch((error) => this.#fail(error))
      .finally(() => this.#writing = null);
  }

  async #write(bytes: Uint8Array): Promise<void> {
    for (let at = 0; at < bytes.length;) {
      at += await this.#file.write(bytes.subarray(at));
    }
  }

  #fail(error: unknown): void {
    this.#text = "";
    if (this.#failure !== null) return;
    this.#failure = fileError("write --trace", this.#path, error);
    this.#onFailure(this.#failure);
  }
}

/** Refuses what has something in it that would be lost. */
async function check(
  path: string,
  identity: FileIdentity | null,
  others: Readonly<Record<string, FileIdentity | null>>,
): Promise<void> {
  if (identity === null) return;
  const refuse = (reason: string): never => {
    throw new CliError(
      `Cannot write --trace "${path}" as ${reason}: name another file`,
    );
  };
  for (const [name, other] of Object.entries(others)) {
    if (isShared(identity, other)) refuse(`it is ${name}`);
  }
  if (identity.isBlockDevice) refuse("it is a block device");
  if (identity.isFile && !await mayBeCut(path)) {
    refuse("it has content that is no trace");
  }
}

/** Whether a file is empty or has a trace in it. */
async function mayBeCut(path: string): Promise<boolean> {
  try {
    using file = await openFile(path);
    const start = new Uint8Array(FIRST_LINE.length);
    const length = await file.read(start);
    return length === null ||
      new TextDecoder().decode(start.subarray(0, length)) === FIRST_LINE;
  } catch (error) {
    throw fileError("write --trace", path, error);
  }
}
