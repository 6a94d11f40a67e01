/**
 * A disk as a file, judged by programs that know nothing of it.
 *
 * @module
 */

import { assert, assertEquals, assertRejects } from "@std/assert";
import type { Backend } from "../../src/backend.ts";
import { MemoryBackend } from "../../src/backends/memory.ts";
import { VirtualDisk } from "../../src/disk/disk.ts";
import { DiskError } from "../../src/errors.ts";
import { parseFaultRule } from "../../src/layers/fault_rule_text.ts";
import { faults } from "../../src/layers/faults.ts";
import { asFile } from "../../src/mount/as_file.ts";
import { Random } from "../../src/random.ts";
import { RequestType } from "../../src/request.ts";
import { altered } from "../fake_backend.ts";
import { LONG, stopProcess, tempDir } from "../helpers.ts";
import {
  exists,
  holding,
  isMounted,
  needsFuse,
  processesWith,
  processOfProgram,
  shell,
  TOOLS,
  until,
} from "./harness.ts";

const MIB = 1 << 20;

/** Runs a command line that must succeed. */
async function succeed(script: string, ...args: string[]): Promise<string> {
  const { code, out } = await shell(script, ...args);
  assertEquals(code, 0, `${script}: ${out}`);
  return out;
}

/** What `cat` reads: another process, as closing a file may be a request, too. */
async function contentOf(path: string): Promise<Uint8Array> {
  const cat = new Deno.Command("cat", { args: [path], stdin: "null" });
  const { code, stdout } = await cat.output();
  assertEquals(code, 0);
  return stdout;
}

/** Counts what arrives. */
function counting(below: Backend): { backend: Backend; counts: number[] } {
  const counts = Array.from({ length: 32 }, () => 0);
  const backend = altered(below, {
    submit(batch, complete) {
      for (const { type } of batch) counts[type]!++;
      below.submit(batch, complete);
    },
  });
  return { backend, counts };
}

