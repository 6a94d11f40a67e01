import { faults } from "@platter/disk/testing";
import { mistake, must, seal, unseal } from "./mistake.ts";

const BLOCKS = 8;
const MIRROR = 16;
const COUNT = 4;

interface Block {
  key: number;
  at?: number;
}

export default mistake<number>(
  "A misdirected write is not noticed, as blocks do not carry their address",
  (right) => ({
    device: { sectors: 32 },
    // The third write to the blocks lands one sector too far.
    layers: (device) =>
      faults(device, [{
        operation: "write",
        sector: BLOCKS,
        count: MIRROR - BLOCKS,
        nth: 3,
        effect: { kind: "misdirected", offset: 1 },
      }]),
    async workload(disk, acknowledge) {
      // From the last block to the first: what goes astray hits a good one.
      for (let key = COUNT - 1; key >= 0; key--) {
        for (const start of [BLOCKS, MIRROR]) {
          const at = start + key;
          await disk.write(at, seal(right ? { key, at } : { key }));
        }
        await disk.flush();
        acknowledge(key);
      }
    },
    async recover(disk, acknowledged) {
      for (const key of acknowledged) {
        let found: Block | null = null;
        for (const start of [MIRROR, BLOCKS]) {
          const block = unseal<Block>(await disk.read(start + key, 1));
          if (block === null) continue;
          if (right && block.at !== start + key) continue;
          found = block;
        }
        must(found !== null, `Block ${key} is not there`);
        must(found.key === key, `Block ${key} has what block ${found.key} had`);
      }
    },
  }),
);
