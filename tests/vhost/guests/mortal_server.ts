/**
 * A disk of ours that a process of its own serves, which can be killed and
 * started again under its guest.
 *
 * @module
 */

import { pause } from "../../helpers.ts";

const CLI = new URL("../../../src/cli/main.ts", import.meta.url).pathname;

/** How long a process may take to listen, in ms. */
const START_MS = 60_000;

/** A disk, and the process that serves it now. */
export class MortalServer implements AsyncDisposable {
  readonly #image: string;
  readonly #socket: string;
  #child: Deno.ChildProcess;

  private constructor(image: string, socket: string) {
    this.#image = image;
    this.#socket = socket;
    this.#child = this.#spawn();
  }

  /**
   * Serves an image.
   *
   * @param image Its path.
   * @param socket Where to.
   * @returns The disk, listening.
   */
  static async start(image: string, socket: string): Promise<MortalServer> {
    const server = new MortalServer(image, socket);
    await server.#listening();
    return server;
  }

  /** Kills the process without a word, and starts another one. */
  async restart(): Promise<void> {
    this.#child.kill("SIGKILL");
    await this.#child.status;
    await Deno.remove(this.#socket);
    this.#child = this.#spawn();
    await this.#listening();
  }

  /** Ends the process, which closes its disk. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#child.kill("SIGTERM");
    await this.#child.status;
  }

  #spawn(): Deno.ChildProcess {
    return new Deno.Command(Deno.execPath(), {
      args: [
        ...["run", "-A", "--no-check", "--quiet", CLI],
        ...["serve", this.#image, "--vhost", this.#socket],
      ],
      stdin: "null",
      stdout: "null",
      stderr: "null",
    }).spawn();
  }

  /** Whoever connects would be its front end: so its name must do. */
  async #listening(): Promise<void> {
    for (let ms = 0; ms < START_MS; ms += 20) {
      const found = await Deno.lstat(this.#socket).catch(() => null);
      if (found !== null) return;
      await pause(20);
    }
    throw new Error(`Nobody listens at ${this.#socket}`);
  }
}
