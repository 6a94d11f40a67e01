import { mistake, must, seal, unseal } from "./mistake.ts";

const LENGTH = 0;
const DATA = 8;

export default mistake<number>(
  "The length grows before there is data behind it",
  (right) => ({
    device: { sectors: 16 },
    async workload(disk, acknowledge) {
      for (let length = 1; length <= 3; length++) {
        const steps = [
          () => disk.write(DATA + length - 1, seal({ line: length })),
          () => disk.write(LENGTH, seal({ length })),
        ];
        for (const step of right ? steps : steps.reverse()) {
          await step();
          await disk.flush();
        }
        acknowledge(length);
      }
    },
    async recover(disk, acknowledged) {
      const { length } = unseal<{ length: number }>(
        await disk.read(LENGTH, 1),
      ) ?? { length: 0 };
      must(length >= acknowledged.length, "Lines are gone");
      for (let line = 1; line <= length; line++) {
        const found = unseal<{ line: number }>(
          await disk.read(DATA + line - 1, 1),
        );
        must(found?.line === line, `Line ${line} of ${length} is garbage`);
      }
    },
  }),
);
