import { assertEquals, assertGreater, assertLess } from "@std/assert";
import { listenAt } from "../../src/platform/sockets.ts";
import { tempDir } from "../helpers.ts";

Deno.test({
  name: "Listener.close() removes its own path, and no other's",
  ignore: Deno.build.os === "windows",
  async fn() {
    await using dir = await tempDir();
    const path = dir.join("socket");
    const first = listenAt({ transport: "unix", path });
    first.close();
    const names = () => [...Deno.readDirSync(dir.path)].map(({ name }) => name);
    assertEquals(names(), []);
    // Somebody removes it meanwhile, and puts something else there.
    const second = listenAt({ transport: "unix", path });
    await Deno.remove(path);
    await Deno.writeTextFile(path, "mine");
    second.close();
    assertEquals(names(), ["socket"]);
    assertEquals(await Deno.readTextFile(path), "mine");
    await Deno.remove(path);
    // Or listens there.
    const third = listenAt({ transport: "unix", path });
    await Deno.remove(path);
    const fourth = listenAt({ transport: "unix", path });
    third.close();
    const conn = await Deno.connect({ transport: "unix", path });
    conn.close();
    fourth.close();
    assertEquals(names(), []);
  },
});

/** Room of a socket that nobody has given more. */
function usualRoom(): number {
  try {
    return Number(Deno.readTextFileSync("/proc/sys/net/core/wmem_default"));
  } catch {
    // Not to be seen in a network namespace of one's own: the kernel's default.
    return 212_992;
  }
}

Deno.test({
  name: "Listener.accept() gives so many Unix sockets room for a large reply",
  ignore: Deno.build.os !== "linux" || usualRoom() > 256 * 1024,
  async fn() {
    await using dir = await tempDir();
    const path = dir.join("socket");
    const listener = listenAt({ transport: "unix", path });
    const ends: { close(): void }[] = [listener];
    try {
      const large = new Uint8Array(256 * 1024 + 32);
      const took: number[] = [];
      for (let i = 0; i < 18; i++) {
        const near = await Deno.connect({ transport: "unix", path });
        ends.push(near);
        const far = await listener.accept();
        ends.push(far);
        // Nobody takes any of it.
        took.push(await far.write(large));
      }
      // 416 KiB at the least, where nobody has lowered net.core.wmem_max.
      assertEquals(took.slice(0, 16), Array(16).fill(large.length));
      assertGreater(large.length, took[16]!);
      assertEquals(took[17], took[16]);
      // Whoever leaves makes room for another one, as soon as it is gone.
      ends.splice(1).forEach((one) => one.close());
      let whole = false;
      for (let tries = 0; !whole; tries++) {
        assertLess(tries, 1000);
        await new Promise((resolve) => setTimeout(resolve, 1));
        const near = await Deno.connect({ transport: "unix", path });
        const far = await listener.accept();
        whole = await far.write(large) === large.length;
        near.close();
        far.close();
      }
    } finally {
      for (const one of ends) one.close();
    }
  },
});
