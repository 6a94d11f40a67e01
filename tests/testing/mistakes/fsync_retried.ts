import { mistake, must, seal, unseal } from "./mistake.ts";

export default mistake<string>(
  "A flush that failed is tried again, and its success is believed",
  (right) => ({
    device: { sectors: 16, failFlushes: [1] },
    async workload(disk, acknowledge, session) {
      await disk.write(3, seal("paid"));
      try {
        await disk.flush();
      } catch {
        // The disk refuses a second flush, so the program opens another one.
        const again = await session.reopen();
        if (right) await again.write(3, seal("paid"));
        await again.flush();
      }
      acknowledge("paid");
    },
    async recover(disk, acknowledged) {
      const found = unseal<string>(await disk.read(3, 1));
      must(
        !acknowledged.includes("paid") || found === "paid",
        "It was paid, and nothing knows of it",
      );
    },
  }),
);
