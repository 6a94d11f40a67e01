/**
 * Findings for tests of reports: a workload is recorded, and states of it are
 * judged one by one, the plainest ones first, without any of the machinery that
 * runs checks side by side.
 */

import { VirtualDisk } from "../../../src/disk/disk.ts";
import type {
  CrashFindings,
  CrashState,
  FailureGroup,
} from "../../../src/testing/crash_verdict.ts";
import type {
  CrashReportData,
  ReportLost,
} from "../../../src/crash/report/data.ts";
import type { RecordWorkloadOptions } from "../../../src/testing/crash_options.ts";
import type { CrashRecording } from "../../../src/testing/crash_recording.ts";
import {
  type CrashLevel,
  CrashPosition,
} from "../../../src/testing/crash_level.ts";
import { pointStates } from "../../../src/testing/crash_plan.ts";
import { CrashStateBackend } from "../../../src/testing/crash_state.ts";
import { encodeToken } from "../../../src/testing/crash_token.ts";
import { recordWorkload } from "../../../src/testing/record_workload.ts";
import { makeStory } from "../../../src/testing/story_data.ts";
import { Random } from "../../../src/random.ts";
import { RequestType } from "../../../src/request.ts";

/** A program to be tested, and how. */
export interface Subject extends RecordWorkloadOptions<string> {
  /** Throws if a state is not sound; the message is what it printed. */
  check(disk: VirtualDisk, acknowledged: readonly string[]): Promise<void>;
  /** States of each crash point that are judged. */
  statesPerPoint: number;
  /** Every how many crash points one is judged. */
  everyPoint?: number;
}

/** What was found, and of what. */
export interface Exploration {
  readonly found: CrashFindings;
  readonly recording: CrashRecording;
}

/** Records a program and judges some of its states. */
export async function explore(subject: Subject): Promise<Exploration> {
  const { check, statesPerPoint, everyPoint = 1 } = subject;
  const recording = await recordWorkload(subject, 1000);
  const level: CrashLevel = {
    recording,
    source: recording.source,
    hash: [0, 0],
    acknowledged: null,
  };
  const groups = new Map<string, FailureGroup & { count: number }>();
  const points: { point: number; visited: number; failed: number }[] = [];
  const position = new CrashPosition(level);
  for (const [i, point] of position.timeline.points.entries()) {
    if (i % everyPoint !== 0) continue;
    position.goTo(point);
    const tally = { point: position.point, visited: 0, failed: 0 };
    points.push(tally);
    for (const choice of pointStates(position.space, new Random(0))) {
      if (tally.visited++ === statesPerPoint) break;
      position.select(choice);
      const backend = new CrashStateBackend(position.image, recording.device);
      await using disk = VirtualDisk.over(backend);
      const acknowledged = position.acknowledged as readonly string[];
      try {
        await check(disk, acknowledged);
      } catch (error) {
        tally.failed++;
        const { message } = error as Error;
        const kind = message.split("\n").at(-1)!.replace(/\d+/g, "…");
        const known = groups.get(kind);
        if (known !== undefined) known.count++;
        else {
          const { step, space } = position;
          groups.set(kind, {
            kind,
            message: message.split("\n").at(-1)!,
            count: 1,
            token: encodeToken({
              fingerprint: recording.fingerprint(),
              steps: [step],
            }),
            story: makeStory([{ level, step, space }], acknowledged, [message]),
            output: message,
            state: stateOf(position, recording),
          });
        }
      }
    }
  }
  const sum = (values: number[]) => values.reduce((a, b) => a + b, 0);
  const states = sum(points.map(({ visited }) => visited));
  const failed = sum(points.map(({ failed }) => failed));
  const flushes =
    recording.requests.filter(({ type }) => type === RequestType.Flush).length;
  return {
    recording,
    found: {
      report: {
        states,
        exhaustive: false,
        seed: 0,
        points: points.length,
        writes: recording.requests.length - flushes,
        flushes,
        acknowledged: recording.acknowledged.length,
        recoveryStates: 0,
        repeated: 0,
        durationMs: 1234,
        summary: "",
      },
      ended: "states",
      groups: [...groups.values()],
      unstable: [],
      unjudged: [],
      counts: { sound: states - failed, failed, unstable: 0, unjudged: 0 },
      points,
      seenEachGroup: true,
    },
  };
}

/** The state that a position shows now. */
function stateOf(
  { image, point, acknowledged }: CrashPosition,
  { device }: CrashRecording,
): CrashState {
  const frozen = image.freeze();
  const openBackend = () => new CrashStateBackend(frozen, device);
  return {
    token: "",
    point,
    hash: "",
    acknowledged,
    changes: () => new Map(),
    openBackend,
    open: () => VirtualDisk.over(openBackend()),
  };
}

/** A log of records of two sectors whose length comes before its data. */
export const LOG: Subject = {
  device: { sectors: 2048, tornBlocks: true },
  statesPerPoint: 40,
  async workload(disk, acknowledge) {
    for (const [i, text] of ["one", "two", "three"].entries()) {
      const record = new Uint8Array(1024).fill(text.charCodeAt(0));
      record[0] = i + 1;
      await disk.write(2 * i, record);
      await disk.write(2040, new Uint8Array(512).fill(i + 1));
      if (i !== 1) await disk.flush();
      acknowledge(text);
    }
  },
  async check(disk, acknowledged) {
    const count = (await disk.read(2040, 1))[0]!;
    if (count < acknowledged.length) {
      throw new Error(
        `$ log-check\nreading <records> & counting\nOnly ${count} records of ${acknowledged.length} are there`,
      );
    }
    for (let i = 0; i < count; i++) {
      const record = await disk.read(2 * i, 2);
      if (record[0] !== i + 1 || record[1023] !== record[511]) {
        throw new Error(`Record ${i} is damaged`);
      }
    }
  },
};

/** The same shape, very long: blocks all over the disk, a flush now and then. */
export function longSubject(requests: number): Subject {
  return {
    device: { sectors: 2 ** 21 },
    statesPerPoint: 12,
    everyPoint: Math.max(1, Math.floor(requests / 16_000)),
    async workload(disk, acknowledge) {
      let random = 1;
      for (let i = 0; i < requests / 4; i++) {
        random = (Math.imul(random, 1664525) + 1013904223) >>> 0;
        const page = new Uint8Array(512).fill(i & 255);
        await Promise.all([
          disk.write(2048 + i % 4096, page), // A log that turns around.
          disk.write(2 ** 20 + (random >>> 14), page),
        ]);
        await disk.write(8, page);
        if (i % 5 !== 0 || i % 1000 < 500) await disk.flush();
        if (i % 50 === 0) acknowledge(`${i}`);
      }
    },
    async check(disk, acknowledged) {
      if (acknowledged.length === 0) return;
      const promised = Number(acknowledged.at(-1));
      const found = (await disk.read(8, 1))[0]!;
      if (((found - promised) & 255) > 60) {
        throw new Error(`Transaction ${promised} is gone: ${found}`);
      }
    },
  };
}

/** A report whose first failure lost what {@linkcode LOST} says. */
export function withLost(data: CrashReportData): CrashReportData {
  const groups = data.groups.map((group) => ({ ...group, lost: LOST }));
  return { ...data, groups };
}

/** What the lost sectors of LOG are, as tools might tell. */
export const LOST: ReportLost = {
  ranges: [{
    sector: 2040,
    count: 1,
    path: ["partition 1", "ext4", "inode 12", "/var/lib/log/count"],
  }],
  notes: ["Which process wrote it is not known: a disk is told no process."],
};
