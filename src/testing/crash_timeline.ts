/**
 * Walks through a recording, forwards, and knows at each crash point what is
 * durable and what a power cut leaves undecided.
 *
 * @module
 */

import { RequestType } from "../request.ts";
import type { BlockVersion, RecordedRequest } from "./block_version.ts";
import type { CrashEvent, CrashRecording } from "./crash_recording.ts";
import type { CrashImage } from "./crash_state.ts";
import { Joint, type Piece } from "./crash_joint.ts";
import type { CrashStep } from "./crash_token.ts";
import {
  BlockVariable,
  type OptionOf,
  type Variable,
} from "./crash_variable.ts";

/** A block that a power cut may leave with one of several contents. */
interface OpenBlock {
  durable: BlockVersion;
  pending: BlockVersion[];
}

/** All that may be found after a crash at one point. */
export interface CrashSpace {
  /** The point: how many events came before it. */
  readonly point: number;
  /** How many values were acknowledged before it. */
  readonly acknowledged: number;
  /** What is undecided. */
  readonly variables: readonly Variable[];
  /** Writes that are not durable, in the order of submission. */
  readonly pending: readonly RecordedRequest[];
  /** States; where they are very many, it may be more than there are. */
  readonly size: number;
}

/**
 * Which option each variable has in a state.
 *
 * @param step The state.
 * @param space What is undecided there.
 * @returns The option of a variable.
 */
export function optionsOf(step: CrashStep, space: CrashSpace): OptionOf {
  const at = new Map(space.variables.map((variable, i) => [variable, i]));
  return (variable) => step.options.get(at.get(variable)!) ?? variable.latest;
}

/** A walk through a recording, forwards only. */
export class CrashTimeline {
  /** The image, which shows what is durable. */
  readonly image: CrashImage;
  readonly #recording: CrashRecording;
  readonly #open = new Map<number, OpenBlock>();
  #point = 0;
  #acknowledged = 0;
  /** Whether there may be states that the last point returned did not have. */
  #grown = true;
  /** Durable discards whose result the device leaves unspecified. */
  readonly #discarded = new Set<BlockVersion>();
  /** On a device that keeps the order: the number of the last durable write. */
  #last = 0;

  /**
   * Constructs a new instance.
   *
   * @param recording The recording.
   * @param image An image of what was there before it.
   */
  constructor(recording: CrashRecording, image: CrashImage) {
    this.#recording = recording;
    this.image = image;
  }

  /** The crash point: how many events came before it. */
  get point(): number {
    return this.#point;
  }

