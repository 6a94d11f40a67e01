import { assertEquals, assertRejects } from "@std/assert";
import {
  DiskError,
  findBadSectors,
  MemoryBackend,
  RequestType,
  VirtualDisk,
} from "../../mod.ts";
import { readPartitions } from "../../src/image/read_partitions.ts";
import { altered } from "../fake_backend.ts";

/** A disk in memory on which reads of some sectors fail. */
function diskWithBad(bad: number[], blockSize = 512): VirtualDisk {
  const memory = new MemoryBackend({ sectors: 8192, blockSize });
  const failing = altered(memory, {
    submit(batch, complete) {
      for (const request of batch) {
        const { type, sector, count } = request;
        const hit = type === RequestType.In &&
          bad.some((one) => one >= sector && one < sector + count);
        if (hit) {
          complete(
            request,
            new DiskError("io", "Cannot read: bad sector", { code: "EIO" }),
          );
        } else memory.submit([request], complete);
      }
    },
  });
  return VirtualDisk.over(failing);
}

Deno.test("findBadSectors() finds exactly the bad blocks, adjoining ones as one run", async () => {
  await using disk = diskWithBad([0, 1, 77, 2047, 2048, 8191]);
  assertEquals(await findBadSectors(disk), [
    { sector: 0, count: 2 },
    { sector: 77, count: 1 },
    { sector: 2047, count: 2 },
    { sector: 8191, count: 1 },
  ]);
});

Deno.test("findBadSectors() names whole blocks on a disk of 4,096-byte blocks", async () => {
  await using disk = diskWithBad([77], 4096);
  assertEquals(await findBadSectors(disk), [{ sector: 72, count: 8 }]);
});

Deno.test("findBadSectors() looks only where it is told", async () => {
  await using disk = diskWithBad([77, 200]);
  assertEquals(await findBadSectors(disk, { sector: 78, count: 100 }), []);
});

Deno.test("findBadSectors() passes on what is not the medium's fault", async () => {
  await using disk = diskWithBad([]);
  await assertRejects(
    () => findBadSectors(disk, { sector: 8000, count: 1000 }),
    DiskError,
    "8192 sectors",
  );
});

Deno.test("findBadSectors() calls nothing good that it has not read", async () => {
  await using disk = diskWithBad([...Array(8192).keys()]);
  for (const on of [disk, disk.slice(8, 64)]) {
    const cases: [sector: unknown, count: unknown, kind: string][] = [
      [on.sectors, undefined, "range"],
      [on.sectors, 1, "range"],
      [1e9, undefined, "range"],
      [0, on.sectors + 1, "range"],
      [0, 0, "argument"],
      [0, -1, "argument"],
      [-1, undefined, "argument"],
      [0.5, undefined, "argument"],
      ...[NaN, Infinity, null, true, "1", [], 1n].flatMap((
        value,
      ): [unknown, unknown, string][] => [
        [value, undefined, "argument"],
        [value, 1, "argument"],
        [0, value, "argument"],
      ]),
    ];
    for (const [sector, count, kind] of cases) {
      const range = { sector: sector as number, count: count as number };
      const error = await assertRejects(
        () => findBadSectors(on, range),
        DiskError,
      );
      assertEquals(error.kind, kind, `${sector} ${count}`);
    }
  }
});

/** A disk that cannot be reached any more. */
function lostDisk(): VirtualDisk {
  const memory = new MemoryBackend({ sectors: 8192 });
  return VirtualDisk.over(altered(memory, {
    submit(batch, complete) {
      for (const request of batch) {
        const options = { code: "ENOTCONN" };
        complete(request, new DiskError("io", "The server is gone", options));
      }
    },
  }));
}

for (
  const [name, look] of Object.entries(
    {
      findBadSectors: (disk) => findBadSectors(disk),
      readPartitions: (disk) => readPartitions(disk),
    } satisfies Record<string, (disk: VirtualDisk) => Promise<unknown>>,
  )
) {
  Deno.test(`${name}() takes a disk that is lost for no bad medium`, async () => {
    await using disk = lostDisk();
    const error = await assertRejects(() => look(disk), DiskError, "is gone");
    assertEquals(error.code, "ENOTCONN");
  });
}
