import { mistake, must, seal, unseal } from "./mistake.ts";

export default mistake<string>(
  "The flush after the commit record is missing",
  (right) => ({
    device: { sectors: 32 },
    async workload(disk, acknowledge) {
      await disk.write(8, seal("order 17", 2));
      await disk.flush();
      await disk.write(0, seal({ committed: 8 }));
      if (right) await disk.flush();
      acknowledge("order 17");
    },
    async recover(disk, acknowledged) {
      const commit = unseal<{ committed: number }>(await disk.read(0, 1));
      const found = commit === null
        ? null
        : unseal<string>(await disk.read(commit.committed, 2));
      must(
        !acknowledged.includes("order 17") || found === "order 17",
        "Order 17 was acknowledged and is not there",
      );
    },
  }),
);
