import { mistake, must, seal, unseal } from "./mistake.ts";

const TABLE = 0;
const LOG = 8;

interface Table {
  x: number;
  epoch: number;
}

interface LogRecord {
  x: number;
  epoch: number;
}

export default mistake<number>(
  "The log starts anew, and its old tail is neither zeroed nor stamped",
  (right) => ({
    device: { sectors: 32 },
    async workload(disk, acknowledge) {
      let x = 0;
      const append = async (slot: number, epoch: number) => {
        x++;
        await disk.write(LOG + slot, seal({ x, epoch }));
        await disk.flush();
        acknowledge(x);
      };
      await append(0, 1);
      await append(1, 1);
      // A checkpoint: the table has it all, and the log may start anew.
      await disk.write(TABLE, seal({ x, epoch: 2 }));
      await disk.flush();
      await append(0, 2);
    },
    async recover(disk, acknowledged) {
      const table = unseal<Table>(await disk.read(TABLE, 1)) ??
        { x: 0, epoch: 1 };
      let x = table.x;
      for (let slot = 0; slot < 8; slot++) {
        const record = unseal<LogRecord>(await disk.read(LOG + slot, 1));
        if (record === null) break;
        if (right && record.epoch !== table.epoch) break;
        x = record.x;
      }
      const last = acknowledged.at(-1) ?? 0;
      must(x >= last, `x is ${x} again, after it was set to ${last}`);
    },
  }),
);