for (const tool of TOOLS) {
  const needed = needsFuse(tool);

  Deno.test({
    name: `asFile() is a file to ext4's tools, sgdisk and qemu-img, by ${tool}`,
    ...needsFuse(tool, "mkfs.ext4", "sgdisk", "qemu-img"),
    async fn() {
      await using disk = VirtualDisk.memory({ size: "32MiB" });
      // Whatever was there, a hole that is punched must read as zeroes.
      await disk.write(0, disk.allocate(4096).fill(0xa5));
      await using file = await asFile(disk, { tool });
      assertEquals(file.tool, tool);
      await succeed(
        'mkfs.ext4 -q "$1" && echo word > "$1.txt" && ' +
          'debugfs -w -R "write $1.txt word" "$1" && ' +
          'e2fsck -fn "$1" && debugfs -R "cat /word" "$1" | grep -x word && ' +
          'rm "$1.txt"',
        file.path,
      );
      const superblock = await disk.read(2, 2);
      assertEquals([superblock[0x38], superblock[0x39]], [0x53, 0xef]);
      await succeed('sgdisk -Z "$1"; sgdisk -n 1:2048:+1M "$1"', file.path);
      await succeed('sgdisk -v "$1" | grep "No problems found"', file.path);
      const info = await succeed('qemu-img info "$1"', file.path);
      assert(info.includes(`(${32 * MIB} bytes)`), info);
    },
  });

  Deno.test({
    name: `asFile() keeps what fio writes, direct and not, by ${tool}`,
    ignore: needsFuse(tool, "fio").ignore || !(LONG || tool === "nbdfuse"),
    async fn() {
      await using dir = await tempDir();
      await using disk = VirtualDisk.memory({ size: "8MiB", blockSize: 4096 });
      await using file = await asFile(disk, { tool });
      for (const [size, direct] of [["4k", 1], ["512", 1], ["700", 0]]) {
        await succeed(
          'cd "$1" && fio --name=x --filename="$2" --size=8M --bs="$3" ' +
            '--direct="$4" --rw=randwrite --ioengine=psync --io_size="$5" ' +
            "--verify=crc32c --do_verify=1 --verify_fatal=1 --minimal",
          ...[dir.path, file.path, String(size), String(direct)],
          LONG ? "4M" : "256k",
        );
      }
    },
  });

  Deno.test({
    name: `asFile() punches holes that read as zeroes, to the byte, by ${tool}`,
    ...needsFuse(tool, "fallocate"),
    async fn() {
      await using disk = VirtualDisk.memory({ size: "1MiB", blockSize: 4096 });
      await disk.write(0, disk.allocate(2048).fill(7));
      await using file = await asFile(disk, { tool });
      await succeed('fallocate -p -o 1001 -l 100000 "$1"', file.path);
      await succeed('fallocate -z -o 200001 -l 70000 "$1"', file.path);
      const expected = new Uint8Array(MIB).fill(7).fill(0, 1001, 101_001)
        .fill(0, 200_001, 270_001);
      for (const content of [contentOf(file.path), disk.read(0, 2048)]) {
        const bytes = await content;
        assertEquals(bytes.findIndex((byte, i) => byte !== expected[i]), -1);
      }
    },
  });

  Deno.test({
    name: `asFile() hands on the errors of the disk, by ${tool}`,
    ...needed,
    async fn() {
      const memory = new MemoryBackend({ sectors: 2048 });
      const faulty = faults(memory, []);
      await using file = await asFile(faulty, { tool });
      const write = () =>
        shell(
          'dd if=/dev/zero of="$1" bs=4k count=1 conv=notrunc,fsync',
          file.path,
        );
      for (
        const [rule, words] of [
          ["write error=EIO", "Input/output error"],
          ["write error=ENOSPC", "No space left"],
        ] as const
      ) {
        const added = parseFaultRule(rule);
        faulty.add(added);
        const { code, out } = await write();
        assertEquals([code, out.includes(words)], [1, true], out);
        faulty.remove(added);
        assertEquals((await write()).code, 0);
      }
      const flush = parseFaultRule("flush error=EIO");
      faulty.add(flush);
      assertEquals((await write()).code, 1);
      faulty.remove(flush);
      // The disk is latched: it does not pretend afterwards.
      assertEquals((await write()).code, 1);
    },
  });

  Deno.test({
    name: `asFile() refuses writes to what is read-only, by ${tool}`,
    ...needed,
    async fn() {
      await using disk = VirtualDisk.memory({ size: "1MiB" });
      await using file = await asFile(disk, { tool, readOnly: true });
      const { code } = await shell(
        'dd if=/dev/zero of="$1" count=1 conv=notrunc',
        file.path,
      );
      assert(code !== 0);
      assertEquals((await contentOf(file.path)).length, MIB);
    },
  });

  Deno.test({
    name: `MountedFile.close() takes a file away that is in use, by ${tool}`,
    ...needed,
    async fn() {
      await using dir = await tempDir();
      const path = dir.join("a b\\c#\td\ne");
      await using disk = VirtualDisk.memory({ size: "1MiB" });
      const file = await asFile(disk, { path, tool });
      assertEquals(file.path, path);
      await using _holder = await holding(path);
      assertEquals(await file.close(), { busy: true, error: null });
      assertEquals(exists(path), false);
      // Who holds it is all that knows of it, once what was killed has ended.
      await until("the others' end", () => processesWith(path).length === 1);
      assertEquals(await file.close(), await file.closed);
    },
  });

  Deno.test({
    name: `MountedFile ends when its tool is killed, and says so, by ${tool}`,
    ...needed,
    async fn() {
      await using dir = await tempDir();
      const path = dir.join("disk");
      await using disk = VirtualDisk.memory({ size: "1MiB" });
      const errors: DiskError[] = [];
      const file = await asFile(disk, {
        path,
        tool,
        onError: (error) => void errors.push(error),
      });
      await using _holder = await holding(path);
      Deno.kill(processOfProgram(tool, path), "SIGKILL");
      const { error } = await file.closed;
      assertEquals([errors.length, errors[0]], [1, error!]);
      assertEquals([error!.kind, error!.operation], ["io", "mount"]);
      assert(error!.message.includes(`${tool} ended`), error!.message);
      assertEquals([isMounted(path), exists(path)], [false, false]);
      await file.close();
      // The disk is as well as before.
      await disk.write(0, disk.allocate(1));
    },
  });

  Deno.test({
    name: `MountedFile ends when its shell is killed, by ${tool}`,
    ...needed,
    async fn() {
      await using dir = await tempDir();
      const path = dir.join("disk");
      await using disk = VirtualDisk.memory({ size: "1MiB" });
      const file = await asFile(disk, { path, tool });
      Deno.kill(shellOf(processOfProgram(tool, path)), "SIGKILL");
      const { error } = await file.closed;
      assertEquals(error?.kind, "io");
      assertEquals([isMounted(path), exists(path)], [false, false]);
      await until("the tool's end", () => processesWith(path).length === 0);
    },
  });

  Deno.test({
    name: `asFile() leaves nothing when it is aborted, by ${tool}`,
    ...needed,
    async fn() {
      await using dir = await tempDir();
      const path = dir.join("disk");
      await using disk = VirtualDisk.memory({ size: "1MiB" });
      // From the moment on at which there is something to be undone.
      const { signal } = new AbortController();
      Object.defineProperty(signal, "aborted", { get: () => exists(path) });
      const error = await assertRejects(
        () => asFile(disk, { path, tool, signal }),
        DiskError,
      );
      assertEquals(error.kind, "aborted");
      assertEquals([isMounted(path), exists(path)], [false, false]);
      await until("its processes' end", () => processesWith(path).length === 0);
    },
  });
}

