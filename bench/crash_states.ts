/**
 * How many crash states a second the explorer shows to a recovery, and what
 * memory it takes.
 *
 *     deno run -A --v8-flags=--expose-gc bench/crash_states.ts 1000000
 *
 * The recovery reads 16 sectors of a 64 MiB image, each by a call of its own. The
 * last case has it run by a worker for each processor.
 *
 * @module
 */

import process from "node:process";
import { openBackend, VirtualDisk } from "@platter/disk";
import { exploreCrashes } from "@platter/disk/testing";
import readEach from "./crash_recovery.ts";

/** What was measured. */
export interface CrashStatesResult {
  /** What it is. */
  name: string;
  /** States visited. */
  states: number;
  /** States a second of processor time, the collector's included. */
  perCpuSecond: number;
  /** States a second. */
  perSecond: number;
  /**
   * Growth of the process while exploring, in bytes, with what the collector has
   * left over if it cannot be called.
   */
  growth: number;
  /** Bytes that the workload wrote. */
  written: number;
}

const RECOVERY = new URL("./crash_recovery.ts", import.meta.url);
const SECTORS = 131_072;
const EPOCHS = 64;
const WRITES = 16;

/** A workload of 64 flushes with 16 writes before each, all over the disk. */
async function workload(disk: VirtualDisk): Promise<void> {
  for (let epoch = 1; epoch <= EPOCHS; epoch++) {
    const writes: Promise<void>[] = [];
    for (let i = 0; i < WRITES; i++) {
      const data = new Uint8Array(1024).fill(epoch);
      writes.push(disk.write(8 * (epoch * 13 + i * 901), data));
    }
    await Promise.all(writes);
    await disk.flush();
  }
}

/** Reads 16 sectors, at once. */
async function readTogether(disk: VirtualDisk): Promise<void> {
  const reads: Promise<unknown>[] = [];
  for (let i = 0; i < 16; i++) reads.push(disk.read(8 * (i * 901 + 13), 1));
  await Promise.all(reads);
}

const MEMORY = Array.from({ length: 16 }, () => new Uint8Array(512));

/** Reads 16 sectors, one after the other, into memory that is there. */
async function readInto(disk: VirtualDisk): Promise<void> {
  for (let i = 0; i < 16; i++) {
    await disk.readInto(8 * (i * 901 + 13), MEMORY[i]!);
  }
}

/** Reads 16 sectors by one call. */
async function readOnce(disk: VirtualDisk): Promise<void> {
  await disk.read(8 * 13, 16);
}

/**
 * Measures.
 *
 * @param maxStates States to visit for each case.
 * @returns The figures.
 */
export async function measureCrashStates(
  maxStates: number,
): Promise<CrashStatesResult[]> {
  const path = await Deno.makeTempDir() + "/base.img";
  await (await VirtualDisk.create(path, { sectors: SECTORS })).close();
  const base = await openBackend(path, { readOnly: true });
  const results: CrashStatesResult[] = [];
  for (
    const [name, recover, over] of [
      ["16 reads, one after the other", readEach, undefined],
      ["16 reads into kept memory", readInto, undefined],
      ["16 reads at once", readTogether, undefined],
      ["1 read of 16 sectors", readOnce, undefined],
      ["16 reads, over an image file", readEach, base],
      ["16 reads, in workers", RECOVERY, undefined],
    ] as const
  ) {
    const explore = (states: number) =>
      exploreCrashes({
        device: { sectors: SECTORS },
        ...(over === undefined ? {} : { base: over }),
        workload,
        recover,
        maxStates: states,
        progress: false,
      });
    await explore(5000);
    collect();
    const size = Deno.memoryUsage().rss;
    const cpu = processorSeconds();
    const report = await explore(maxStates);
    const cpuSeconds = processorSeconds() - cpu;
    collect();
    results.push({
      name,
      states: report.states,
      perCpuSecond: report.states / cpuSeconds,
      perSecond: report.states / report.durationMs * 1000,
      growth: Deno.memoryUsage().rss - size,
      written: EPOCHS * WRITES * 1024,
    });
  }
  await base.close();
  await Deno.remove(path);
  return results;
}

function processorSeconds(): number {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1e6;
}

function collect(): void {
  (globalThis as { gc?: () => void }).gc?.();
}

if (import.meta.main) {
  const number = (value: number) => Math.round(value).toLocaleString("en-US");
  const states = Number(Deno.args[0] ?? 200_000);
  for (const result of await measureCrashStates(states)) {
    console.log(
      `${result.name.padEnd(32)} ${
        number(result.perSecond).padStart(8)
      } states/s, ${
        number(result.perCpuSecond).padStart(8)
      } per s of processor, ${number(result.states)} states, ${
        (result.growth / 2 ** 20).toFixed(1)
      } MiB more for ${(result.written / 2 ** 20).toFixed(1)} MiB written`,
    );
  }
}
