/**
 * The plug pulled on overlays in files, at every moment: what was flushed is
 * there, and what was not is as before or as it was written.
 *
 * Base and file lie on one device, so that a power cut leaves both of them in any
 * state that it may. The base comes first, the file behind it.
 *
 * @module
 */

import { assert, assertEquals, assertRejects } from "@std/assert";
import type { Backend } from "../../src/backend.ts";
import { MemoryBackend } from "../../src/backends/memory.ts";
import type { VirtualDisk } from "../../src/disk/disk.ts";
import { overlay } from "../../src/disk/overlay.ts";
import { DiskError } from "../../src/errors.ts";
import type { FileOverlay } from "../../src/layers/file_overlay.ts";
import { layoutOf, MAP_SECTOR } from "../../src/layers/overlay_file/format.ts";
import {
  flushRequest,
  Request,
  RequestType,
  writeFuaRequest,
  writeRequest,
  writeZeroesRequest,
} from "../../src/request.ts";
import {
  CrashFailure,
  type CrashOptions,
  exploreCrashes,
} from "../../src/testing/mod.ts";
import { carryOut, readDisk, readSectors } from "../contract.ts";
import { holding } from "../fake_backend.ts";
import { LONG } from "../helpers.ts";

const SECTORS = 6;
const { fileSectors } = layoutOf(SECTORS);
const DEVICE = { sectors: SECTORS + fileSectors };

/** What the base has before. */
const OLD = 0xb0;

const sector = (value: number, count = 1) =>
  new Uint8Array(count * 512).fill(value);

/**
 * A part of a recorded disk as a backend, which stays open. Of one that is blank
 * it is known that it is a hole, until something is written.
 */
function partOf(
  disk: VirtualDisk,
  start: number,
  sectors: number,
  blank = false,
): Backend {
  const { info, counters } = disk;
  const { blockSize, physicalBlockSize, minimumIoSize, optimalIoSize } = info;
  return {
    geometry: {
      sectors,
      blockSize,
      physicalBlockSize,
      minimumIoSize,
      optimalIoSize,
    },
    abilities: info.abilities,
    limits: { maxSegments: 1, maxBytes: 1 << 20 },
    info,
    counters,
    submit(batch, complete) {
      for (const request of [...batch]) {
        blank &&= !request.writes;
        const { type, sector, count, flags, data, more } = request;
        const own = new Request(type, start + sector, count, flags, data, more);
        disk.submit(own).then(() => complete(request, own.error));
      }
    },
    extents: (sector, count) => [{ sector, count, hole: blank }],
    allocate: (byteLength) => new Uint8Array(byteLength),
    close: () => Promise.resolve(),
  };
}

function open(disk: VirtualDisk, blank = false): Promise<FileOverlay> {
  return overlay(partOf(disk, 0, SECTORS), {
    file: partOf(disk, SECTORS, fileSectors, blank),
  });
}

/** One step of a workload: what it does to sectors, and what that makes durable. */
interface Step {
  readonly what: "write" | "fua" | "zero" | "flush" | "commit" | "reopen";
  readonly sector?: number;
  readonly count?: number;
  readonly value?: number;
}

const write = (sector: number, count: number, value: number): Step => ({
  what: "write",
  sector,
  count,
  value,
});
const FLUSH: Step = { what: "flush" };

async function take(
  changes: FileOverlay,
  { what, sector: at = 0, count = 0, value = 0 }: Step,
): Promise<void> {
  switch (what) {
    case "write":
      return await carryOut(changes, writeRequest(at, sector(value, count)));
    case "fua":
      return await carryOut(changes, writeFuaRequest(at, sector(value, count)));
    case "zero":
      return await carryOut(changes, writeZeroesRequest(at, count));
    case "flush":
      return await carryOut(changes, flushRequest());
    case "commit":
      return await changes.commit();
  }
}

/** What a sector may have once so many steps are acknowledged. */
function allowed(
  steps: readonly Step[],
  acknowledged: readonly number[],
  at: number,
): number[] {
  let values = [OLD];
  const flushed = Math.max(
    -1,
    ...acknowledged.filter((i) => ["flush", "commit"].includes(steps[i]!.what)),
  );
  steps.forEach(({ sector, count = 0, value = 0 }, i) => {
    if (sector === undefined || at < sector || at >= sector + count) return;
    const durable = i <= flushed ||
      steps[i]!.what === "fua" && acknowledged.includes(i);
    values = durable ? [value] : [...values, value];
  });
  return values;
}

