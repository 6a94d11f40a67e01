/**
 * Options as people give them: sizes in either way, and `undefined` for what is
 * not said, which `exactOptionalPropertyTypes` tells from what is not there. The
 * types below hold or this file does not compile.
 */

import * as platter from "@platter/disk";
import { VirtualDisk } from "@platter/disk";
import type * as doctor from "@platter/disk/doctor";
import type * as files from "@platter/disk/files";
import type * as image from "@platter/disk/image";
import type * as mount from "@platter/disk/mount";
import type * as nbd from "@platter/disk/nbd";
import * as testing from "@platter/disk/testing";
import { assertEquals, assertRejects, assertThrows } from "@std/assert";
import { tempDir } from "./helpers.ts";

/** The optional properties that do not take `undefined`. */
type Refusing<T> = T extends unknown ? {
    [K in keyof T]-?: Record<never, never> extends Pick<T, K>
      ? { [P in K]: undefined } extends Pick<T, K> ? never : K
      : never;
  }[keyof T]
  : never;

/** What all option types together refuse: nothing. */
type AllRefused =
  | Refusing<platter.CompareOptions>
  | Refusing<platter.CopyOptions>
  | Refusing<platter.CreateOptions>
  | Refusing<platter.DiskErrorOptions>
  | Refusing<platter.ErrnoErrorOptions>
  | Refusing<platter.MemoryBackendOptions>
  | Refusing<platter.OpenOptions>
  | Refusing<platter.QueueOptions>
  | Refusing<platter.RequestErrorOptions>
  | Refusing<platter.RequestOptions>
  | Refusing<platter.ResizeOptions>
  | Refusing<platter.StreamOptions>
  | Refusing<platter.SyncWriteOptions>
  | Refusing<platter.SyncZeroOptions>
  | Refusing<platter.WritableStreamOptions>
  | Refusing<platter.WriteOptions>
  | Refusing<platter.WriteZeroesOptions>
  | Refusing<platter.BadSectorOptions>
  | Refusing<platter.VirtioOptions>
  | Refusing<doctor.DiagnoseOptions>
  | Refusing<files.ExtractOptions>
  | Refusing<files.FilesOptions>
  | Refusing<files.ListOptions>
  | Refusing<files.ReadFileOptions>
  | Refusing<image.MakeBmapOptions>
  | Refusing<image.NewPartition>
  | Refusing<image.RescueOptions>
  | Refusing<image.RepairPartitionsOptions>
  | Refusing<image.WritePartitionsOptions>
  | Refusing<mount.LoopOptions>
  | Refusing<mount.MountOptions>
  | Refusing<nbd.NbdExport>
  | Refusing<nbd.NbdListenOptions>
  | Refusing<nbd.NbdServerOptions>
  | Refusing<nbd.NbdTlsOptions>
  | Refusing<testing.AssertDisksOptions>
  | Refusing<testing.AssertGoldenOptions>
  | Refusing<testing.AssertMemoryOptions>
  | Refusing<testing.AssertSectorsOptions>
  | Refusing<testing.AttachOptions>
  | Refusing<testing.CrashOptions<string>>
  | Refusing<testing.CrashTestOptions>
  | Refusing<testing.MakeReportOptions>
  | Refusing<testing.RunOptions>
  | Refusing<testing.StageOptions>
  | Refusing<testing.CrashRecorderOptions>
  | Refusing<testing.OpenRecordingOptions>
  | Refusing<testing.ReadWriteLogOptions>
  | Refusing<testing.WriteWriteLogOptions>
  | Refusing<testing.SaveRecordingOptions>
  | Refusing<testing.ExploreRecordingOptions<string>>
  | Refusing<testing.MakeReportOptions>
  | Refusing<testing.RecordWorkloadOptions<string>>
  | Refusing<testing.JudgeOptions>
  | Refusing<testing.FaultRule>
  | Refusing<testing.FaultsOptions>
  | Refusing<testing.LatencyOptions>
  | Refusing<testing.LayerOptions>
  | Refusing<testing.ObserveOptions>
  | Refusing<testing.NamedRange>
  | Refusing<testing.OverlayOptions>
  | Refusing<testing.OverlayFileOptions>
  | Refusing<testing.FileOverlayOptions>
  | Refusing<testing.ProtectOptions>
  | Refusing<testing.ReadaheadOptions>
  | Refusing<testing.ReplayOptions>
  | Refusing<testing.TraceOptions>
  | Refusing<testing.FioIologOptions>
  | Refusing<testing.MemoryImageOptions>
  | Refusing<testing.TemporaryImageOptions>;

/** Compiles only if its argument is `never`. */
type Nothing<T extends never> = T;
export type EveryOptionTakesUndefined = Nothing<AllRefused>;
// And the question is one that can be answered with yes.
const known: Refusing<{ a?: string; b: string; c?: string | undefined }> = "a";

