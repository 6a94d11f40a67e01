/**
 * What a recording leaves undecided at any crash point: which write of each
 * block is durable there, and which later ones a power cut may keep or lose.
 *
 * The recording is gone through once, when this is made. What comes of it are
 * intervals: from which point on a content of a block is durable, and from which
 * point to which one it is pending. So each point is at hand at once, in any
 * order, for what is open there and not for what came before it.
 *
 * @module
 */

import { RequestType } from "../request.ts";
import { BlockHistory, countUpTo } from "./block_history.ts";
import { BlockTable } from "./block_table.ts";
import {
  type BlockVersion,
  isSameContent,
  type RecordedRequest,
} from "./block_version.ts";
import type { CrashEvent, CrashRecording } from "./crash_recording.ts";
import { Joint, type Piece } from "./crash_joint.ts";
import { CrashShapes } from "./crash_shapes.ts";
import type { DurableContents } from "./crash_state.ts";
import type { CrashStep } from "./crash_token.ts";
import type { InitialContents } from "./recording_log.ts";
import {
  BlockVariable,
  type OptionOf,
  type Variable,
} from "./crash_variable.ts";

/** What is open at a point; others are found from there. */
interface Checkpoint {
  /** The point. */
  readonly point: number;
  /** Ids of the versions that are pending. */
  readonly open: readonly number[];
  /** Versions submitted before it. */
  readonly submitted: number;
}

/** A point that no recording has. */
const NEVER = 2 ** 31 - 1;

/** Versions from one checkpoint to the next, at least. */
const CHECKPOINT_VERSIONS = 64;

/** All that may be found after a crash at one point. */
export interface CrashSpace {
  /** The point: how many events came before it. */
  readonly point: number;
  /** How many values were acknowledged before it. */
  readonly acknowledged: number;
  /** What is undecided. */
  readonly variables: readonly Variable[];
  /** Blocks that are not durable and have the content that was there before. */
  readonly unchanged: readonly BlockVersion[];
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

const timelines = new WeakMap<CrashRecording, CrashTimeline>();

/** What may be found after a crash, at each point of a recording. */
export class CrashTimeline implements DurableContents {
  /**
   * The points at which there are states that no point before them has: before
   * something becomes durable or is acknowledged, and at the end. In between,
   * what may be found only grows.
   */
  readonly points: readonly number[];
  /** What is open at each of the points, in a few words. */
  readonly shapes: CrashShapes;
  /** What each written block was before. */
  readonly initial: InitialContents;
  readonly #recording: CrashRecording;
  /** By request: the id of its first version. Ids count what is submitted. */
  readonly #firstIds: Int32Array;
  /** By id: the index of the request. */
  readonly #requests: Int32Array;
  /** By id: the point from which on it is not pending any more. */
  readonly #until: Int32Array;
  readonly #history = new BlockHistory();
  /** The blocks that requests change; made when it is asked for. */
  #changed: BlockTable | null = null;
  /** Durable discards whose result is unspecified, and from which point on. */
  readonly #discarded = new Map<number, number>();
  readonly #checkpoints: Checkpoint[] = [{ point: 0, open: [], submitted: 0 }];
  /** On a device that keeps the order: the last durable write, by point. */
  readonly #last: { point: number; number: number }[] = [];
  /** Points, and how many values were acknowledged before each. */
  readonly #acknowledged: number[] = [];
  /** Hashes of what is durable, by point at which they change. */
  readonly #hashes: { point: number; high: number; low: number }[] = [
    { point: 0, high: 0, low: 0 },
  ];

  /**
   * The timeline of a recording, made once.
   *
   * @param recording The recording.
   * @returns Its timeline.
   */
  static of(recording: CrashRecording): CrashTimeline {
    let timeline = timelines.get(recording);
    if (timeline === undefined) {
      timelines.set(recording, timeline = new CrashTimeline(recording));
    }
    return timeline;
  }

  /**
   * Goes through a recording.
   *
   * @param recording The recording, which does not change any more.
   */
  constructor(recording: CrashRecording) {
    this.#recording = recording;
    this.initial = recording.initial;
    const { requests } = recording;
    this.#firstIds = new Int32Array(requests.length + 1);
    for (const [i, { blocks }] of requests.entries()) {
      this.#firstIds[i + 1] = this.#firstIds[i]! + blocks;
    }
    const count = this.#firstIds[requests.length]!;
    this.#requests = new Int32Array(count);
    for (const i of requests.keys()) {
      this.#requests.fill(i, this.#firstIds[i]!, this.#firstIds[i + 1]!);
    }
    this.#until = new Int32Array(count).fill(NEVER);
    this.shapes = new CrashShapes(recording);
    this.points = this.#goThrough();
  }