function exploration(
  steps: readonly Step[],
): CrashOptions<number> {
  const base = new MemoryBackend({ sectors: DEVICE.sectors });
  return {
    device: DEVICE,
    base,
    maxStates: LONG ? 20_000 : 150,
    async prepare(disk) {
      await disk.write(0, sector(OLD, SECTORS));
      await (await open(disk, true)).close();
    },
    async workload(disk, acknowledge) {
      let changes = await open(disk);
      for (const [i, step] of steps.entries()) {
        if (step.what === "reopen") {
          await changes.close();
          changes = await open(disk);
        } else await take(changes, step);
        acknowledge(i);
      }
    },
    async recover(disk, acknowledged) {
      const changes = await open(disk);
      const check = async (backend: Backend) => {
        const seen = await readDisk(backend);
        for (let at = 0; at < SECTORS; at++) {
          const bytes = new Set(seen.subarray(at * 512, (at + 1) * 512));
          assertEquals(bytes.size, 1, `sector ${at} is torn`);
          const [value] = bytes;
          const values = allowed(steps, acknowledged, at);
          assert(
            values.includes(value!),
            `sector ${at} has ${value} and not one of ${values}`,
          );
        }
      };
      await check(changes);
      // Whatever the base is, to commit makes it right.
      await changes.commit();
      assertEquals(changes.changed, false);
      await check(partOf(disk, 0, SECTORS));
      await check(changes);
      await changes.close();
      const again = await open(disk);
      await check(again);
      await again.close();
    },
  };
}

const WRITES: readonly Step[] = [
  write(0, 3, 1),
  write(4, 1, 2),
  FLUSH,
  write(1, 2, 3),
  write(5, 1, 4),
  { what: "zero", sector: 4, count: 1 },
  FLUSH,
  { what: "fua", sector: 3, count: 1, value: 5 },
  { what: "fua", sector: 0, count: 2, value: 6 },
  write(2, 2, 7),
  { what: "reopen" },
  write(2, 2, 8),
];

const COMMITS: readonly Step[] = [
  write(0, 2, 1),
  write(4, 1, 2),
  FLUSH,
  write(1, 2, 3),
  { what: "commit" },
  write(1, 1, 4),
  FLUSH,
  write(0, 1, 5),
  { what: "commit" },
  { what: "fua", sector: 0, count: 1, value: 6 },
];

Deno.test("overlay() in a file has after a power cut what was flushed, and old or new of the rest", async () => {
  const report = await exploreCrashes(exploration(WRITES));
  assertEquals(report.acknowledged, WRITES.length);
  assert(report.states > 50, report.summary);
});

Deno.test("FileOverlay.commit() is interrupted by power cuts anywhere, and repeated", async () => {
  const report = await exploreCrashes(exploration(COMMITS));
  assertEquals(report.acknowledged, COMMITS.length);
  assert(report.states > 50, report.summary);
});

Deno.test("FileOverlay.commit() is repeated when the power fails again meanwhile", async () => {
  const report = await exploreCrashes({
    ...exploration(COMMITS.slice(0, 5)),
    crashDuringRecovery: true,
    maxStates: LONG ? 2000 : 12,
    maxStatesPerRecovery: LONG ? 48 : 12,
  });
  assert(report.recoveryStates > 50, report.summary);
});

Deno.test("overlay() in a file is found to lose what was flushed on a device that lies", async () => {
  for (const steps of [WRITES, COMMITS]) {
    const options = exploration(steps);
    await assertRejects(
      () =>
        exploreCrashes({
          ...options,
          device: { ...DEVICE, honorsFlush: false },
        }),
      CrashFailure,
    );
  }
});

