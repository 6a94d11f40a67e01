import { assertEquals, assertMatch } from "@std/assert";
import { MemoryBackend } from "../../src/backends/memory.ts";
import { VirtualDisk } from "../../src/disk/disk.ts";
import { isSame } from "../../src/bytes.ts";
import { RescueMap } from "../../src/image/mod.ts";
import { faults } from "../../src/layers/mod.ts";
import { NbdServer } from "../../src/nbd/mod.ts";
import { Random } from "../../src/random.ts";
import { loopDevice, needs } from "../helpers.ts";
import { exists, platter, Scratch } from "./harness.ts";

const SECTORS = 4096;

/** Serves a disk with noise, of which some sectors cannot be read. */
async function serveBad(scratch: Scratch, rules: string[]) {
  const content = new Random(5).bytes(SECTORS * 512);
  const faulty = faults(new MemoryBackend({ sectors: SECTORS }), rules);
  const disk = VirtualDisk.over(faulty);
  await disk.write(0, content);
  const path = scratch.of(`${crypto.randomUUID().slice(0, 8)}.socket`);
  const server = NbdServer.listen({ path, exports: [{ disk }] });
  return {
    uri: `nbd+unix:///?socket=${path}`,
    content,
    async [Symbol.asyncDispose]() {
      await server.close();
      await disk.close();
    },
  };
}

Deno.test("platter copy --rescue lists what is bad, keeps a map, and goes on", async () => {
  await using scratch = await Scratch.make();
  const [target, mapFile] = [scratch.of("t.img"), scratch.of("t.map")];
  await using bad = await serveBad(scratch, [
    "read sector=100+2 EIO",
    "read sector=3000 EIO",
  ]);
  const args = ["copy", bad.uri, target, "--rescue", mapFile];
  const first = await platter(args);
  assertEquals([first.code, first.err], [1, ""]);
  assertMatch(
    first.out,
    new RegExp(
      "^Rescued all but 1.5 KiB of 2 MiB in .*: 3 sectors cannot be read\n" +
        "  sector 100, 2 sectors\n  sector 3000, 1 sector\n$",
    ),
  );
  const map = RescueMap.parse(await Deno.readTextFile(mapFile));
  assertEquals(map.blocks("-").map(({ size }) => size), [1024, 512]);

  // The disk has a good day: only what is bad is read again.
  await using good = await serveBad(scratch, []);
  const args2 = ["copy", good.uri, target, "--rescue", mapFile];
  const again = await platter([...args2, "--retries", "1", "--json"]);
  assertEquals([again.code, again.err], [0, ""]);
  assertEquals(JSON.parse(again.out).bad, []);
  assertEquals(JSON.parse(again.out).rescuedBefore, SECTORS * 512 - 1536);
  const read = await Deno.readFile(target);
  assertEquals(read.findIndex((byte, i) => byte !== bad.content[i]), -1);
  const files = await Array.fromAsync(Deno.readDir(scratch.path));
  assertEquals(files.filter(({ name }) => name.endsWith(".new")), []);
});

Deno.test("platter copy --rescue keeps the target and the map if it is stopped or fails", async () => {
  await using scratch = await Scratch.make();
  const [target, mapFile] = [scratch.of("t.img"), scratch.of("t.map")];
  await using gone = await serveBad(scratch, ["read sector=2048.. ENOSPC"]);
  const failed = await platter(["copy", gone.uri, target, "--rescue", mapFile]);
  assertEquals([failed.code, failed.out], [2, ""]);
  assertMatch(
    failed.err,
    /: ".*t.img" has what was read, and ".*t.map" says what that is: the same command goes on\n$/,
  );
  const map = RescueMap.parse(await Deno.readTextFile(mapFile));
  assertEquals(map.bytes("-") + map.bytes("*"), 0);

  await using good = await serveBad(scratch, []);
  const { code } = await platter([
    "copy",
    good.uri,
    target,
    "--rescue",
    mapFile,
  ]);
  assertEquals(code, 0);
  const read = await Deno.readFile(target);
  assertEquals(read.findIndex((byte, i) => byte !== good.content[i]), -1);
});

