import { mistake, must, parse, seal, unseal } from "./mistake.ts";

const COMMIT = 0;
const DATA = 8;

export default mistake<number>(
  "A commit record is written without a flush before it",
  (right) => ({
    device: { sectors: 32 },
    async workload(disk, acknowledge) {
      for (let version = 1; version <= 2; version++) {
        const place = DATA + 4 * (version % 2);
        await disk.write(place, seal({ version }, 2));
        if (right) await disk.flush();
        await disk.write(COMMIT, seal({ place, version }));
        await disk.flush();
        acknowledge(version);
      }
    },
    async recover(disk, acknowledged) {
      const commit = unseal<{ place: number; version: number }>(
        await disk.read(COMMIT, 1),
      );
      const version = commit?.version ?? 0;
      must(version >= (acknowledged.at(-1) ?? 0), "An old commit is back");
      if (commit === null) return;
      const bytes = await disk.read(commit.place, 2);
      must(
        unseal<{ version: number }>(bytes)?.version === version,
        `Version ${version} is committed, but its data says ${
          JSON.stringify(parse(bytes))
        }`,
      );
    },
  }),
);