Deno.test("overlay() in a file begins, discards and restores wholly or not at all", async () => {
  const states = new Set<string>();
  const mid = new MemoryBackend({ sectors: fileSectors });
  await exploreCrashes<string>({
    device: DEVICE,
    maxStates: LONG ? 20_000 : 150,
    async prepare(disk) {
      await disk.write(0, sector(OLD, SECTORS));
    },
    async workload(disk, acknowledge) {
      const changes = await open(disk, true);
      acknowledge("made");
      await carryOut(changes, writeRequest(0, sector(1, SECTORS)));
      await carryOut(changes, flushRequest());
      acknowledge("one");
      const fork = await changes.fork(mid);
      await changes.discard();
      acknowledge("none");
      await carryOut(changes, writeRequest(2, sector(2, 2)));
      await carryOut(changes, flushRequest());
      acknowledge("two");
      await changes.restore(fork);
      acknowledge("restored");
      await fork.close();
    },
    async recover(disk, acknowledged) {
      const last = acknowledged.at(-1);
      let changes: FileOverlay;
      try {
        changes = await open(disk);
      } catch (error) {
        assert(error instanceof DiskError && error.kind === "geometry");
        // Half of a restore is refused, and so is half of the making.
        const half = last === undefined || last === "two";
        assert(half, `${last}: ${error.message}`);
        states.add(last === undefined ? "not made" : "half restored");
        if (last === undefined) {
          // Nothing was promised, and nothing of the base is lost.
          const base = await readDisk(partOf(disk, 0, SECTORS));
          assertEquals(base, sector(OLD, SECTORS));
          return;
        }
        changes = await overlay(partOf(disk, 0, SECTORS), {
          file: partOf(disk, SECTORS, fileSectors),
          reset: true,
        });
        assertEquals(await readDisk(changes), sector(OLD, SECTORS));
        await changes.close();
        return;
      }
      const seen = await readDisk(changes);
      const word = Array.from({ length: SECTORS }, (_, i) => seen[i * 512]);
      states.add(word.join(" "));
      const all = (value: number) => Array(SECTORS).fill(value).join(" ");
      const text = word.join(" ");
      if (last === "one") assert([all(1), all(OLD)].includes(text), text);
      if (last === "restored") assertEquals(text, all(1));
      if (last === "two") {
        assert(
          [`${OLD} ${OLD} 2 2 ${OLD} ${OLD}`, all(1), all(OLD)].includes(text),
          text,
        );
      }
      await changes.close();
    },
  });
  for (const state of ["not made", "half restored"]) assert(states.has(state));
  assert(states.size >= 5, [...states].join(", "));
});

Deno.test("FileOverlay.fork() is whole after a power cut, or refused", async () => {
  // Two sectors of the map, so that one can be there without the other.
  const sectors = 8000;
  const places = [0, sectors - 1];
  const { fileSectors } = layoutOf(sectors);
  const device = { sectors: sectors + fileSectors };
  const seen = new Set<string>();
  const open = (disk: VirtualDisk) =>
    overlay(partOf(disk, 0, sectors), {
      file: partOf(disk, sectors, fileSectors),
    });
  await exploreCrashes<string>({
    device,
    maxStates: LONG ? 20_000 : 200,
    async workload(disk, acknowledge) {
      const changes = await overlay(partOf(disk, 0, sectors), {
        file: new MemoryBackend({ sectors: fileSectors }),
      });
      for (const at of places) {
        await carryOut(changes, writeRequest(at, sector(7)));
      }
      const fork = await changes.fork(
        partOf(disk, sectors, fileSectors, true),
      );
      acknowledge("forked");
      await fork.close();
      await changes.close();
    },
    async recover(disk, acknowledged) {
      let fork: FileOverlay;
      try {
        fork = await open(disk);
      } catch (error) {
        assert(error instanceof DiskError && error.kind === "geometry");
        assertEquals(acknowledged, []);
        seen.add(
          /interrupted/.test(error.message) ? "interrupted" : "not made",
        );
        return;
      }
      const found = new Set<number>();
      for (const at of places) found.add((await readSectors(fork, at, 1))[0]!);
      assertEquals(found.size, 1, "a part of the changes");
      const [value] = found;
      if (acknowledged.length > 0) assertEquals(value, 7);
      seen.add(value === 7 ? "whole" : "empty");
      await fork.close();
    },
  });
  assertEquals([...seen].sort(), ["empty", "interrupted", "not made", "whole"]);
});

Deno.test("overlay() in a file makes a write durable whose mark a killed program has left", async () => {
  let durable = 0;
  await exploreCrashes<string>({
    device: DEVICE,
    maxStates: LONG ? 20_000 : 150,
    async prepare(disk) {
      const changes = await open(disk, true);
      await carryOut(changes, writeRequest(0, sector(1)));
      await changes.close();
    },
    async workload(disk, acknowledge) {
      // Killed when the mark is written, before it is flushed.
      let isMarked = false;
      const { backend, held } = holding(
        partOf(disk, SECTORS, fileSectors),
        ({ type, writes, sector }) => {
          isMarked ||= writes && sector === MAP_SECTOR;
          return isMarked && type === RequestType.Flush;
        },
      );
      const killed = await overlay(partOf(disk, 0, SECTORS), { file: backend });
      await carryOut(killed, writeRequest(3, sector(2)));
      void carryOut(killed, flushRequest());
      while (held.length === 0) {
        await new Promise((resolve) => setTimeout(resolve, 0));
      }
      const next = await open(disk);
      await carryOut(next, writeFuaRequest(3, sector(3)));
      acknowledge("durable");
    },
    async recover(disk, acknowledged) {
      const changes = await open(disk);
      const [value] = await readSectors(changes, 3, 1);
      await changes.close();
      if (acknowledged.length === 0) return;
      durable++;
      assertEquals(value, 3);
    },
  });
  assert(durable > 0);
});
