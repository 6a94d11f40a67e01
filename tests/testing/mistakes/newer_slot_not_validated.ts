import { isWhole, mistake, must, parse, seal, unseal } from "./mistake.ts";

interface Superblock {
  generation: number;
}

export default mistake<number>(
  "Of two superblocks the newer one is taken without validating it",
  (right) => ({
    device: { sectors: 16 },
    async workload(disk, acknowledge) {
      for (let generation = 1; generation <= 3; generation++) {
        await disk.write(4 * (generation % 2), seal({ generation }, 4));
        await disk.flush();
        acknowledge(generation);
      }
    },
    async recover(disk, acknowledged) {
      const slots = [await disk.read(0, 4), await disk.read(4, 4)]
        .map((bytes) => ({
          bytes,
          block: right ? unseal<Superblock>(bytes) : parse<Superblock>(bytes),
        }))
        .filter(({ block }) => block !== null)
        .sort((a, b) => b.block!.generation - a.block!.generation);
      const newest = slots[0];
      must(
        (newest?.block?.generation ?? 0) >= (acknowledged.at(-1) ?? 0),
        "An old superblock is back",
      );
      must(
        newest === undefined || isWhole(newest.bytes),
        `The superblock of generation ${newest?.block?.generation} is half written`,
      );
    },
  }),
);