  /**
   * Goes on to the next point at which there are states that no point before it
   * had: before something becomes durable or is acknowledged, and at the end.
   * In between, what may be found only grows.
   *
   * @returns Whether there is one.
   */
  nextPoint(): boolean {
    const { events } = this.#recording;
    for (; this.#point < events.length; this.#step()) {
      const event = events[this.#point]!;
      if (event.kind === "acknowledge" || this.#makesDurable(event)) {
        if (this.#grown) {
          this.#grown = false;
          return true;
        }
      }
      this.#grown ||= this.#changes(event);
    }
    const last = this.#grown;
    this.#grown = false;
    return last;
  }

  /**
   * Goes on to a point.
   *
   * @param point How many events come before it, no fewer than now.
   */
  advance(point: number): void {
    while (this.#point < point) this.#step();
  }

  /**
   * How many states there are at this point.
   *
   * @returns States, as the size of its space.
   */
  measure(): number {
    const { reorders, tornBlocks, atomicWriteBytes } = this.#recording.device;
    if (!reorders || tornBlocks || atomicWriteBytes > 0) {
      return this.space().size;
    }
    let size = 1;
    for (const { pending } of this.#open.values()) size *= pending.length + 1;
    return size;
  }

  /**
   * What may be found after a crash at this point.
   *
   * @returns All of it.
   */
  space(): CrashSpace {
    const { device } = this.#recording;
    const requests = new Set<RecordedRequest>();
    for (const { pending } of this.#open.values()) {
      for (const { request } of pending) requests.add(request!);
    }
    const pending = [...requests].sort((a, b) => a.number - b.number);
    const variables: Variable[] = [];
    let size = 1;
    const joints = device.reorders
      ? this.#groups(pending)
      : this.#ordered(pending);
    if (device.reorders) {
      const joined = new Set(joints.flatMap(({ blocks }) => blocks));
      for (const block of [...this.#open.keys()].sort((a, b) => a - b)) {
        if (joined.has(block)) continue;
        const { durable, pending } = this.#open.get(block)!;
        const variable = new BlockVariable(durable, pending, this.#tearable);
        size *= variable.count;
        variables.push(variable);
      }
    }
    for (const { joint } of joints) {
      size *= joint.count();
      variables.push(...joint.variables);
    }
    return {
      point: this.#point,
      acknowledged: this.#acknowledged,
      variables,
      pending,
      size,
    };
  }

  #changes(event: CrashEvent): boolean {
    if (event.kind !== "submit") return event.kind === "acknowledge";
    const { blocks, failed } = event.request;
    // What a flush fails to write does not keep the order.
    return blocks > 0 || failed && !this.#recording.device.reorders;
  }

  /** Whether something becomes durable with an event. */
  #makesDurable(event: CrashEvent): boolean {
    if (event.kind !== "complete") return false;
    const { device } = this.#recording;
    const { type, failed, fua } = event.request;
    return type === RequestType.Flush
      ? device.honorsFlush && !failed
      : !device.writeBack || fua && device.honorsFua;
  }

  #step(): void {
    const event = this.#recording.events[this.#point]!;
    if (event.kind === "acknowledge") this.#acknowledged++;
    else if (event.kind === "submit") {
      for (const version of event.request.versions) {
        const open = this.#open.get(version.block);
        if (open === undefined) {
          const durable = this.image.version(version.block);
          this.#open.set(version.block, { durable, pending: [version] });
        } else open.pending.push(version);
      }
    } else if (this.#makesDurable(event)) this.#makeDurable(event.request);
    this.#point++;
  }

  /** Makes durable what a completed flush or write does. */
  #makeDurable(request: RecordedRequest): void {
    const { reorders } = this.#recording.device;
    const flush = request.type === RequestType.Flush;
    const covers = flush
      ? (write: RecordedRequest) =>
        write.completedAt >= 0 && write.completedAt < request.submittedAt &&
        // No flush that comes after the one that failed writes it.
        !(write.markedCleanAt >= 0 && write.markedCleanAt < request.submittedAt)
      : (write: RecordedRequest) => write === request;
    let reach = covers;
    if (!reorders) {
      // Where the order is kept, everything before it is durable as well.
      let last = 0;
      for (const { pending } of this.#open.values()) {
        for (const { request } of pending) {
          if (covers(request!)) last = Math.max(last, request!.number);
        }
      }
      this.#last = Math.max(this.#last, last);
      reach = (write) =>
        covers(write) || write.number <= last && !this.#isMarkedClean(write);
    }
    const blocks = flush || !reorders ? this.#open.keys() : Array.from(
      { length: request.blocks },
      (_, i) => request.firstBlock + i,
    );
    for (const block of [...blocks]) {
      const open = this.#open.get(block);
      if (open === undefined) continue;
      let last = -1;
      for (const [i, version] of open.pending.entries()) {
        if (!reach(version.request!)) continue;
        if (this.#isUnspecified(version.request!)) this.#discarded.add(version);
        else last = i;
      }
      if (last < 0) continue;
      for (let i = 0; i <= last; i++) this.#discarded.delete(open.pending[i]!);
      open.durable = open.pending[last]!;
      this.image.set(open.durable);
      if (last === open.pending.length - 1) this.#open.delete(block);
      else open.pending = open.pending.slice(last + 1);
    }
  }

  /** Whether a failed flush has marked it clean: no later flush writes it. */
  #isMarkedClean(request: RecordedRequest): boolean {
    return request.markedCleanAt >= 0 && request.markedCleanAt < this.#point;
  }

  /** Whether its result is unspecified even when it is durable. */
  #isUnspecified(request: RecordedRequest): boolean {
    return request.type === RequestType.Discard &&
      this.#recording.device.discarded === "either";
  }

