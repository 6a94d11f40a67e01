/**
 * Walks through a recording and knows, at each crash point, what is durable and
 * what is open.
 *
 * @module
 */

import { RequestType } from "../request.ts";
import type { BlockVersion, RecordedRequest } from "./block_version.ts";
import type { CrashEvent, CrashRecording } from "./crash_recording.ts";
import type { CrashImage } from "./crash_state.ts";
import {
  BlockVariable,
  GroupVariable,
  OrderedVariable,
  type Piece,
  type Variable,
} from "./crash_variable.ts";

/** A block of which more than one content may be found. */
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
  /** What is open. */
  readonly variables: readonly Variable[];
  /** Writes that are not durable, in the order of submission. */
  readonly pending: readonly RecordedRequest[];
  /** States: the product of all options. */
  readonly size: number;
}

/** A walk through a recording, forwards only. */
export class CrashTimeline {
  /** The image, which shows what is durable. */
  readonly image: CrashImage;
  readonly #recording: CrashRecording;
  readonly #open = new Map<number, OpenBlock>();
  #point = 0;
  #acknowledged = 0;
  /** Whether there are states since the last telling point that it had not. */
  #grown = true;
  /** What was flushed, and still may not be what is found. */
  readonly #loose = new Set<BlockVersion>();

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
  nextTelling(): boolean {
    const { events } = this.#recording;
    for (; this.#point < events.length; this.#step()) {
      const event = events[this.#point]!;
      if (event.kind === "acknowledge" || this.#settles(event)) {
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
   * @returns States, and whether a space shows all of them.
   */
  measure(): { size: number; complete: boolean } {
    const { reorders, tornBlocks, atomicWriteBytes } = this.#recording.device;
    if (!reorders || tornBlocks || atomicWriteBytes > 0) {
      const { size, variables } = this.space();
      return { size, complete: variables.every(({ complete }) => complete) };
    }
    let size = 1;
    for (const { pending } of this.#open.values()) size *= pending.length + 1;
    return { size, complete: true };
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
    const variables = device.reorders
      ? this.#independent(pending)
      : this.#ordered(pending);
    let size = 1;
    for (const { count } of variables) size *= count;
    return {
      point: this.#point,
      acknowledged: this.#acknowledged,
      variables,
      pending,
      size,
    };
  }

  #changes(event: CrashEvent): boolean {
    return event.kind === "acknowledge" ||
      event.kind === "submit" && event.request.versions.length > 0;
  }

  /** Whether something becomes durable with an event. */
  #settles(event: CrashEvent): boolean {
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
    } else if (this.#settles(event)) this.#settle(event.request);
    this.#point++;
  }

  /** Makes durable what a completed flush or write does. */
  #settle(request: RecordedRequest): void {
    const covers = request.type === RequestType.Flush
      ? (write: RecordedRequest) =>
        write.completedAt >= 0 && write.completedAt < request.submittedAt
      : (write: RecordedRequest) => write === request;
    const forsaken = (write: RecordedRequest) =>
      write.forsakenAt >= 0 && write.forsakenAt < request.completedAt;
    let reach = covers;
    if (!this.#recording.device.reorders) {
      // What keeps the order has written everything before it as well.
      let last = 0;
      for (const { pending } of this.#open.values()) {
        for (const { request } of pending) {
          if (covers(request!)) last = Math.max(last, request!.number);
        }
      }
      reach = (write) => write.number <= last;
    }
    const blocks = request.type === RequestType.Flush
      ? this.#open.keys()
      : this.#recording.device.reorders
      ? request.versions.map(({ block }) => block)
      : this.#open.keys();
    for (const block of [...blocks]) {
      const open = this.#open.get(block);
      if (open === undefined) continue;
      for (const version of open.pending) {
        if (reach(version.request!)) this.#loose.add(version);
      }
      const last = open.pending.findLastIndex(({ request }) =>
        reach(request!) && !forsaken(request!) && !this.#vague(request!)
      );
      if (last < 0) continue;
      for (let i = 0; i <= last; i++) this.#loose.delete(open.pending[i]!);
      open.durable = open.pending[last]!;
      this.image.set(open.durable);
      if (last === open.pending.length - 1) this.#open.delete(block);
      else open.pending = open.pending.slice(last + 1);
    }
  }

  /** Whether nobody says what a write leaves, even when it is durable. */
  #vague(request: RecordedRequest): boolean {
    return request.type === RequestType.Discard &&
      this.#recording.device.discarded === "either";
  }

  #independent(pending: readonly RecordedRequest[]): Variable[] {
    const { tornBlocks } = this.#recording.device;
    const group = new Map<number, number>();
    const find = (block: number): number => {
      let root = block;
      for (;;) {
        const next = group.get(root);
        if (next === undefined || next === root) return root;
        root = next;
      }
    };
    const atomic = pending.filter((request) => request.atomic);
    for (const { versions } of atomic) {
      // Blocks of it that something durable replaced since are no part of it.
      const blocks = versions.filter((version) =>
        this.#open.get(version.block)?.pending.includes(version)
      ).map(({ block }) => block);
      for (const block of blocks) {
        const [a, b] = [find(blocks[0]!), find(block)];
        group.set(Math.max(a, b), Math.min(a, b));
        if (!group.has(Math.min(a, b))) {
          group.set(Math.min(a, b), Math.min(a, b));
        }
      }
    }
    const blocks = [...this.#open.keys()].sort((a, b) => a - b);
    const members = new Map<number, number[]>();
    const variables: Variable[] = [];
    for (const block of blocks) {
      if (group.has(block)) {
        const root = find(block);
        const list = members.get(root);
        if (list === undefined) members.set(root, [block]);
        else list.push(block);
      } else {
        const open = this.#open.get(block)!;
        variables.push(
          new BlockVariable(open.durable, open.pending, tornBlocks),
        );
      }
    }
    for (const list of members.values()) {
      const inside = new Set(list);
      variables.push(
        new GroupVariable(
          list.map((block) => this.#open.get(block)!.durable),
          this.#pieces(pending, inside),
        ),
      );
    }
    return variables;
  }

  #ordered(pending: readonly RecordedRequest[]): Variable[] {
    if (pending.length === 0) return [];
    const { tornBlocks } = this.#recording.device;
    const variables: Variable[] = [];
    const ordered = new Map<number, BlockVersion>();
    for (const [block, open] of this.#open) {
      // The order is over for what was flushed.
      if (open.pending.every((version) => this.#loose.has(version))) {
        variables.push(new BlockVariable(open.durable, open.pending, false));
      } else ordered.set(block, open.durable);
    }
    if (ordered.size > 0) {
      const pieces = this.#pieces(pending, ordered);
      variables.push(new OrderedVariable(ordered, pieces, tornBlocks));
    }
    return variables;
  }

  /** Parts of writes that are found wholly or not, in order. */
  #pieces(
    pending: readonly RecordedRequest[],
    inside: { has(block: number): boolean },
  ): Piece[] {
    const pieces: Piece[] = [];
    for (const request of pending) {
      const versions = request.versions.filter((version) =>
        inside.has(version.block) &&
        this.#open.get(version.block)?.pending.includes(version)
      );
      if (versions.length === 0) continue;
      if (request.atomic) pieces.push({ request, versions });
      else {
        for (const version of versions) {
          pieces.push({ request, versions: [version] });
        }
      }
    }
    return pieces;
  }
}
