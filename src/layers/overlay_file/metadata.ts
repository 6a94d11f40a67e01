/**
 * The metadata of an overlay's file, header and map of changes, and the order in
 * which it becomes durable:
 *
 * | what | in which order |
 * | --- | --- |
 * | flush | the data is flushed, then the marks that tell of it are written, then they are flushed |
 * | the first mark | before it, the header says which base it goes with, as it was when the overlay was opened |
 * | emptying the map | one header with a new epoch, whatever the map has; then the space is given up |
 * | a copy of another map | before the first mark, the header says that it is incomplete, and after the last that it is not |
 * | opening | what the file has is flushed before it counts as durable |
 *
 * So a mark is never durable before what it tells of. A flush that failed is
 * latched, as a disk's is: nothing is made durable after it. So is a header that
 * could not be written.
 *
 * @module
 */

import { realpathSync } from "node:fs";
import type { Backend } from "../../backend.ts";
import { isZero } from "../../buffer.ts";
import { isSame } from "../../bytes.ts";
import { DiskError } from "../../errors.ts";
import { SECTOR_BYTES, type SectorRange } from "../../geometry.ts";
import { flushRequest, Request, RequestType } from "../../request.ts";
import { costsDurability, latchedError } from "../../request_error.ts";
import { submitAll } from "../layer.ts";
import { anyError } from "./any_error.ts";
import {
  type BaseIdentity,
  identityOf,
  keepModified,
} from "./base_identity.ts";
import { ChangeMap } from "./change_map.ts";
import {
  layoutOf,
  type OverlayHeader,
  type OverlayLayout,
  OverlayState,
} from "./format.ts";
import { type HeaderFile, notOverlay } from "./header_file.ts";

/** Sectors of which the space is given up at once, about: 1 GiB. */
const MOST_GIVEN_UP = 2 ** 21;

/** How the metadata is used. */
export interface MetadataOptions {
  /** Whether nothing is written. */
  readonly readOnly: boolean;
  /** Whether to drop the changes. */
  readonly reset: boolean;
  /** Whether to take a base that was modified. */
  readonly acceptBase: boolean;
  /** Gives up reading. */
  readonly signal?: AbortSignal | undefined;
}

/** The metadata of one file. */
export class OverlayMetadata {
  /** Where things are in the file. */
  readonly layout: OverlayLayout;
  /** Which sectors are changed. */
  readonly map: ChangeMap;
  readonly #base: Backend;
  readonly #file: Backend;
  readonly #headers: HeaderFile;
  readonly #readOnly: boolean;
  /** The base as it was when it was looked at. */
  #seen: BaseIdentity | null = null;
  /** Why nothing is made durable any more. */
  #failure: DiskError | null = null;
  #flushing: Promise<unknown> = Promise.resolve();
  #nextFlush: Promise<DiskError | null> | null = null;

  /**
   * Constructs a new instance, whose map is empty until
   * {@linkcode OverlayMetadata.begin}.
   *
   * @param base The base.
   * @param file The file.
   * @param headers Its header.
   * @param readOnly Whether nothing is written.
   */
  constructor(
    base: Backend,
    file: Backend,
    headers: HeaderFile,
    readOnly: boolean,
  ) {
    const { sectors } = base.geometry;
    this.#base = base;
    this.#file = file;
    this.#headers = headers;
    this.#readOnly = readOnly;
    this.layout = layoutOf(sectors);
    this.map = new ChangeMap(file, sectors, this.layout);
  }

  /** What the header says. */
  get header(): OverlayHeader {
    return this.#headers.header;
  }

  /** Why nothing is made durable any more; `null` if nothing failed. */
  get failure(): DiskError | null {
    return this.#failure;
  }

  /**
   * When no flush is at work, nor asked for: whoever asked may wait no more. Never
   * rejects.
   */
  get flushed(): Promise<unknown> {
    return this.#nextFlush ?? this.#flushing;
  }