  /** Whether a block may be found torn: until it is durable. */
  readonly #tearable = (version: BlockVersion): boolean =>
    this.#recording.device.tornBlocks && !version.request!.atomic &&
    !this.#discarded.has(version);

  /** Blocks that atomic writes span. */
  #groups(
    pending: readonly RecordedRequest[],
  ): { joint: Joint; blocks: number[] }[] {
    const group = new Map<number, number>();
    const find = (block: number): number => {
      let root = block;
      for (;;) {
        const next = group.get(root);
        if (next === undefined || next === root) return root;
        root = next;
      }
    };
    const open = this.#pendingVersions();
    for (const request of pending) {
      if (!request.atomic) continue;
      // Blocks of it that something durable replaced since are no part of it.
      const blocks = open.get(request)!.map(({ block }) => block);
      if (blocks.length < 2) continue;
      for (const block of blocks) {
        const [a, b] = [find(blocks[0]!), find(block)];
        group.set(Math.max(a, b), Math.min(a, b));
        group.set(Math.min(a, b), Math.min(a, b));
      }
    }
    const members = new Map<number, number[]>();
    for (const block of [...group.keys()].sort((a, b) => a - b)) {
      const root = find(block);
      const list = members.get(root);
      if (list === undefined) members.set(root, [block]);
      else list.push(block);
    }
    return [...members.values()].map((blocks) => {
      const durable = new Map(
        blocks.map((block) => [block, this.#open.get(block)!.durable]),
      );
      const pieces = this.#pieces(pending, open, durable);
      return { joint: new Joint(durable, pieces, null), blocks };
    });
  }

  /** Everything, on a device that keeps the order. */
  #ordered(
    pending: readonly RecordedRequest[],
  ): { joint: Joint; blocks: number[] }[] {
    if (pending.length === 0) return [];
    const durable = new Map(
      [...this.#open].map(([block, open]) => [block, open.durable]),
    );
    const pieces = this.#pieces(pending, this.#pendingVersions(), durable);
    const prefix = pieces.filter(({ request }) => request.number <= this.#last);
    const joint = new Joint(durable, pieces, prefix.length);
    return [{ joint, blocks: [...durable.keys()] }];
  }

  /** What is pending of each write, in the order of the disk. */
  #pendingVersions(): Map<RecordedRequest, BlockVersion[]> {
    const versions = new Map<RecordedRequest, BlockVersion[]>();
    for (const { pending } of this.#open.values()) {
      for (const version of pending) {
        const of = versions.get(version.request!);
        if (of === undefined) versions.set(version.request!, [version]);
        else of.push(version);
      }
    }
    for (const of of versions.values()) of.sort((a, b) => a.block - b.block);
    return versions;
  }

  /** Parts of writes that are found wholly or not, in order. */
  #pieces(
    pending: readonly RecordedRequest[],
    open: ReadonlyMap<RecordedRequest, readonly BlockVersion[]>,
    inside: { has(block: number): boolean },
  ): Piece[] {
    const { reorders } = this.#recording.device;
    const pieces: Piece[] = [];
    for (const request of pending) {
      const versions = open.get(request)!
        .filter(({ block }) => inside.has(block));
      if (versions.length === 0) continue;
      const markedClean = this.#isMarkedClean(request);
      const optional = reorders || markedClean || this.#isUnspecified(request);
      for (
        const some of request.atomic ? [versions] : versions.map((one) => [one])
      ) {
        const torn = this.#tearable(some[0]!);
        pieces.push({
          request,
          versions: some,
          optional,
          tearable: torn && (reorders || markedClean),
          tearsLast: torn && !reorders && !markedClean,
        });
      }
    }
    return pieces;
  }
}