Deno.test("platter copy --rescue overwrites nothing that its map does not speak of", async () => {
  await using scratch = await Scratch.make();
  const size = SECTORS * 512;
  const source = await scratch.image("s.img", size, { 0: "source" });
  const target = await scratch.image("t.img", size, { 0: "precious" });
  const mapFile = scratch.of("t.map");
  const args = ["copy", source, target, "--rescue"];
  async function refused(file: string, words: RegExp, to = target) {
    const { code, out, err } = await platter([
      "copy",
      source,
      to,
      "--rescue",
      file,
    ]);
    assertEquals([code, out], [2, ""]);
    assertMatch(err, words);
    const { out: dump } = await platter(["read", target, "--count", "1"]);
    assertMatch(dump, /precious/);
  }
  await refused(mapFile, /it exists: overwrite its content with --force/);
  assertEquals(await exists(mapFile), false);
  await Deno.writeTextFile(mapFile, "my diary");
  await refused(
    mapFile,
    /Cannot read a rescue map as line 1 .* was left as it is/,
  );
  assertEquals(await Deno.readTextFile(mapFile), "my diary");
  const other = new RescueMap(512);
  await Deno.writeTextFile(mapFile, other.format());
  await refused(
    mapFile,
    /must be about the 2,097,152 bytes of the source: current value is 512/,
  );
  const whole = new RescueMap(size);
  whole.set(0, size, "+");
  await Deno.writeTextFile(mapFile, whole.format());
  await refused(
    mapFile,
    /Cannot go on with ".*n.img" as there is no such file/,
    scratch.of("n.img"),
  );
  await refused(
    scratch.of("no/such/map"),
    /there is no such file or directory: ".*n.img" was removed again/,
    scratch.of("n.img"),
  );
  await refused(source, /Cannot read a rescue map/);
  assertEquals(
    (await platter([...args, scratch.of("new.map"), "--force"])).code,
    0,
  );
  assertMatch((await platter(["read", target, "--count", "1"])).out, /source/);
});

Deno.test("platter copy --rescue goes on with no map of another disk", async () => {
  await using scratch = await Scratch.make();
  const size = SECTORS * 512;
  const mapFile = scratch.of("t.map");
  const map = new RescueMap(size);
  map.set(0, size / 2, "+");
  await Deno.writeTextFile(mapFile, map.format());
  const path = (name: string) => scratch.of(`${name}.img`);
  const content = (seed: number) => new Random(seed).bytes(size);
  const source = content(1);
  await Deno.writeFile(path("source"), source);
  // Half of it was rescued; the source was written to in one place since.
  const begun = source.slice();
  begun.fill(0, size / 2);
  begun.fill(7, 0, 4096);
  await Deno.writeFile(path("begun"), begun);
  await Deno.writeFile(path("precious"), content(2));
  await Deno.writeFile(path("another"), content(3));
  const rescue = (from: string, to: string, ...more: string[]) =>
    platter(["copy", path(from), path(to), "--rescue", mapFile, ...more]);

  for (
    const [from, to, ...more] of [
      ["source", "precious"],
      ["source", "precious", "--force"],
      ["another", "begun"],
    ] as const
  ) {
    const { code, err } = await rescue(from, to, ...more);
    assertEquals(code, 2);
    assertMatch(
      err,
      /Cannot go on with ".*" as it has other content than ".*" where ".*t.map" says that it was read: .*: ".*" is as it was\n$/,
    );
    assertEquals(await Deno.readTextFile(mapFile), map.format());
  }
  assertEquals(await Deno.readFile(path("precious")), content(2));
  assertEquals(await Deno.readFile(path("begun")), begun);

  assertEquals((await rescue("source", "begun")).code, 0);
  assertEquals(await Deno.readFile(path("begun")), source);
});

