import { isWhole, mistake, must, parse, seal, unseal } from "./mistake.ts";

interface Pointer {
  at: number;
}

export default mistake<number>(
  "A sector is believed to be atomic on a device that tears it",
  (right) => ({
    device: { sectors: 16, tornBlocks: true },
    async workload(disk, acknowledge) {
      for (let at = 1; at <= 2; at++) {
        await disk.write(right ? at % 2 : 0, seal({ at }));
        await disk.flush();
        acknowledge(at);
      }
    },
    async recover(disk, acknowledged) {
      const read = right ? unseal<Pointer> : parse<Pointer>;
      let at = 0;
      for (const sector of right ? [0, 1] : [0]) {
        const bytes = await disk.read(sector, 1);
        const pointer = read(bytes);
        if (pointer === null) continue;
        must(isWhole(bytes), "The pointer is a mixture of two");
        at = Math.max(at, pointer.at);
      }
      must(at >= acknowledged.length, `The pointer is at ${at} again`);
    },
  }),
);