Deno.test("every option takes undefined for what is not said", async () => {
  assertEquals(known, "a");
  await using dir = await tempDir();
  const path = dir.join("disk.img");
  const open: platter.OpenOptions = {
    queueSize: undefined,
    writeCache: undefined,
    onSubmit: undefined,
    throttle: undefined,
    direct: undefined,
    backend: undefined,
    engine: undefined,
    stallMs: undefined,
    pollMs: undefined,
    readOnly: undefined,
    blockSize: undefined,
    lock: undefined,
    format: undefined,
    backingFiles: undefined,
    id: undefined,
    signal: undefined,
  };
  {
    await using disk = await VirtualDisk.create(path, {
      ...open,
      sectors: undefined,
      size: "64KiB",
      overwrite: undefined,
      preallocate: undefined,
    });
    const data = new Uint8Array(512).fill(1);
    await disk.write(0, data, { fua: undefined, signal: undefined });
    await disk.writeZeroes(8, 8, { unmap: undefined, signal: undefined });
    await disk.flush({ signal: undefined });
    assertEquals(await disk.read(0, 1, { signal: undefined }), data);
    const stream = disk.readable({
      sector: undefined,
      count: undefined,
      signal: undefined,
    });
    assertEquals((await Array.fromAsync(stream)).length > 0, true);
    await using copy = VirtualDisk.memory({
      ...open,
      size: undefined,
      sectors: 128,
      physicalBlockSize: undefined,
    });
    const result = await platter.copyDisk(disk, copy, {
      chunkSectors: undefined,
      depth: undefined,
      onProgress: undefined,
      signal: undefined,
      sparse: undefined,
      targetIsZero: undefined,
      verify: true,
    });
    assertEquals(result.verified, true);
  }
  const backend = await platter.openBackend(path);
  assertEquals(backend.geometry.sectors, 128);
  await backend.close();
});

const SIZES: [size: number | string, sectors: number][] = [
  ["64MiB", 131_072],
  ["64 MiB", 131_072],
  ["1.5k", 3],
  ["2048s", 2048],
  ["512", 1],
  [512, 1],
  [1 << 20, 2048],
];

Deno.test("VirtualDisk.create() and memory() take a size for sectors", async () => {
  await using dir = await tempDir();
  const path = dir.join("disk.img");
  for (const [size, sectors] of SIZES) {
    await using disk = await VirtualDisk.create(path, {
      size,
      overwrite: true,
    });
    assertEquals(disk.sectors, sectors);
    await using memory = VirtualDisk.memory({ size });
    assertEquals(memory.sectors, sectors);
    await using image = await testing.memoryImage({ size });
    assertEquals(image.disk.sectors, sectors);
  }
  await using image = await testing.temporaryImage({ size: "4KiB" });
  assertEquals(image.disk.sectors, 8);
});

Deno.test("VirtualDisk.create() and memory() refuse sizes that are none", async () => {
  await using dir = await tempDir();
  const path = dir.join("disk.img");
  const bad: [
    platter.DiskSize,
    typeof RangeError | typeof TypeError,
    string,
  ][] = [
    [{}, TypeError, "one of sectors and size"],
    [{ sectors: 1, size: 512 }, TypeError, "one of sectors and size"],
    [{ size: "lots" }, TypeError, `current value is "lots"`],
    [{ size: 1000 }, RangeError, "current value is 1000"],
    [{ size: "1000" }, RangeError, `current value is "1000"`],
    [{ size: -512 }, RangeError, "current value is -512"],
    [{ size: 2 ** 53 }, RangeError, `current value is ${2 ** 53}`],
    [{ size: NaN }, RangeError, "current value is NaN"],
  ];
  for (const [size, type, words] of bad) {
    await assertRejects(() => VirtualDisk.create(path, size), type, words);
    assertThrows(() => VirtualDisk.memory(size), type, words);
  }
  await assertRejects(() => VirtualDisk.create(path, { size: 0 }), RangeError);
  await assertRejects(() => Deno.lstat(path), Deno.errors.NotFound);
});

Deno.test("every exported option type is among those that are asked", async () => {
  const own = await Deno.readTextFile(new URL(import.meta.url));
  for (
    const [module, name] of [
      ["mod.ts", "platter"],
      ["src/files/mod.ts", "files"],
      ["src/image/mod.ts", "image"],
      ["src/crash/mod.ts", "testing"],
      ["src/nbd/mod.ts", "nbd"],
      ["src/mount/mod.ts", "mount"],
    ]
  ) {
    const { stdout } = await new Deno.Command(Deno.execPath(), {
      args: ["doc", "--json", module!],
      cwd: new URL("..", import.meta.url),
    }).output();
    const text = new TextDecoder().decode(stdout);
    const names = new Set(
      [...text.matchAll(/"name": ?"([A-Z]\w*Options)"/g)].map((it) => it[1]!),
    );
    assertEquals(names.size > 1, true);
    for (const each of names) {
      assertEquals(own.includes(`.${each}`), true, `${name}.${each}`);
    }
  }
});
