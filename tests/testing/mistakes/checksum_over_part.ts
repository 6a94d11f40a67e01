import { isWhole, mistake, must, seal, unseal } from "./mistake.ts";

const SECTORS = 3;

export default mistake<number>(
  "The checksum covers only a part of the record",
  (right) => {
    const covered = right ? SECTORS * 512 : 512;
    return {
      device: { sectors: 32 },
      async workload(disk, acknowledge) {
        for (let n = 0; n < 3; n++) {
          await disk.write(n * SECTORS, seal({ n }, SECTORS, covered));
          await disk.flush();
          acknowledge(n);
        }
      },
      async recover(disk, acknowledged) {
        let count = 0;
        for (; count < 3; count++) {
          const bytes = await disk.read(count * SECTORS, SECTORS);
          if (unseal(bytes, covered) === null) break;
          must(
            isWhole(bytes),
            `Record ${count} passes its checksum, but its end is not there`,
          );
        }
        must(count >= acknowledged.length, `Only ${count} records are there`);
      },
    };
  },
);
