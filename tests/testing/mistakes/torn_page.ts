import type { VirtualDisk } from "@platter/disk";
import { mistake, must, seal, unseal } from "./mistake.ts";

const LOG = 0;
const JOURNAL = 8;
const PAGE = 16;
const PAGE_SECTORS = 8;

interface Page {
  version: number;
  counter: number;
}

/** Reads the page; one that is torn is taken from the journal, if it is there. */
async function readPage(disk: VirtualDisk): Promise<Page | null> {
  const page = unseal<Page>(await disk.read(PAGE, PAGE_SECTORS));
  return page ?? unseal<Page>(await disk.read(JOURNAL, PAGE_SECTORS));
}

export default mistake<number>(
  "A page of 4 KiB is written over sectors of 512 bytes without its full image",
  (right) => ({
    device: { sectors: 32 },
    maxStates: 4000,
    async prepare(disk) {
      await disk.write(PAGE, seal({ version: 0, counter: 0 }, PAGE_SECTORS));
    },
    async workload(disk, acknowledge) {
      for (let version = 1; version <= 2; version++) {
        // The log says what changes: it can be done again on a whole page.
        await disk.write(LOG, seal({ version, add: 1 }));
        await disk.flush();
        acknowledge(version);
        const page = seal({ version, counter: version }, PAGE_SECTORS);
        if (right) {
          await disk.write(JOURNAL, page);
          await disk.flush();
        }
        await disk.write(PAGE, page);
        await disk.flush();
      }
    },
    async recover(disk, acknowledged) {
      const page = await readPage(disk);
      must(page !== null, "The page is torn, and the log cannot mend it");
      const log = unseal<{ version: number; add: number }>(
        await disk.read(LOG, 1),
      );
      const counter = log !== null && log.version > page.version
        ? page.counter + log.add
        : page.counter;
      must(counter >= acknowledged.length, `The counter is only ${counter}`);
    },
  }),
);