  /**
   * Takes what the file has, or writes the first header.
   *
   * @param options How.
   * @returns When the map is known.
   * @throws {DiskError} If it cannot be used, or goes with another base. If the
   * signal fired, its reason.
   */
  async begin(options: MetadataOptions): Promise<void> {
    const { epoch, state } = this.header;
    const committing = state === OverlayState.Committing;
    if (options.reset && (this.#readOnly || committing)) {
      throw this.#error(
        "reset",
        committing
          ? "a commit was begun, and the base has some of the changes: commit again"
          : "it is read-only",
      );
    }
    const { isNew } = this.#headers;
    if (isNew && this.#readOnly) throw this.#error("open", "it has no header");
    await this.lookAtBase(options.signal);
    if (options.reset || isNew) return await this.empty();
    if (state === OverlayState.Incomplete) {
      throw this.#error(
        "open",
        "a fork or restore to it was interrupted: with reset: true it begins anew",
      );
    }
    if (state === OverlayState.Empty) this.map.reset(epoch);
    else {
      // Of one that was killed the system may have marks that are not durable, and
      // a durable write to where there is a mark already relies on it.
      if (!this.#readOnly) await this.#flushFile();
      await this.map.resume(epoch);
    }
    if (state === OverlayState.Changed) await this.#checkBase(options);
    if (committing) await this.#checkCommitted(options);
    // The copies differ after a power cut between the two.
    if (!this.#readOnly && this.#headers.differ) await this.writeHeader({});
  }

  /** Throws if the base is another one than that of the changes, or has changed. */
  async #checkBase({ acceptBase }: MetadataOptions): Promise<void> {
    const { digest, modified } = this.#seen!;
    const same = isSame(digest, this.header.digest);
    // One of both may be no file.
    const known = modified !== 0n && this.header.modified !== 0n;
    if (same && (!known || modified === this.header.modified)) return;
    if (acceptBase) {
      if (!this.#readOnly) await this.bindBase();
      return;
    }
    throw this.#error(
      "open",
      `its changes are to a base as it was, and the base was modified since${
        same
          ? ", or copied: samples of its content are the same"
          : " or is another one"
      }: acceptBase: true takes it all the same`,
    );
  }

  /**
   * Makes durable what was done when it begins; calls before that share it.
   * Never rejects.
   *
   * @returns Why it failed, or a flush before it.
   */
  flush(): Promise<DiskError | null> {
    return this.#nextFlush ??= this.#flushAfter(this.#flushing);
  }

  /** The same, throwing. */
  async flushOrThrow(): Promise<void> {
    const error = await this.flush();
    if (error !== null) throw error;
  }

  async #flushAfter(before: Promise<unknown>): Promise<DiskError | null> {
    await before;
    // From here on, whoever flushes needs the next one.
    const flush = this.#flushNow();
    this.#flushing = flush;
    this.#nextFlush = null;
    return await flush;
  }