Deno.test({
  name: "asFile() does as a model does with any bytes of many at once",
  ...needsFuse("nbdfuse"),
  async fn() {
    // Writes are slow, so that there are several in flight.
    const size = MIB;
    const memory = new MemoryBackend({
      sectors: size / 512,
      blockSize: 4096,
    });
    const slow = faults(memory, [parseFaultRule("write delay=1ms")]);
    await using file = await asFile(slow, { tool: "nbdfuse" });
    const model = new Uint8Array(size);
    // Stripes that share their blocks with those of the others.
    const writers = 6;
    const stripe = 1501;
    const work = async (writer: number) => {
      const random = new Random(writer);
      using opened = await Deno.open(file.path, { read: true, write: true });
      for (let i = 0; i < (LONG ? 1000 : 40); i++) {
        const nth = random.below(Math.floor(size / stripe / writers));
        const at = random.below(stripe);
        const data = random.bytes(random.between(1, stripe - at));
        const start = (nth * writers + writer) * stripe + at;
        await opened.seek(start, Deno.SeekMode.Start);
        assertEquals(await opened.write(data), data.length);
        model.set(data, start);
      }
      await opened.sync();
    };
    await Promise.all(Array.from({ length: writers }, (_, i) => work(i)));
    const all = await contentOf(file.path);
    assertEquals(all.findIndex((byte, i) => byte !== model[i]), -1);
    await succeed(
      'printf 1234567 | dd of="$1" bs=1 seek=1001 conv=notrunc,fsync',
      file.path,
    );
    model.set(new TextEncoder().encode("1234567"), 1001);
    const first = (await contentOf(file.path)).subarray(0, 4096);
    assertEquals(first, model.subarray(0, 4096));
  },
});

Deno.test({
  name: "asFile() makes one flush of one fsync, and hides no write",
  ...needsFuse("nbdfuse"),
  async fn() {
    const memory = new MemoryBackend({ sectors: 2048 });
    const { backend, counts } = counting(memory);
    await using file = await asFile(backend, { tool: "nbdfuse" });
    using opened = await Deno.open(file.path, { read: true, write: true });
    for (let i = 1; i <= 5; i++) {
      await opened.write(new Uint8Array(4096).fill(i));
      // Not flushed, and there all the same: nothing waits in a cache.
      assertEquals(counts[RequestType.Out], i);
      assertEquals(counts[RequestType.Flush], 2 * i - 2);
      await opened.sync();
      assertEquals(counts[RequestType.Flush], 2 * i - 1);
      await opened.syncData();
      assertEquals(counts[RequestType.Flush], 2 * i);
    }
    // O_DSYNC: each write is followed by a flush.
    await succeed(
      'dd if=/dev/zero of="$1" bs=4k count=3 oflag=dsync conv=notrunc',
      file.path,
    );
    assertEquals([counts[RequestType.Out], counts[RequestType.Flush]], [8, 13]);
  },
});

Deno.test({
  name: "asFile() makes a flush of each close, by qemu-storage-daemon",
  ...needsFuse("qemu-storage-daemon"),
  async fn() {
    // Not what programs want to be tested with: docs/mount.md says so.
    const memory = new MemoryBackend({ sectors: 2048 });
    const { backend, counts } = counting(memory);
    await using file = await asFile(backend, { tool: "qemu-storage-daemon" });
    await succeed('dd if=/dev/zero of="$1" count=1 conv=notrunc', file.path);
    assert(counts[RequestType.Flush]! > 0);
  },
});

/** The parent of a process: the shell that watches over it. */
function shellOf(pid: number): number {
  const status = Deno.readTextFileSync(`/proc/${pid}/status`);
  return Number(/^PPid:\s*(\d+)/m.exec(status)![1]);
}

