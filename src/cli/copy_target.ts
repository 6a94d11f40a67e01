/**
 * Where a copy goes: a new image, or one that exists and may be overwritten;
 * and what is left of it when the copy fails.
 *
 * @module
 */

import { dirname, resolve } from "node:path";
import {
  type FileIdentity,
  filesOf,
  identify,
  sharedOf,
  type SourceFile,
  writtenFilesOf,
} from "../backends/same_file.ts";
import type { CopyPhase } from "../disk/copy.ts";
import { VirtualDisk } from "../disk/disk.ts";
import type { OpenOptions } from "../disk/open.ts";
import { DiskError } from "../errors.ts";
import { isNbdUri } from "../protocol/nbd/uri.ts";
import { isRbdUri } from "../protocol/rbd/uri.ts";
import { CliError, Interrupted } from "./images.ts";
import type { CliIo } from "./io.ts";
import { inOptionsOf } from "./option_words.ts";
import { flushedWord } from "./outcome.ts";
import { refuseOwnOutput } from "./own_output.ts";
import { takeBack } from "./take_back.ts";

/** Where a copy goes. */
export interface CopyTarget {
  /** What the person calls it. */
  readonly path: string;
  /** The target, open for writing. */
  readonly disk: VirtualDisk;
  /** Whether it was made for this copy. */
  readonly isNew: boolean;
  /** Which file it is; `null` if that is not known. */
  readonly identity: FileIdentity | null;
  /**
   * Requests that the disk had before the copy began; until then it is as it
   * was.
   */
  before: number | null;
}

/** What a target must be like. */
export interface TargetOptions {
  /** How it is opened. */
  readonly open: OpenOptions;
  /** Whether one that exists may be overwritten. */
  readonly force: boolean;
  /** Logical block size of a new one. */
  readonly blockSize: number;
  /** Sectors of a new one; without them it must exist. */
  readonly sectors: number | undefined;
  /** Files that are read, which it must not be. */
  readonly inputs: readonly SourceFile[];
  /** What to talk to. */
  readonly io: CliIo;
}

/**
 * Opens the target of a copy, or makes it.
 *
 * @param path Its name.
 * @param options What it must be like.
 * @returns The target.
 * @throws {CliError} If it may not be overwritten, is what is read, or standard
 * output goes to it.
 * @throws {DiskError} If it cannot be opened or made.
 */
export async function openTarget(
  path: string,
  { open, force, blockSize, sectors, inputs, io }: TargetOptions,
): Promise<CopyTarget> {
  try {
    // What a server has cannot be made, only overwritten.
    // Whether a cluster has an image shows when it is opened.
    const isThere = sectors === undefined &&
      (isRbdUri(path) || await identify(path) !== null);
    if (isNbdUri(path) || isThere) {
      throw new DiskError("exists", `Cannot create "${path}" as it exists`);
    }
    if (sectors === undefined) {
      throw new CliError(
        `Cannot make "${path}" as nothing says how large: give --size, or a ` +
          `target that exists`,
      );
    }
    const disk = await VirtualDisk.create(path, {
      ...open,
      blockSize,
      sectors,
    });
    return {
      path,
      disk,
      isNew: true,
      identity: await identify(path),
      before: null,
    };
  } catch (error) {
    // Only raw ones are made; others may be there to be written to.
    const isThere = error instanceof DiskError && (error.kind === "exists" ||
      error.kind === "format" && await identify(path) !== null);
    if (!isThere) throw ofTarget(error);
    refuseInputs(path, await identify(path), inputs);
    if (!force) {
      throw new CliError(
        `Cannot copy onto "${path}" as it exists: overwrite its content with ` +
          `--force`,
        { cause: error },
      );
    }
  }
  // Once more, as the name may lead elsewhere by now.
  const identity = await identify(path);
  refuseInputs(path, identity, inputs);
  try {
    await using opened = new AsyncDisposableStack();
    const disk = opened.use(await VirtualDisk.open(path, open));
    refuseOwnOutput(io, await filesOf(disk.info), "written");
    for (const file of await writtenFilesOf(disk.info)) {
      refuseInputs(file.name, file.identity, inputs);
    }
    opened.move();
    return { path, disk, isNew: false, identity, before: null };
  } catch (error) {
    if (error instanceof DiskError && error.kind === "locked") {
      await refuseOwnData(path, inputs);
    }
    throw ofTarget(error);
  }
}

/**
 * Refuses a container that has its data in what is read: that is held for the
 * copy, and all that its opening says is that somebody holds it.
 */
async function refuseOwnData(
  path: string,
  inputs: readonly SourceFile[],
): Promise<void> {
  const { lookInside } = await import("../backends/container/mod.ts");
  for (const { role, name } of lookInside(path)?.otherFiles ?? []) {
    if (role === "backing file") continue;
    const file = resolve(dirname(path), name);
    refuseInputs(file, await identify(file), inputs);
  }
}

function refuseInputs(
  path: string,
  identity: FileIdentity | null,
  inputs: readonly SourceFile[],
): void {
  const input = sharedOf(identity, inputs);
  if (input === null) return;
  throw new CliError(
    input.identity.key === identity?.key
      ? `Cannot copy "${path}" onto itself`
      : `Cannot copy "${input.name}" onto "${path}" as one of both is made of ` +
        `the other, or is a part of it`,
  );
}

/** The options about locks and the format are about the source alone. */
function ofTarget(error: unknown): unknown {
  if (error instanceof DiskError && error.kind === "format") {
    const text = error.message.replaceAll(
      /\bformat: "(\w+)"/g,
      "--to-format $1",
    );
    return new CliError(text, { cause: error });
  }
  if (!(error instanceof DiskError) || error.kind !== "locked") return error;
  return new CliError(inOptionsOf(error.message, []), { cause: error });
}

/**
 * Does away with what a failed copy left, and says what is left.
 *
 * @param error What it failed with.
 * @param target Where it went.
 * @param signal The signal of Ctrl-C.
 * @param reached How far it came.
 * @param part How far, in words, if that is known of one that was there.
 * @returns The error to throw.
 */
export async function failCopy(
  error: unknown,
  target: CopyTarget,
  signal: AbortSignal,
  reached: CopyPhase,
  part?: string,
): Promise<Error> {
  const left = await tidyUp(error, target, reached, part);
  if (signal.aborted) return new Interrupted(`Interrupted: ${left}`);
  const reason = error instanceof Error ? error.message : String(error);
  return new CliError(`${reason}: ${left}`, { cause: error });
}

async function tidyUp(
  error: unknown,
  { path, disk, isNew, identity, before }: CopyTarget,
  reached: CopyPhase,
  part: string | undefined,
): Promise<string> {
  const isWrong = error instanceof DiskError && error.operation === "verify";
  if (reached === "verify" && !isWrong) {
    return `"${path}" is complete and ${
      flushedWord(disk)
    }, but was not verified`;
  }
  if (isNew && isRbdUri(path)) {
    return `"${path}" is incomplete and was left: "rbd rm" removes it`;
  }
  if (isNew) return await takeBack(path, identity);
  return before === null || disk.counters.requests === before
    ? `"${path}" is as it was`
    : isWrong
    ? `"${path}" was overwritten`
    : `"${path}" is now partly old and partly new${part ? ` (${part})` : ""}`;
}