  async #flushNow(): Promise<DiskError | null> {
    if (this.#readOnly) return null;
    if (this.#failure !== null) {
      return latchedError(flushRequest(), this.#failure, this.#file.info.path);
    }
    try {
      // As it is before the flush: what is marked later may not be durable then.
      const marks = this.map.snapshot();
      await this.#flushFile();
      if (marks.count === 0) return null;
      const { state, digest } = this.header;
      if (state === OverlayState.Empty) await this.bindBase();
      // What is marked now the digest has with its old content: it would refuse
      // the base if it counted.
      if (state === OverlayState.Committing && !isZero(digest)) {
        await this.writeHeader({ digest: new Uint8Array(digest.length) });
      }
      const error = await marks.write();
      if (error !== null) throw error;
      await this.#flushFile();
      marks.settle();
      return null;
    } catch (thrown) {
      const error = anyError(thrown, "flush", this.#file.info.path);
      if (costsDurability(error)) this.latch(error);
      return error;
    }
  }

  async #flushFile(): Promise<void> {
    if (this.#file.abilities.flush === "none") return;
    const error = await submitAll(this.#file, [flushRequest()]);
    // What the system kept of the data is not known any more: no second try.
    if (error === null) return;
    if (costsDurability(error)) this.latch(error);
    throw error;
  }

  /**
   * Says that a write that was to be durable failed: whether anything is durable
   * is not known any more.
   *
   * @param error Why.
   */
  latch(error: DiskError): void {
    this.#failure ??= error;
  }

  /**
   * Says that a commit begins, unless one was begun that still can tell its base:
   * from then on that has some of the changes, and is known by what they leave
   * as it is.
   *
   * @param signal Gives up: then none was begun.
   * @returns When that is durable.
   * @throws {DiskError} If it fails. If the signal fired, its reason.
   */
  async beginCommit(signal?: AbortSignal): Promise<void> {
    const { state, modified, digest } = this.header;
    if (state === OverlayState.Committing && !isZero(digest)) return;
    const rest = await this.#digestOfRest(signal);
    signal?.throwIfAborted();
    try {
      await this.writeHeader({
        state: OverlayState.Committing,
        modified: 0n,
        digest: rest,
      });
      signal?.throwIfAborted();
    } catch (error) {
      // One copy of it may be there, or both, and the base has nothing of the
      // changes yet: whoever opens the file is to be told so, if it takes the
      // header as it was.
      await this.writeHeader({ state, modified, digest }).catch(() => {});
      throw error;
    }
  }

  /**
   * Says anew by what the base of a commit that was begun is known, where marks
   * made it forgotten: when nothing is marked any more.
   *
   * @returns When that is durable, or the base cannot be read.
   * @throws {DiskError} If it fails.
   */
  async rememberBase(): Promise<void> {
    const { state, digest } = this.header;
    if (state !== OverlayState.Committing || !isZero(digest)) return;
    let known: Uint8Array;
    try {
      known = await this.#digestOfRest();
    } catch (error) {
      if (error instanceof DiskError) return;
      throw error;
    }
    await this.writeHeader({ digest: known });
  }

  /** Throws if a commit was begun to another base than this one. */
  async #checkCommitted(
    { acceptBase, signal }: MetadataOptions,
  ): Promise<void> {
    if (isZero(this.header.digest)) return;
    const digest = await this.#digestOfRest(signal);
    if (isSame(digest, this.header.digest)) return;
    if (acceptBase) {
      if (!this.#readOnly) await this.writeHeader({ digest });
      return;
    }
    throw this.#error(
      "open",
      "a commit to its base was begun, and this is another base, or was modified since: acceptBase: true takes it all the same",
    );
  }

  /** A digest of the base without what changes are to, as a commit leaves it. */
  async #digestOfRest(signal?: AbortSignal): Promise<Uint8Array> {
    const leaveOut = async (sector: number, data: Uint8Array) => {
      const clear = (run: SectorRange) => {
        const from = (run.sector - sector) * SECTOR_BYTES;
        data.fill(0, from, from + run.count * SECTOR_BYTES);
      };
      const count = data.length / SECTOR_BYTES;
      await this.map.eachRun(sector, count, clear, undefined, signal);
    };
    return (await identityOf(this.#base, leaveOut, signal)).digest;
  }

  /**
   * Writes what changes in the header, durably.
   *
   * @param changes What it says from now on.
   * @returns When it is durable.
   * @throws {DiskError} If it fails: what the file says is not known then, and
   * no mark may rely on it.
   */
  async writeHeader(changes: Partial<OverlayHeader>): Promise<void> {
    try {
      await this.#headers.write(changes, () => this.#flushFile());
    } catch (error) {
      // Whatever else is thrown comes before the first write.
      if (error instanceof DiskError) this.latch(error);
      throw error;
    }
  }

  /**
   * Looks at the base, which is from now on the one that changes are to: when the
   * overlay is opened, and when it has changed the base itself. If somebody else
   * changes it in between, the next to open the overlay is told so.
   *
   * @param signal Gives up.
   * @returns When it is known.
   * @throws If the signal fired, its reason.
   */
  async lookAtBase(signal?: AbortSignal): Promise<void> {
    this.#seen = await identityOf(this.#base, undefined, signal);
  }

  /**
   * Takes over what another overlay has seen of the same base, with its changes:
   * they are to that, whatever the base is by now.
   *
   * @param other The other one's.
   */
  seeAs(other: OverlayMetadata): void {
    this.#seen = other.#seen;
  }

  /**
   * Writes down of which base there are changes, before the first one is durable.
   *
   * @returns When that is durable.
   * @throws {DiskError} If it fails.
   */
  async bindBase(): Promise<void> {
    await keepModified(this.#base);
    await this.writeHeader({
      ...this.#seen!,
      state: OverlayState.Changed,
      basePath: basePathOf(this.#base),
    });
  }

  /**
   * Empties the map, at once, and gives up the space of what it had.
   *
   * @param state What the header says then.
   * @returns When that is durable.
   * @throws {DiskError} If it fails: whether the map is empty is not known then.
   */
  async empty(state: OverlayState = OverlayState.Empty): Promise<void> {
    const epoch = this.header.epoch + 1;
    const parts: { sector: number; count: number }[] = [];
    for (const part of this.map.parts(0, this.#base.geometry.sectors)) {
      const last = parts.at(-1);
      const joins = last !== undefined &&
        last.sector + last.count === part.sector &&
        last.count < MOST_GIVEN_UP;
      if (joins) last.count += part.count;
      else parts.push(part);
    }
    await this.writeHeader({
      epoch,
      state,
      modified: 0n,
      digest: new Uint8Array(32),
      basePath: "",
    });
    this.map.reset(epoch);
    if (this.#file.abilities.discard !== "native") return;
    for (const { sector, count } of parts) {
      // Space that stays taken is overwritten one day.
      await submitAll(this.#file, [
        new Request(
          RequestType.Discard,
          this.layout.dataSector + sector,
          count,
        ),
      ]);
    }
  }

  #error(operation: string, reason: string): DiskError {
    return notOverlay(this.#file.info.path, reason, operation);
  }
}

/** The path of a base from wherever one is; empty if it is no file or device. */
function basePathOf({ info: { path } }: Backend): string {
  if (path === null) return "";
  try {
    return realpathSync(path);
  } catch {
    // It is behind an NBD server, or what leads to it may not be read.
    return "";
  }
}