Deno.test("platter copy --rescue reads again what the target has lost", async () => {
  await using scratch = await Scratch.make();
  const size = SECTORS * 512;
  const [from, to] = [scratch.of("from.img"), scratch.of("to.img")];
  const mapFile = scratch.of("t.map");
  const source = new Random(1).bytes(size);
  await Deno.writeFile(from, source);
  // What of the finished part is lost, and whether it needs force.
  const cases: [lost: [number, number], needsForce: boolean][] = [
    [[0, size / 4], true],
    [[size / 4, size / 2], true],
    [[size / 8, size * 3 / 8], true],
    [[size / 8, size * 3 / 16], false],
    [[size / 4, size / 4 + size / 32], false],
    [[size / 2 - size / 64, size / 2], false],
  ];
  for (const [lost, needsForce] of cases) {
    const map = new RescueMap(size);
    map.set(0, size / 2, "+");
    await Deno.writeTextFile(mapFile, map.format());
    const there = source.slice().fill(0, ...lost).fill(0, size / 2);
    await Deno.writeFile(to, there);
    const args = ["copy", from, to, "--rescue", mapFile];
    if (needsForce) {
      const { code, err } = await platter(args);
      assertEquals(code, 2);
      assertMatch(err, /differ from ".*from.img" \(--force .* is as it was\n$/);
      assertEquals(await Deno.readTextFile(mapFile), map.format());
      assertEquals(await Deno.readFile(to), there);
      args.push("--force");
    }
    const { code, err } = await platter(args);
    assertEquals([code, err], [0, ""]);
    assertEquals(isSame(await Deno.readFile(to), source), true, `${lost}`);
  }
});

Deno.test("platter copy --rescue takes no map for a target's of which it says nothing", async () => {
  await using scratch = await Scratch.make();
  const size = SECTORS * 512;
  const mapFile = scratch.of("t.map");
  const path = (name: string) => scratch.of(`${name}.img`);
  // The source begins with zeroes, as disks often do.
  const source = new Random(1).bytes(size).fill(0, 0, size / 2);
  const precious = source.slice().fill(7, size - 4096);
  await Deno.writeFile(path("source"), source);
  await Deno.writeFile(path("precious"), precious);
  await using empty = await Deno.create(path("empty"));
  await empty.truncate(size);
  const untried = new RescueMap(size);
  const zeroes = new RescueMap(size);
  zeroes.set(0, size / 2, "+");
  const rescue = (to: string, ...more: string[]) =>
    platter(["copy", path("source"), path(to), "--rescue", mapFile, ...more]);
  for (const map of [untried, zeroes]) {
    await Deno.writeTextFile(mapFile, map.format());
    const { code, err } = await rescue("precious");
    assertEquals(code, 2);
    assertMatch(
      err,
      /has data, and nothing tells that it is the target of ".*t.map": overwrite it with --force: ".*" is as it was\n$/,
    );
    assertEquals(await Deno.readFile(path("precious")), precious);
    assertEquals(await Deno.readTextFile(mapFile), map.format());
  }
  // What was begun and has nothing yet, and what is meant, is gone on with.
  assertEquals((await rescue("empty")).code, 0);
  await Deno.writeTextFile(mapFile, untried.format());
  assertEquals((await rescue("precious", "--force")).code, 0);
  assertEquals(await Deno.readFile(path("precious")), source);
});

Deno.test({
  name:
    "platter copy --rescue makes no map for a target of blocks that the source is not",
  ...needs("root", "losetup"),
  fn: async () => {
    await using scratch = await Scratch.make();
    const image = await scratch.image("4kn.img", 4096 * 512, { 0: "old" });
    await using device = await loopDevice(image, 4096);
    const mapFile = scratch.of("t.map");
    const source = await scratch.image("s.img", 2049 * 512, { 0: "x" });
    const { code, err } = await platter([
      ...["copy", source, device.path, "--force", "--rescue", mapFile],
    ]);
    assertEquals(code, 2);
    assertMatch(err, /takes whole blocks of 4096 bytes: ".*" is as it was\n$/);
    assertEquals(await exists(mapFile), false);
  },
});
