import { mistake, must, seal, unseal } from "./mistake.ts";

const LOG = 0;
const TABLE = 8;

export default mistake<string>(
  "The log is cleared before what it says is durable elsewhere",
  (right) => ({
    device: { sectors: 16 },
    async workload(disk, acknowledge) {
      await disk.write(LOG, seal("blue"));
      await disk.flush();
      acknowledge("blue");
      await disk.write(TABLE, seal("blue"));
      if (right) await disk.flush();
      await disk.writeZeroes(LOG, 1);
      await disk.flush();
    },
    async recover(disk, acknowledged) {
      const color = unseal<string>(await disk.read(LOG, 1)) ??
        unseal<string>(await disk.read(TABLE, 1));
      must(
        acknowledged.length === 0 || color === "blue",
        "Neither the log nor the table knows the color",
      );
    },
  }),
);
