import { isWhole, mistake, must, seal, unseal } from "./mistake.ts";

export default mistake<string>(
  "FUA is taken for a flush of what was written before",
  (right) => ({
    device: { sectors: 16 },
    async workload(disk, acknowledge) {
      await disk.write(8, seal("a letter", 4));
      if (right) await disk.flush();
      await disk.write(0, seal({ letter: 8 }), { fua: true });
      acknowledge("a letter");
    },
    async recover(disk, acknowledged) {
      const index = unseal<{ letter: number }>(await disk.read(0, 1));
      must(index !== null || acknowledged.length === 0, "The index is gone");
      if (index === null) return;
      must(
        isWhole(await disk.read(index.letter, 4)),
        "The index knows a letter that is not there",
      );
    },
  }),
);
