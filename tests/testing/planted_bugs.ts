/**
 * Small programs with one bug each, in a place that a seed decides: what the
 * order of crash states is measured by. They know no library, so that any tree's
 * can be measured with them (`bench/crash_order.ts`).
 *
 * @module
 */

const SECTOR = 512;

/** As much of a disk as the bugs need. */
export interface Disk {
  write(sector: number, data: Uint8Array): Promise<void>;
  read(sector: number, count: number): Promise<Uint8Array>;
  flush(): Promise<void>;
}

/** A program with a bug. */
export interface Planted {
  readonly sectors: number;
  workload(disk: Disk, acknowledge: (value: number) => void): Promise<void>;
  recover(disk: Disk, acknowledged: readonly number[]): Promise<void>;
}

function filled(value: number, sectors = 1): Uint8Array {
  const bytes = new Uint8Array(sectors * SECTOR);
  new DataView(bytes.buffer).setUint32(0, value);
  for (let at = 4; at < bytes.length; at++) bytes[at] = value & 0xff;
  for (let sector = 1; sector < sectors; sector++) {
    new DataView(bytes.buffer).setUint32(sector * SECTOR, value);
  }
  return bytes;
}

function valueOf(bytes: Uint8Array, sector = 0): number {
  return new DataView(bytes.buffer, bytes.byteOffset).getUint32(
    sector * SECTOR,
  );
}

function must(holds: boolean, what: string): void {
  if (!holds) throw new Error(what);
}

/** Somewhere between `first` and `last`, by a seed. */
function place(seed: number, first: number, last: number): number {
  const mixed = Math.imul(seed + 1, 0x9e3779b1) >>> 8;
  return first + mixed % (last - first + 1);
}

/** The programs by what is wrong with them; a seed says where. */
export const PLANTED: Record<string, (seed: number) => Planted> = {
  "missing flush in 1 epoch of 100": (seed) => {
    const bad = place(seed, 1, 100);
    return {
      sectors: 1024,
      async workload(disk, acknowledge) {
        for (let epoch = 1; epoch <= 100; epoch++) {
          await Promise.all(
            [0, 1, 2, 3].map((i) =>
              disk.write(8 + epoch * 8 + i * 2, filled(epoch, 2))
            ),
          );
          if (epoch !== bad) await disk.flush();
          await disk.write(0, filled(epoch));
          await disk.flush();
          acknowledge(epoch);
        }
      },
      async recover(disk, acknowledged) {
        const epoch = valueOf(await disk.read(0, 1));
        must(epoch >= (acknowledged.at(-1) ?? 0), "An epoch is gone");
        if (epoch === 0) return;
        const data = await disk.read(8 + epoch * 8, 8);
        for (let i = 0; i < 8; i++) {
          must(valueOf(data, i) === epoch, "An epoch lacks data");
        }
      },
    };
  },
  "1 early acknowledgement of 400": (seed) => {
    const bad = place(seed, 1, 400);
    return {
      sectors: 1024,
      async workload(disk, acknowledge) {
        for (let i = 1; i <= 400; i++) {
          await disk.write(i, filled(i));
          if (i === bad) acknowledge(i);
          await disk.flush();
          if (i !== bad) acknowledge(i);
        }
      },
      async recover(disk, acknowledged) {
        const last = acknowledged.at(-1) ?? 0;
        must(
          last === 0 || valueOf(await disk.read(last, 1)) === last,
          "What was acknowledged is gone",
        );
      },
    };
  },
  "middle of 5 versions": (seed) => {
    const bad = place(seed, 0, 7);
    return {
      sectors: 64,
      async workload(disk) {
        for (let version = 1; version <= 5; version++) {
          for (let i = 0; i < 8; i++) await disk.write(i, filled(version));
        }
        await disk.flush();
      },
      async recover(disk) {
        must(valueOf(await disk.read(bad, 1)) !== 3, "The middle version");
      },
    };
  },
  "2 of 200 lost, rest free": (seed) => {
    const one = place(seed, 1, 200);
    const other = 1 + (one + place(seed + 77, 1, 199) - 1) % 200;
    return {
      sectors: 1024,
      async workload(disk) {
        for (let i = 1; i <= 200; i++) await disk.write(i, filled(i));
        await disk.write(0, filled(1));
        await disk.flush();
      },
      async recover(disk) {
        if (valueOf(await disk.read(0, 1)) === 0) return;
        const lost = async (i: number) => valueOf(await disk.read(i, 1)) === 0;
        must(!(await lost(one) && await lost(other)), "Both are gone");
      },
    };
  },
  "torn page 4+4 of 50": (seed) => {
    const bad = place(seed, 0, 49);
    return {
      sectors: 1024,
      async workload(disk) {
        for (let i = 0; i < 50; i++) {
          await disk.write(i * 8, filled(i + 1, 8));
        }
        await disk.flush();
      },
      async recover(disk) {
        const page = await disk.read(bad * 8, 8);
        const torn = [0, 1, 2, 3, 4, 5, 6, 7].every((i) =>
          (valueOf(page, i) !== 0) === (i < 4)
        );
        must(!torn, "The page is torn in the middle");
      },
    };
  },
  "torn page of 8 in 1 epoch of 60": (seed) => {
    const bad = place(seed, 1, 60);
    return {
      sectors: 2048,
      async workload(disk, acknowledge) {
        for (let epoch = 1; epoch <= 60; epoch++) {
          await disk.write(1024 + epoch * 2, filled(epoch, 2));
          await disk.flush();
          acknowledge(epoch);
          // A checkpoint, of pages that the log has whole: but for one.
          if (epoch % 4 > 0 && epoch !== bad) continue;
          await Promise.all(
            [1, 2, 3].map((i) => disk.write(i * 8, filled(epoch, 8))),
          );
          await disk.flush();
        }
      },
      async recover(disk) {
        const page = await disk.read(16, 8);
        const values = [0, 1, 2, 3, 4, 5, 6, 7].map((i) => valueOf(page, i));
        const torn = new Set(values).size > 1;
        must(!torn || !values.includes(bad), "The page is torn");
      },
    };
  },
  "1 block of 1 write in 200 epochs": (seed) => {
    const bad = place(seed, 1, 200);
    return {
      sectors: 4096,
      async workload(disk) {
        for (let epoch = 1; epoch <= 200; epoch++) {
          await Promise.all([
            disk.write(epoch * 8, filled(epoch, 2)),
            disk.write(epoch * 8 + 4, filled(epoch, 2)),
          ]);
          await disk.flush();
        }
      },
      async recover(disk) {
        const [a, b] = [
          await disk.read(bad * 8, 2),
          await disk.read(bad * 8 + 4, 2),
        ];
        must(
          !(valueOf(a, 0) === 0 && valueOf(a, 1) > 0 && valueOf(b) > 0),
          "Only its second block is there",
        );
      },
    };
  },
};
