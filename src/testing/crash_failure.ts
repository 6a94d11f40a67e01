/**
 * The error of an exploration: a crash that the recovery fails on, with its
 * story, its image and the token that replays it.
 *
 * @module
 */

import { copyDisk } from "../disk/copy.ts";
import { VirtualDisk } from "../disk/disk.ts";
import type { BlockSource } from "./block_source.ts";
import type { CompleteCrashDevice } from "./crash_device.ts";
import type { CrashReport } from "./crash_report.ts";
import { CrashStateBackend } from "./crash_state.ts";

/** What a {@linkcode CrashFailure} is made of. */
export interface CrashFailureOptions {
  /** What to replay it with. */
  token: string;
  /** The story. */
  story: string;
  /** What was explored until then; `null` after a replay. */
  report: CrashReport | null;
  /** What had been acknowledged. */
  acknowledged: readonly unknown[];
  /** What the recovery threw. */
  cause: unknown;
  /** The image. */
  image: BlockSource;
  /** The device. */
  device: CompleteCrashDevice;
  /** Why its image could not be kept where it was to be. */
  imageLost?: string;
}

/**
 * A crash that a program does not survive: the story of it is the message.
 *
 * @example The image, kept for other tools
 * ```ts
 * import { CrashFailure, exploreCrashes } from "@platter/disk/testing";
 * import { assert, assertEquals, assertRejects } from "@std/assert";
 *
 * const failure = await assertRejects(() =>
 *   exploreCrashes<string>({
 *     device: { sectors: 8 },
 *     async workload(disk, acknowledge) {
 *       await disk.write(0, new Uint8Array(512).fill(1));
 *       acknowledge("written");
 *     },
 *     async recover(disk, acknowledged) {
 *       if (acknowledged.length > 0) assertEquals((await disk.read(0, 1))[0], 1);
 *     },
 *   }), CrashFailure);
 * assert(failure.message.includes("LOST"));
 *
 * const path = await Deno.makeTempDir() + "/failed.img";
 * await failure.saveImage(path);
 * assertEquals((await Deno.readFile(path)).length, 8 * 512);
 * ```
 */
export class CrashFailure extends Error {
  /** Always `"CrashFailure"`. */
  override readonly name = "CrashFailure";
  /** What replays just this state: the option `only`, or `replayCrash`. */
  readonly token: string;
  /** What happened, for people. */
  readonly story: string;
  /** What was explored until then; `null` after a replay. */
  readonly report: CrashReport | null;
  /** What had been acknowledged before the crash. */
  readonly acknowledged: readonly unknown[];
  readonly #image: BlockSource;
  readonly #device: CompleteCrashDevice;

  /**
   * Constructs a new instance.
   *
   * @param options What it is made of.
   */
  constructor(options: CrashFailureOptions) {
    const { token, story, report, acknowledged, cause, image, device } =
      options;
    let end = report === null ? "" : `\n${report.summary}`;
    if (options.imageLost !== undefined) {
      end += `\nThe image could not be kept: ${options.imageLost}`;
    }
    super(
      `A power cut leaves what cannot be recovered\n\n${story}\n\nReplay this state alone with only: ${
        JSON.stringify(token)
      }${end}`,
      { cause },
    );
    this.token = token;
    this.story = story;
    this.report = report;
    this.acknowledged = acknowledged;
    this.#image = image;
    this.#device = device;
  }

  /**
   * Makes one whose image is kept as a file. If that cannot be written, the
   * message says so: the failure matters more than its image.
   *
   * @param options What it is made of.
   * @param path Where; `undefined` for nowhere.
   * @returns The failure.
   * @internal
   */
  static async keeping(
    options: CrashFailureOptions,
    path: string | URL | undefined,
  ): Promise<CrashFailure> {
    const failure = new CrashFailure(options);
    if (path === undefined) return failure;
    try {
      await failure.saveImage(path);
    } catch (error) {
      const imageLost = error instanceof Error ? error.message : `${error}`;
      return new CrashFailure({ ...options, imageLost });
    }
    return failure;
  }

  /**
   * A disk with the failing image, as the recovery found it. What is written to
   * it goes with it.
   *
   * @returns The disk.
   */
  openImage(): VirtualDisk {
    return VirtualDisk.over(new CrashStateBackend(this.#image, this.#device));
  }

  /**
   * Keeps the failing image as a file, for hex editors and `fsck`.
   *
   * @param path Where; what is there is overwritten.
   * @returns When it is written.
   */
  async saveImage(path: string | URL): Promise<void> {
    await using source = this.openImage();
    await using target = await VirtualDisk.create(path, {
      sectors: this.#device.sectors,
      overwrite: true,
      direct: "never",
    });
    await copyDisk(source, target, { targetIsZero: true });
  }
}
