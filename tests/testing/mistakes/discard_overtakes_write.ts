import { mistake, must, seal, unseal } from "./mistake.ts";

const POINTER = 0;

export default mistake<string>(
  "Sectors are discarded before the write that replaces them is durable",
  (right) => ({
    device: { sectors: 32 },
    async prepare(disk) {
      await disk.write(8, seal("the only copy", 2));
      await disk.write(POINTER, seal({ at: 8 }));
    },
    async workload(disk, acknowledge) {
      await disk.write(16, await disk.read(8, 2));
      await disk.flush();
      await disk.write(POINTER, seal({ at: 16 }));
      if (right) await disk.flush();
      await disk.discard(8, 2);
      await disk.flush();
      acknowledge("moved");
    },
    async recover(disk) {
      const pointer = unseal<{ at: number }>(await disk.read(POINTER, 1));
      must(pointer !== null, "The pointer is gone");
      const found = unseal<string>(await disk.read(pointer.at, 2));
      must(
        found === "the only copy",
        `The pointer leads to sector ${pointer.at}, where there is nothing`,
      );
    },
  }),
);
