import type { VirtualDisk } from "@platter/disk";
import { isWhole, mistake, must, parse, seal, unseal } from "./mistake.ts";

interface Header {
  root: number;
}

/** Where the header is: in one place, or in two that take turns. */
function place(root: number, right: boolean): number {
  return right ? 2 * (root % 2) : 0;
}

async function readHeader(
  disk: VirtualDisk,
  right: boolean,
): Promise<Header | null> {
  if (!right) {
    const bytes = await disk.read(0, 2);
    must(
      parse(bytes) === null || isWhole(bytes),
      "The header is half old and half new",
    );
    return parse<Header>(bytes);
  }
  const headers = [
    unseal<Header>(await disk.read(0, 2)),
    unseal<Header>(await disk.read(2, 2)),
  ];
  return headers.reduce((a, b) => ((b?.root ?? 0) > (a?.root ?? 0) ? b : a));
}

export default mistake<number>(
  "A header over two sectors is updated in place, without a checksum",
  (right) => ({
    device: { sectors: 16 },
    async workload(disk, acknowledge) {
      for (let root = 1; root <= 3; root++) {
        await disk.write(place(root, right), seal({ root }, 2));
        await disk.flush();
        acknowledge(root);
      }
    },
    async recover(disk, acknowledged) {
      const header = await readHeader(disk, right);
      must(
        (header?.root ?? 0) >= (acknowledged.at(-1) ?? 0),
        `The header has root ${header?.root}, older than the last one`,
      );
    },
  }),
);
