import { assertEquals } from "@std/assert";
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
