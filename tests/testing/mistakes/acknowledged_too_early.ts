import { mistake, must, seal, unseal } from "./mistake.ts";

export default mistake<number>(
  "It is acknowledged before the flush has completed",
  (right) => ({
    device: { sectors: 16 },
    async workload(disk, acknowledge) {
      for (let n = 1; n <= 3; n++) {
        await disk.write(n, seal({ n }));
        const flushed = disk.flush();
        if (right) await flushed;
        acknowledge(n);
        await flushed;
      }
    },
    async recover(disk, acknowledged) {
      for (const n of acknowledged) {
        const found = unseal<{ n: number }>(await disk.read(n, 1));
        must(found?.n === n, `Record ${n} was acknowledged and is not there`);
      }
    },
  }),
);