  #goThrough(): number[] {
    const { events, device } = this.#recording;
    const plain = device.reorders && !device.tornBlocks &&
      device.atomicWriteBytes === 0;
    const points: number[] = [];
    // By block: the versions that are pending, in order.
    const open = new Map<number, number[]>();
    let submitted = 0;
    let pending = 0;
    let grown = true;
    const addPoint = (point: number) => {
      if (!grown) return;
      grown = false;
      points.push(point);
      this.shapes.addPoint();
    };
    const submit = (id: number) => {
      const block = this.#blockOf(id);
      const content = this.#contentOf(id);
      pending++;
      const known = open.get(block);
      const isOld = known === undefined
        ? content === this.#durableContent(block)
        : plain && (content === this.#durableContent(block) ||
          known.some((id) => content === this.#contentOf(id)));
      grown ||= !isOld;
      if (known === undefined) open.set(block, [id]);
      else known.push(id);
    };
    for (const [point, event] of events.entries()) {
      const durable = this.#makesDurable(event);
      if (event.kind === "acknowledge" || durable) addPoint(point);
      if (event.kind === "acknowledge") {
        grown = true;
        this.#acknowledged.push(point + 1);
        this.shapes.acknowledge(point);
        continue;
      }
      const { request } = event;
      if (event.kind === "complete") this.shapes.complete(request);
      if (event.kind === "submit") {
        const end = this.#firstIds[request.number]!;
        for (; submitted < end; submitted++) submit(submitted);
        // What a flush fails to write does not keep the order.
        grown ||= request.failed && !device.reorders;
        if (request.blocks > 0) this.shapes.submit(request);
        const since = submitted - this.#checkpoints.at(-1)!.submitted;
        if (since >= CHECKPOINT_VERSIONS && since >= pending) {
          const ids: number[] = [];
          for (const some of open.values()) for (const id of some) ids.push(id);
          ids.sort((a, b) => a - b);
          this.#checkpoints.push({ point: point + 1, open: ids, submitted });
        }
      } else if (durable) {
        pending -= this.#makeDurable(request, point, open);
      }
    }
    addPoint(events.length);
    return points;
  }

  /**
   * How many values had been acknowledged.
   *
   * @param point The crash point.
   * @returns Values.
   */
  acknowledged(point: number): number {
    return countUpTo(this.#acknowledged, point, (at) => at);
  }

  /**
   * A hash of what is durable, relative to what was there before.
   *
   * @param point The crash point.
   * @returns Both halves.
   */
  hash(point: number): { readonly high: number; readonly low: number } {
    return this.#hashes[
      countUpTo(this.#hashes, point, (hash) => hash.point) - 1
    ]!;
  }

  /**
   * What may be found after a crash at a point.
   *
   * @param point The crash point.
   * @returns All of it.
   */
  space(point: number): CrashSpace {
    const { device } = this.#recording;
    const open = this.#open(point);
    const requests = new Set<RecordedRequest>();
    for (const { pending } of open.values()) {
      for (const { request } of pending) requests.add(request!);
    }
    const pending = [...requests].sort((a, b) => a.number - b.number);
    const variables: Variable[] = [];
    const unchanged: BlockVersion[] = [];
    let size = 1;
    const here = new OpenPoint(
      this.#recording,
      point,
      open,
      ({ request, block }) => {
        const id = this.#firstIds[request!.number - 1]! + block -
          request!.firstBlock;
        return (this.#discarded.get(id) ?? NEVER) <= point;
      },
    );
    const joints = device.reorders
      ? here.groups(pending, unchanged)
      : here.ordered(pending, this.#lastDurable(point), unchanged);
    if (device.reorders) {
      const joined = new Set(joints.flatMap(({ blocks }) => blocks));
      for (const block of [...open.keys()].sort((a, b) => a - b)) {
        if (joined.has(block)) continue;
        const { durable, pending } = open.get(block)!;
        const variable = new BlockVariable(durable, pending, here.tearable);
        if (variable.count === 1) {
          for (const version of pending) unchanged.push(version);
          continue;
        }
        size *= variable.count;
        variables.push(variable);
      }
    }
    for (const { joint } of joints) {
      size *= joint.count();
      for (const variable of joint.variables) variables.push(variable);
    }
    const acknowledged = this.acknowledged(point);
    return { point, acknowledged, variables, unchanged, pending, size };
  }

  /**
   * What is durable of a block.
   *
   * @param block The block, one of those that were written.
   * @param point The crash point.
   * @returns The version.
   */
  durable(block: number, point: number): BlockVersion {
    const id = this.#history.find(block, (id) => this.#until[id]! <= point);
    return id < 0 ? this.#recording.initial.version(block) : this.#version(id);
  }

  /** The blocks that a request changes. */
  *changed(): Iterable<number> {
    if (this.#changed === null) {
      this.#changed = new BlockTable();
      for (const { firstBlock, blocks } of this.#recording.requests) {
        for (let i = 0; i < blocks; i++) this.#changed.set(firstBlock + i, 0);
      }
    }
    for (const [block] of this.#changed.entries()) yield block;
  }

  /** The blocks that are open at a point. */
  #open(
    point: number,
  ): Map<number, { durable: BlockVersion; pending: BlockVersion[] }> {
    const { open, submitted } = this.#checkpoints[
      countUpTo(this.#checkpoints, point, (checkpoint) => checkpoint.point) - 1
    ]!;
    const blocks = new Map<
      number,
      { durable: BlockVersion; pending: BlockVersion[] }
    >();
    const add = (id: number) => {
      if (this.#until[id]! <= point) return;
      const version = this.#version(id);
      const known = blocks.get(version.block);
      if (known !== undefined) known.pending.push(version);
      else {
        const durable = this.durable(version.block, point);
        blocks.set(version.block, { durable, pending: [version] });
      }
    };
    for (const id of open) add(id);
    const { requests } = this.#recording;
    for (let id = submitted; id < this.#until.length; id++) {
      if (requests[this.#requests[id]!]!.submittedAt >= point) break;
      add(id);
    }
    return blocks;
  }

  #version(id: number): BlockVersion {
    const request = this.#requests[id]!;
    return this.#recording.requests[request]!
      .version(id - this.#firstIds[request]!);
  }

  #blockOf(id: number): number {
    const request = this.#requests[id]!;
    return this.#recording.requests[request]!.firstBlock + id -
      this.#firstIds[request]!;
  }

  #contentOf(id: number): number {
    const request = this.#requests[id]!;
    return this.#recording.requests[request]!
      .contentOf(id - this.#firstIds[request]!);
  }

  /** The content of what is durable of a block, while it is gone through. */
  #durableContent(block: number): number {
    const id = this.#history.last(block);
    return id < 0
      ? this.#recording.initial.content(block)
      : this.#contentOf(id);
  }

  #lastDurable(point: number): number {
    const count = countUpTo(this.#last, point, (last) => last.point);
    return this.#last[count - 1]?.number ?? 0;
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

  /**
   * Makes durable what a completed flush or write does.
   *
   * @returns How many versions are not pending any more.
   */
  #makeDurable(
    request: RecordedRequest,
    point: number,
    open: Map<number, number[]>,
  ): number {
    const { requests, device: { reorders } } = this.#recording;
    const writeOf = (id: number) => requests[this.#requests[id]!]!;
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
      for (const pending of open.values()) {
        for (const id of pending) {
          const write = writeOf(id);
          if (covers(write)) last = Math.max(last, write.number);
        }
      }
      const before = this.#last.at(-1)?.number ?? 0;
      if (last > before) this.#last.push({ point: point + 1, number: last });
      reach = (write) =>
        covers(write) ||
        write.number <= last &&
          !(write.markedCleanAt >= 0 && write.markedCleanAt < point);
    }
    const blocks = flush || !reorders ? open.keys() : Array.from(
      { length: request.blocks },
      (_, i) => request.firstBlock + i,
    );
    let { high, low } = this.#hashes.at(-1)!;
    let closed = 0;
    for (const block of [...blocks]) {
      const pending = open.get(block);
      if (pending === undefined) continue;
      let last = -1;
      for (const [i, id] of pending.entries()) {
        const write = writeOf(id);
        if (!reach(write)) continue;
        if (isUnspecified(this.#recording, write)) {
          if (!this.#discarded.has(id)) this.#discarded.set(id, point + 1);
        } else last = i;
      }
      if (last < 0) continue;
      for (let i = 0; i <= last; i++) {
        const id = pending[i]!;
        this.#until[id] = point + 1;
        this.shapes.close(writeOf(id));
        closed++;
      }
      const before = this.#history.last(block);
      const old = before < 0
        ? this.#recording.initial.version(block)
        : this.#version(before);
      const durable = this.#version(pending[last]!);
      high ^= old.high ^ durable.high;
      low ^= old.low ^ durable.low;
      this.#history.add(block, pending[last]!);
      if (last === pending.length - 1) open.delete(block);
      else open.set(block, pending.slice(last + 1));
    }
    this.#hashes.push({ point: point + 1, high, low });
    return closed;
  }
}

/** Whether the result of a request is unspecified even when it is durable. */
function isUnspecified(
  { device }: CrashRecording,
  { type }: RecordedRequest,
): boolean {
  return type === RequestType.Discard && device.discarded === "either";
}

/** What is open at one point, in pieces that depend on each other. */
class OpenPoint {
  readonly #recording: CrashRecording;
  readonly #point: number;
  readonly #open: ReadonlyMap<
    number,
    { durable: BlockVersion; pending: readonly BlockVersion[] }
  >;
  /** Whether it is a durable discard whose result is unspecified. */
  readonly #isDiscarded: (version: BlockVersion) => boolean;

  constructor(
    recording: CrashRecording,
    point: number,
    open: ReadonlyMap<
      number,
      { durable: BlockVersion; pending: readonly BlockVersion[] }
    >,
    isDiscarded: (version: BlockVersion) => boolean,
  ) {
    this.#recording = recording;
    this.#point = point;
    this.#open = open;
    this.#isDiscarded = isDiscarded;
  }

  /** Whether a failed flush has marked it clean: no later flush writes it. */
  #isMarkedClean(request: RecordedRequest): boolean {
    return request.markedCleanAt >= 0 && request.markedCleanAt < this.#point;
  }

  /** Whether a block may be found torn: until it is durable. */
  readonly tearable = (version: BlockVersion): boolean =>
    this.#recording.device.tornBlocks && !version.request!.atomic &&
    !this.#isDiscarded(version);

  /** Blocks that atomic writes span. */
  groups(
    pending: readonly RecordedRequest[],
    unchanged: BlockVersion[],
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
      const pieces = this.#pieces(pending, open, durable, unchanged);
      return { joint: new Joint(durable, pieces, null), blocks };
    });
  }

  /** Everything, on a device that keeps the order. */
  ordered(
    pending: readonly RecordedRequest[],
    last: number,
    unchanged: BlockVersion[],
  ): { joint: Joint; blocks: number[] }[] {
    if (pending.length === 0) return [];
    const durable = new Map(
      [...this.#open].map(([block, open]) => [block, open.durable]),
    );
    const pieces = this.#pieces(
      pending,
      this.#pendingVersions(),
      durable,
      unchanged,
    );
    const prefix = pieces.filter(({ request }) => request.number <= last);
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
    inside: ReadonlyMap<number, BlockVersion>,
    unchanged: BlockVersion[],
  ): Piece[] {
    const { reorders } = this.#recording.device;
    const pieces: Piece[] = [];
    for (const request of pending) {
      const versions = open.get(request)!
        .filter(({ block }) => inside.has(block));
      if (versions.length === 0) continue;
      const markedClean = this.#isMarkedClean(request);
      const optional = reorders || markedClean ||
        isUnspecified(this.#recording, request);
      for (
        const some of request.atomic ? [versions] : versions.map((one) => [one])
      ) {
        if (some.every((version) => this.#isUnchanged(version))) {
          for (const version of some) unchanged.push(version);
          continue;
        }
        const torn = this.tearable(some[0]!);
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

  /** Whether a block has the content of all that it may be written over. */
  #isUnchanged(version: BlockVersion): boolean {
    const { durable, pending } = this.#open.get(version.block)!;
    if (!isSameContent(version, durable)) return false;
    for (const before of pending) {
      if (before === version) return true;
      if (!isSameContent(version, before)) return false;
    }
    return true;
  }
}