Deno.test({
  name: "MountedFile ends when somebody unmounts it, which is no error",
  ...needsFuse("nbdfuse"),
  async fn() {
    await using dir = await tempDir();
    const path = dir.join("disk");
    await using disk = VirtualDisk.memory({ size: "1MiB" });
    const file = await asFile(disk, { path });
    await succeed('fusermount3 -u "$1"', path);
    assertEquals(await file.closed, { busy: false, error: null });
    assertEquals(exists(path), false);
  },
});

Deno.test({
  name: "MountedFile.close() does not wait for a disk that never answers",
  ...needsFuse("nbdfuse"),
  async fn() {
    await using dir = await tempDir();
    const path = dir.join("disk");
    const memory = new MemoryBackend({ sectors: 2048 });
    const held: (() => void)[] = [];
    const backend = altered(memory, {
      submit(batch, complete) {
        const copy = [...batch];
        held.push(() => memory.submit(copy, complete));
      },
    });
    const disk = VirtualDisk.over(backend);
    const file = await asFile(disk, { path });
    const reading = shell('cat "$1"', path);
    await until("a read", () => held.length > 0);
    assertEquals(await file.close(), { busy: true, error: null });
    assert((await reading).code !== 0);
    for (const go of held) go();
    await disk.close();
  },
});

Deno.test({
  name: "asFile() overwrites nothing, and takes no folder",
  ...needsFuse("nbdfuse"),
  async fn() {
    await using dir = await tempDir();
    const taken = await dir.file("taken", new Uint8Array(3).fill(1));
    await Deno.symlink(dir.join("nowhere"), dir.join("link"));
    await using disk = VirtualDisk.memory({ size: "1MiB" });
    for (
      const [path, kind] of [
        [taken, "exists"],
        [dir.path, "exists"],
        [dir.join("link"), "exists"],
        [dir.join("none/disk"), "not-found"],
      ] as const
    ) {
      const error = await assertRejects(
        () => asFile(disk, { path }),
        DiskError,
      );
      assertEquals([error.kind, error.path?.startsWith(dir.path)], [
        kind,
        true,
      ]);
    }
    for (const path of ["", `${dir.path}/`, "..", "a\0b"]) {
      await assertRejects(() => asFile(disk, { path }), RangeError);
    }
    assertEquals(await Deno.readFile(taken), new Uint8Array(3).fill(1));
    const left = [...Deno.readDirSync(dir.path)].map(({ name }) => name);
    assertEquals(left.sort(), ["link", "taken"]);
  },
});

Deno.test({
  name: "MountedFile leaves a file that somebody puts at its name",
  ...needsFuse("nbdfuse"),
  async fn() {
    await using dir = await tempDir();
    const path = dir.join("disk");
    await using disk = VirtualDisk.memory({ size: "1MiB" });
    const file = await asFile(disk, { path });
    const tool = processOfProgram("nbdfuse", path);
    await stopProcess(tool);
    await succeed(
      'fusermount3 -u -z "$1" && rm "$1" && echo mine > "$1"',
      path,
    );
    Deno.kill(tool, "SIGCONT");
    await file.closed;
    assertEquals(await Deno.readTextFile(path), "mine\n");
  },
});

Deno.test({
  name: "asFile() closes a backend that it was given, also when it fails",
  ...needsFuse("nbdfuse"),
  async fn() {
    let closed = 0;
    const backendOf = () => {
      const memory = new MemoryBackend({ sectors: 2048 });
      return altered(memory, {
        close() {
          closed++;
          return memory.close();
        },
      });
    };
    await (await asFile(backendOf())).close();
    assertEquals(closed, 1);
    await assertRejects(() => asFile(backendOf(), { path: "/" }), RangeError);
    assertEquals(closed, 2);
  },
});

Deno.test({
  name: "asFile() refuses a disk that is closed, and a slice of it",
  ...needsFuse("nbdfuse"),
  async fn() {
    const disk = VirtualDisk.memory({ sectors: 2048 });
    const slices = [disk.slice(0, 8), disk.slice(0, 16)];
    await slices[0]!.close();
    const kindOf = async (what: VirtualDisk) =>
      (await assertRejects(() => asFile(what), DiskError)).kind;
    assertEquals(await kindOf(slices[0]!), "closed");
    await disk.close();
    assertEquals([await kindOf(disk), await kindOf(slices[1]!)], [
      "closed",
      "closed",
    ]);
  },
});
