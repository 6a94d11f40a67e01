import type { DiskInfo } from "@platter/disk";
import { assertEquals } from "@std/assert";
import { VirtualDisk } from "../../src/disk/disk.ts";
import { finding, judge, type Seen } from "../../src/doctor/findings.ts";
import { REMEDIES, remedyOf } from "../../src/doctor/remedies.ts";

/** A disk of a fast medium with everything, on which every trial went well. */
async function perfect(): Promise<Seen & { info: DiskInfo }> {
  await using disk = VirtualDisk.memory({ sectors: 8 });
  return {
    info: {
      ...disk.info,
      backend: "direct",
      medium: "file",
      engine: { name: "io_uring", reason: null },
      direct: {
        active: true,
        method: "O_DIRECT",
        reason: null,
        memoryAlignment: 512,
        offsetAlignment: 512,
        readOffsetAlignment: 512,
        alignmentSource: "statx",
      },
      durability: {
        flush: "media",
        method: "fdatasync",
        deviceCache: "write back",
        fua: "RWF_DSYNC",
        reason: null,
      },
      lock: { method: "OFD", reason: null },
    },
    whyPortable: null,
    lacks: [],
    tried: {
      locksOut: true,
      zeroesRead: true,
      discardReads: "zeroes",
      flushes: { made: 4, counted: 5 },
      durableWrites: { made: 4, counted: 0 },
    },
  };
}

/** The verdicts that are not good, of a disk that differs from a perfect one. */
async function lacksOf(change: (seen: Seen) => Partial<Seen>) {
  const seen = await perfect();
  const found = judge({ ...seen, ...change(seen) });
  return Object.fromEntries(
    Object.entries(found).filter(([, { verdict }]) => verdict !== "good")
      .map(([name, { verdict, remedy }]) => [name, [verdict, remedy]]),
  );
}

/** A change of what was tried. */
const tried =
  (change: Partial<NonNullable<Seen["tried"]>>) => (seen: Seen) => ({
    tried: { ...seen.tried!, ...change },
  });

/** A change of what the disk says. */
const said = (change: Partial<DiskInfo>) => (seen: Seen) => ({
  info: { ...seen.info, ...change },
});

Deno.test("judge() finds nothing wanting on a perfect disk, and counts flushes", async () => {
  assertEquals(await lacksOf(() => ({})), {});
  const { flush, fua } = judge(await perfect());
  assertEquals(flush!.basis, "trial: the device counted at least 4 of 4");
  assertEquals(fua!.basis, "known of the file system");
});

Deno.test("judge() believes a trial before disk.info", async () => {
  const wrong = ["wrong", null];
  const fault = { fault: "Cannot write" };
  const cases: [Parameters<typeof tried>[0], string][] = [
    [{ locksOut: false }, "lock"],
    [{ locksOut: fault }, "lock"],
    [{ zeroesRead: false }, "zero"],
    [{ zeroesRead: fault }, "zero"],
    [{ discardReads: null }, "discard"],
    [{ discardReads: fault }, "discard"],
    [{ flushes: fault }, "flush"],
    [{ durableWrites: fault }, "fua"],
  ];
  for (const [change, name] of cases) {
    assertEquals(await lacksOf(tried(change)), { [name]: wrong });
  }
  assertEquals(
    await lacksOf(tried({ flushes: { made: 4, counted: 0 } })),
    { flush: ["unknown", "mount without nobarrier or barrier=0"] },
  );
  // What cannot be counted is not held against it.
  assertEquals(
    await lacksOf(tried({ flushes: { made: 4, counted: null } })),
    {},
  );
});

Deno.test("judge() names what would mend a lack", async () => {
  const { info } = await perfect();
  assertEquals(
    await lacksOf(() => ({
      lacks: [{ engine: "io_uring", why: "io_uring_setup hit RLIMIT_MEMLOCK" }],
    })),
    { engine: ["limited", "ulimit -l unlimited"] },
  );
  assertEquals(
    await lacksOf(said({
      direct: {
        ...info.direct,
        active: false,
        reason: "tmpfs keeps its data in memory",
      },
      durability: {
        ...info.durability,
        flush: "page cache",
        reason: "tmpfs keeps its data in memory",
      },
    })),
    {
      direct: ["missing", "a folder on a disk, such as /var/tmp"],
      flush: ["limited", "a folder on a disk, such as /var/tmp"],
    },
  );
  const coarse = { ...info.direct, offsetAlignment: 4096 };
  assertEquals(Object.keys(await lacksOf(said({ direct: coarse }))), [
    "alignment",
  ]);
  // A disk of such blocks has no smaller writes.
  assertEquals(
    await lacksOf(said({ direct: coarse, blockSize: 4096 })),
    {},
  );
  const whyPortable = "there is no FFI: install the package koffi";
  const { backend, engine } = await lacksOf(() => ({ whyPortable }));
  assertEquals([backend, engine], [
    ["limited", "npm install koffi"],
    ["limited", "npm install koffi"],
  ]);
  assertEquals(
    finding("good", "yes", null, "it needs --allow-sys=statfs").remedy,
    null,
  );
});

Deno.test("remedyOf() knows reasons that there are", async () => {
  const sources: string[] = [];
  const visit = async (folder: URL): Promise<void> => {
    for await (const entry of Deno.readDir(folder)) {
      const url = new URL(entry.name, folder);
      if (entry.isDirectory) await visit(new URL(`${url}/`));
      else sources.push(await Deno.readTextFile(url));
    }
  };
  await visit(new URL("../../src/backends/", import.meta.url));
  await visit(new URL("../../src/engines/", import.meta.url));
  await visit(new URL("../../ffi/", import.meta.url));
  const diagnose = new URL("../../src/doctor/diagnose.ts", import.meta.url);
  sources.push(await Deno.readTextFile(diagnose));
  const text = sources.join("\n");
  for (const [names] of REMEDIES) {
    // Each alternative by itself.
    const source = names.source.replace(".*", '[^"`]*');
    for (const part of source.split("|")) {
      assertEquals(new RegExp(part).test(text), true, part);
    }
  }
  assertEquals(remedyOf("nothing that is known"), null);
  assertEquals(remedyOf(null), null);
});
