/**
 * Findings for tests of reports, of programs in this process.
 */

import type {
  CrashReportData,
  ReportLost,
} from "../../../src/crash/report/data.ts";
import type { VirtualDisk } from "../../../src/disk/disk.ts";
import type { RecordWorkloadOptions } from "../../../src/testing/crash_options.ts";
import type { CrashRecording } from "../../../src/testing/crash_recording.ts";
import type { CrashFindings } from "../../../src/testing/crash_verdict.ts";
import { judgeRecording } from "../../../src/testing/judge_recording.ts";
import { recordWorkload } from "../../../src/testing/record_workload.ts";

/** A program to be tested, and how. */
export interface Subject extends RecordWorkloadOptions<string> {
  /** Throws if a state is not sound; the message is what it printed. */
  check(disk: VirtualDisk, acknowledged: readonly string[]): Promise<void>;
  /** States that are judged at most. */
  maxStates: number;
}

/** What was found, and of what. */
export interface Exploration {
  readonly found: CrashFindings;
  readonly recording: CrashRecording;
}

const explored = new WeakMap<Subject, Promise<Exploration>>();

/** Records a program and judges its states; each program once. */
export function explore(subject: Subject): Promise<Exploration> {
  const known = explored.get(subject) ?? exploreOnce(subject);
  explored.set(subject, known);
  return known;
}

async function exploreOnce(subject: Subject): Promise<Exploration> {
  const { check, maxStates } = subject;
  const recording = await recordWorkload(subject, 1000);
  const found = await judgeRecording(recording, {
    maxStates,
    maxShrinkStates: 30,
    async judge(state) {
      await using disk = state.open();
      try {
        await check(disk, state.acknowledged as readonly string[]);
        return { outcome: "sound" };
      } catch (error) {
        const { message: output } = error as Error;
        const message = output.split("\n").at(-1)!;
        return { outcome: "failed", message, output };
      }
    },
  });
  return { found, recording };
}

/** A log of records of two sectors whose length comes before its data. */
export const LOG: Subject = {
  device: { sectors: 2048, tornBlocks: true },
  maxStates: 150,
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

/** The same shape, long: blocks all over the disk, a flush now and then. */
export const LONG_LOG: Subject = longSubject(4000);

/** The same with so many requests. */
export function longSubject(requests: number): Subject {
  return {
    device: { sectors: 2 ** 21 },
    maxStates: 200,
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
