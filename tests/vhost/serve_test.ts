import { assert, assertEquals, assertMatch } from "@std/assert";
import { platter } from "../cli/harness.ts";
import { tempDir } from "../helpers.ts";

const ignore = Deno.build.os !== "linux";

Deno.test(
  "serve --vhost prints where it is and how to attach, and leaves nothing",
  {
    ignore,
  },
  async () => {
    await using dir = await tempDir();
    const image = await dir.file("disk.img", 1 << 20);
    const socket = dir.join("disk.sock");
    let used: Promise<void> | undefined;
    const outcome = await platter(
      ["serve", image, "--vhost", socket, "--read-only"],
      {
        onOutput(text, interrupt) {
          if (text !== `${socket}\n`) return;
          used = (async () => {
            using conn = await Deno.connect({
              transport: "unix",
              path: socket,
            });
            // GET_FEATURES, of which VIRTIO_BLK_F_RO is the sixth bit.
            await conn.write(
              new Uint8Array(new Uint32Array([1, 1, 0]).buffer),
            );
            const reply = new Uint8Array(20);
            assertEquals(await conn.read(reply), 20);
            assertEquals(reply[12]! >> 5 & 1, 1);
          })().finally(interrupt);
          used.catch(() => {});
        },
      },
    );
    await used;
    assertEquals([outcome.code, outcome.out], [0, `${socket}\n`], outcome.err);
    for (
      const part of [
        `socket,id=disk,path=${socket}`,
        "memory-backend-memfd,id=mem,size=1G,share=on",
        "vhost-user-blk-pci,chardev=disk",
        `vhost_user=on,socket=${socket}`,
        `virtio_uml.device=${socket}:2`,
        "1 MiB, read-only",
      ]
    ) assert(outcome.err.includes(part), `${part}: ${outcome.err}`);
    assertEquals(outcome.listening, false);
    const left = await Array.fromAsync(Deno.readDir(dir.path));
    assertEquals(left.map(({ name }) => name), ["disk.img"]);
  },
);

Deno.test(
  "serve --vhost --once leaves with its front end",
  { ignore },
  async () => {
    await using dir = await tempDir();
    const image = await dir.file("disk.img", 1 << 20);
    const path = dir.join("disk.sock");
    let used: Promise<void> | undefined;
    const outcome = await platter(
      ["serve", image, "--overlay", "--vhost", path, "--once"],
      {
        onOutput(text) {
          if (text !== `${path}\n`) return;
          used = (async () => {
            using conn = await Deno.connect({ transport: "unix", path });
            // SET_OWNER.
            await conn.write(new Uint8Array(new Uint32Array([3, 1, 0]).buffer));
          })();
        },
      },
    );
    await used;
    assertEquals(outcome.code, 0, outcome.err);
  },
);

Deno.test("serve --vhost tells what is wrong with the guest, and goes on", {
  ignore,
}, async () => {
  await using dir = await tempDir();
  const image = await dir.file("disk.img", 1 << 20);
  const path = dir.join("disk.sock");
  let used: Promise<void> | undefined;
  const outcome = await platter(["serve", image, "--vhost", path, "--once"], {
    onOutput(text) {
      if (text !== `${path}\n`) return;
      used = (async () => {
        using conn = await Deno.connect({ transport: "unix", path });
        await conn.write(
          new Uint8Array(new Uint32Array([3, 1, 0, 1, 5, 0]).buffer),
        );
        await conn.read(new Uint8Array(1)).catch(() => {});
      })();
    },
  });
  await used;
  assertEquals(outcome.code, 0, outcome.err);
  assertMatch(outcome.err, /the guest is wrong: Cannot take a message/);
});

Deno.test("serve --vhost refuses options that are for NBD", async () => {
  await using dir = await tempDir();
  const image = await dir.file("disk.img", 1 << 20);
  for (
    const more of [
      ["--port", "0"],
      ["--socket", "other.sock"],
      ["--host", "::1"],
      ["--export", "disk"],
      ["--tls-cert", "cert.pem"],
    ]
  ) {
    const { code, err } = await platter([
      "serve",
      image,
      "--vhost",
      dir.join("disk.sock"),
      ...more,
    ]);
    assertEquals(code, 2);
    assertMatch(err, new RegExp(`Cannot use --vhost with ${more[0]}`));
  }
});

Deno.test(
  "serve --vhost refuses a name that is in use and a path that is too long",
  { ignore },
  async () => {
    await using dir = await tempDir();
    const image = await dir.file("disk.img", 1 << 20);
    const taken = await platter(["serve", image, "--vhost", image]);
    assertEquals(taken.code, 2);
    assertMatch(taken.err, /there is something of that name: remove it if/);
    assertEquals((await Deno.stat(image)).size, 1 << 20);
    const long = await platter(["serve", image, "--vhost", "x".repeat(200)]);
    assertEquals(long.code, 2);
    assertMatch(long.err, /must have from 1 to 107 bytes/);
  },
);
