import { DiskError, VirtualDisk } from "@platter/disk";
import {
  extractFiles,
  type FileEntry,
  FileSystemError,
  listFiles,
  openFile,
  readFile,
} from "@platter/disk/files";
import { faults, parseFaultRule } from "@platter/disk/testing";
import { MemoryBackend } from "@platter/disk";
import { assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { Random } from "../../src/random.ts";
import { LONG, mount, needs, run, type TempDir, tempDir } from "../helpers.ts";
import {
  type CpioEntry,
  cpioOf,
  hashOf,
  makeExt,
  makeTree,
  type Thing,
  thingsIn,
} from "./trees.ts";

/** A file system: how an image of a tree is made, and what it keeps of it. */
interface Maker {
  name: string;
  tool: string;
  isLong?: boolean;
  make(image: string, tree: string): Promise<unknown>;
  /** What of a thing the file system has. */
  keeps(path: string, thing: Thing): Thing | null;
}

const all = (_path: string, thing: Thing): Thing => thing;

const ext = (type: string): Maker => ({
  name: type,
  tool: "mke2fs",
  isLong: type !== "ext4",
  make: (image, tree) => makeExt(image, tree, type),
  keeps: all,
});

/** FAT in the folder's own time zone, and without modes and links. */
const fat = (bits: string, size: number): Maker => ({
  name: `FAT${bits}`,
  tool: "mcopy",
  isLong: bits !== "32",
  async make(image, tree) {
    using file = await Deno.create(image);
    await file.truncate(size);
    await run("mkfs.vfat", ["-F", bits, image]);
    // Its time has two seconds and no zone; its names have no stars.
    const names = [
      "folder",
      "empty",
      "hello.txt",
      "nothing",
      "ünï and more.txt",
    ];
    await run("env", [
      ...["TZ=UTC", "LC_ALL=C.UTF-8", "mcopy", "-s", "-m", "-i", image],
      ...names.map((name) => `${tree}/${name}`),
      "::",
    ]);
  },
  keeps(path, { type, size, hash, modified }) {
    if (!/^(folder|empty|hello|nothing|ünï)/.test(path)) return null;
    // mcopy follows links.
    if (path === "folder/link") return { type: "file" };
    if (type === "symlink") return null;
    return type === "directory"
      ? { type }
      : { type, size: size!, hash: hash!, modified: modified! & ~1 };
  },
});

const MAKERS: Maker[] = [
  ...["ext2", "ext3", "ext4"].map(ext),
  {
    name: "ext4 with a file of orphans, which has no name",
    tool: "mke2fs",
    make: (image, tree) =>
      makeExt(image, tree, "ext4", "8M", "-O", "orphan_file"),
    keeps: all,
  },
  {
    name: "SquashFS",
    tool: "mksquashfs",
    make: (image, tree) =>
      run("mksquashfs", [tree, image, "-quiet", "-no-progress"]),
    keeps: all,
  },
  {
    name: "SquashFS by xz",
    tool: "mksquashfs",
    isLong: true,
    make: (image, tree) =>
      run("mksquashfs", [
        ...[tree, image, "-quiet", "-no-progress", "-comp", "xz"],
      ]),
    keeps: all,
  },
  {
    name: "ISO 9660 with Rock Ridge and Joliet",
    tool: "genisoimage",
    make: (image, tree) =>
      run("genisoimage", ["-quiet", "-R", "-J", "-o", image, tree]),
    keeps: all,
  },
  {
    name: "UDF",
    tool: "genisoimage",
    isLong: true,
    make: (image, tree) =>
      run("genisoimage", ["-quiet", "-udf", "-o", image, tree]),
    // That program writes no modes and no links of UDF, and names as Joliet's.
    keeps: (path, { type, size, hash, modified }) =>
      type === "symlink" || /[*]|^esc/.test(path)
        ? null
        : type === "directory"
        ? { type }
        : { type, size: size!, hash: hash!, modified: modified! },
  },
  {
    name: "cpio",
    tool: "cpio",
    // Others are read below.
    isLong: true,
    make: (image, tree) =>
      run("sh", [
        ...["-c", 'cd "$1" && find . | cpio -o -H newc --quiet > "$2"'],
        ...["sh", tree, image],
      ]),
    keeps: all,
  },
  fat("12", 2 << 20),
  fat("16", 32 << 20),
  fat("32", 64 << 20),
  {
    name: "NTFS",
    tool: "ntfscp",
    async make(image, tree) {
      using file = await Deno.create(image);
      await file.truncate(8 << 20);
      await run("mkntfs", ["-q", "-F", image]);
      for (const name of ["folder/big.bin", "hello.txt", "ünï and more.txt"]) {
        const target = name.split("/").at(-1)!;
        await run("env", [
          ...["LC_ALL=C.UTF-8", "ntfscp", image, `${tree}/${name}`, target],
        ]);
      }
    },
    // In its root directory only, and with times of its own.
    keeps: (path, { type, size, hash }) =>
      ["hello.txt", "ünï and more.txt"].includes(path)
        ? { type, size: size!, hash: hash! }
        : null,
  },
];

/** What is asked of a thing that was taken out: as much as was kept. */
function like(kept: Thing, found: Thing | undefined): Thing | undefined {
  if (found === undefined) return undefined;
  const keys = Object.keys(kept) as (keyof Thing)[];
  const same: Record<string, unknown> = {};
  for (const key of keys) same[key] = found[key];
  return same as unknown as Thing;
}

for (const { name, tool, isLong = false, make, keeps } of MAKERS) {
  if (isLong && !LONG) continue;
  Deno.test(
    `extractFiles() gives the tree that ${name} was made from`,
    needs(tool),
    async () => {
      await using dir = await tempDir();
      const [tree, image, out] = ["tree", "image", "out"].map(dir.join);
      await makeTree(tree!);
      await make(image!, tree!);
      await padded(image!);
      await using disk = await VirtualDisk.open(image!, { readOnly: true });
      const entries: FileEntry[] = [];
      const result = await extractFiles(disk, out!, {
        onEntry: (entry) => void entries.push(entry),
      });
      assertEquals(result.skipped, []);
      const wanted = await thingsIn(tree!);
      const found = await thingsIn(out!);
      let compared = 0;
      for (const [path, thing] of wanted) {
        const kept = keeps(path, thing);
        if (kept === null) continue;
        assertEquals(like(kept, found.get(path)), kept, path);
        compared++;
      }
      assertEquals(compared >= 2, true);
      const files = [...found.values()].filter(({ type }) => type === "file");
      assertEquals(result.files, files.length);
      assertEquals(
        entries.filter(({ type }) => type === "file").length,
        files.length,
      );
    },
  );
}

/** Makes an image whole sectors. */
async function padded(path: string): Promise<void> {
  const { size } = await Deno.stat(path);
  await Deno.truncate(path, Math.ceil(size / 512) * 512);
}

/** A disk in memory with an ext4 of a tree, and the tree. */
async function extDisk(
  dir: TempDir,
): Promise<{ content: Uint8Array; tree: string }> {
  await makeTree(dir.join("tree"));
  await makeExt(dir.join("image"), dir.join("tree"), "ext4", "8M");
  return {
    content: await Deno.readFile(dir.join("image")),
    tree: dir.join("tree"),
  };
}

Deno.test("extractFiles() gives the tree that HFS+ was made from", {
  ignore: !LONG || needs("xorriso").ignore,
}, async () => {
  await using dir = await tempDir();
  const [tree, image, out] = ["tree", "image", "out"].map(dir.join);
  await makeTree(tree!);
  await run("xorriso", [
    ...["-as", "mkisofs", "-quiet", "-hfsplus", "-o", image!, tree!],
  ]);
  await padded(image!);
  // Inside the ISO 9660 image; its header is in its third sector.
  const bytes = await Deno.readFile(image!);
  const start = bytes.findIndex((_, at) =>
        at % 512 === 0 && bytes[at] === 0x48 && bytes[at + 1] === 0x2b &&
        bytes[at + 2] === 0 && bytes[at + 3] === 4
      ) / 512 - 2;
  await using whole = await VirtualDisk.open(image!, { readOnly: true });
  const disk = whole.slice(start, whole.sectors - start);
  const { skipped } = await extractFiles(disk, out!);
  assertEquals(skipped, []);
  // HFS+ has letters and their marks apart: TN1150, "Unicode Subtleties".
  const apart = (path: string) =>
    path.normalize("NFD");
  const found = await thingsIn(`${out}/ISOIMAGE`);
  for (const [path, thing] of await thingsIn(tree!)) {
    assertEquals(found.get(apart(path)), thing, path);
  }
  assertEquals(
    new TextDecoder().decode(await readFile(disk, "isoimage/WAY/link")),
    "hello\n",
  );
});

Deno.test("listFiles() lists ext4 on any disk", needs("mke2fs"), async () => {
  await using dir = await tempDir();
  const { content } = await extDisk(dir);
  // A slice, in blocks of 4 KiB, not at the start of its disk.
  await using whole = VirtualDisk.memory({ size: "9MiB", blockSize: 4096 });
  await whole.write(2048, content);
  const disk = whole.slice(2048, content.length / 512);
  const found = await Array.fromAsync(
    listFiles(disk),
    ({ path, type, size, target }) => ({ path, type, size, target }),
  );
  const file = { type: "file", target: null };
  const folder = { type: "directory", size: 0, target: null };
  const link = { type: "symlink" };
  assertEquals(
    found.sort((a, b) => a.path < b.path ? -1 : 1),
    [
      { path: "- folder", ...file, size: 22 },
      { path: "[x]@-i!", ...file, size: 1 },
      { path: "absolute", ...link, size: 15, target: "/no/where//else" },
      { path: "empty", ...folder },
      { path: "esc\x1b[31m", ...file, size: 1 },
      { path: "folder", ...folder },
      { path: "folder/big.bin", ...file, size: 700_001 },
      { path: "folder/link", ...link, size: 12, target: "../hello.txt" },
      { path: "folder/sub", ...folder },
      { path: "folder/sub/deep.txt", ...file, size: 5 },
      { path: "hello.txt", ...file, size: 6 },
      { path: "lost+found", ...folder },
      { path: "nothing", ...file, size: 0 },
      { path: "sp ace*?.txt", ...file, size: 1 },
      { path: "way", ...link, size: 6, target: "folder" },
      { path: "ünï and more.txt", ...file, size: 1 },
    ].map((it) => it.path === "absolute" ? { ...it, size: 15 } : it),
  );
});

Deno.test(
  "extractFiles() leaves out what has no name in ext4",
  needs("mke2fs", "debugfs"),
  async () => {
    await using dir = await tempDir();
    const [tree, image, out] = ["tree", "image", "out"].map(dir.join);
    await makeTree(tree!);
    await makeExt(image!, tree!);
    await run("debugfs", ["-w", "-R", "unlink /hello.txt", image!]);
    await using disk = await VirtualDisk.open(image!, { readOnly: true });
    assertEquals((await extractFiles(disk, out!)).skipped, []);
    const wanted = await thingsIn(tree!);
    wanted.delete("hello.txt");
    const found = await thingsIn(out!);
    found.delete("lost+found");
    assertEquals([...found.keys()].sort(), [...wanted.keys()].sort());
  },
);

/** File systems of kinds that are read, with what is not. */
const UNREAD: [feature: string, tool: string, args: string[]][] = [
  [
    "ext4 with bigalloc",
    "mke2fs",
    ["-q", "-t", "ext4", "-O", "bigalloc", "-d", "TREE", "IMAGE", "8M"],
  ],
  [
    "SquashFS with lz4 compression",
    "mksquashfs",
    ["TREE", "IMAGE", "-quiet", "-no-progress", "-comp", "lz4"],
  ],
];

for (const [feature, tool, args] of UNREAD) {
  Deno.test(
    `listFiles() and readFile() call ${feature} unsupported, not damaged`,
    needs(tool),
    async () => {
      await using dir = await tempDir();
      const places: Record<string, string> = {
        TREE: dir.join("tree"),
        IMAGE: dir.join("image"),
      };
      await makeTree(places.TREE!);
      await run(tool, args.map((arg) => places[arg] ?? arg));
      await padded(places.IMAGE!);
      // In blocks that are larger than its super block.
      for (const blockSize of [512, 4096]) {
        await using disk = VirtualDisk.memory({ size: "8MiB", blockSize });
        const content = await Deno.readFile(places.IMAGE!);
        const whole = new Uint8Array(8 << 20);
        whole.set(content);
        await disk.write(0, whole);
        for (
          const reading of [
            Array.fromAsync(listFiles(disk)),
            readFile(disk, "hello.txt"),
          ]
        ) {
          const [kind, message] = await refusal(reading);
          assertEquals(kind, "unsupported");
          assertStringIncludes(message, `the disk has ${feature}, which 7-Zip`);
        }
      }
    },
  );
}

async function refusal(
  promise: Promise<unknown>,
): Promise<[kind: string, message: string]> {
  const error = await assertRejects(() => promise, FileSystemError);
  return [error.kind, error.message];
}

Deno.test(
  "readFile() and openFile() find files by any way, and refuse what is none",
  needs("mke2fs"),
  async () => {
    await using dir = await tempDir();
    const { content, tree } = await extDisk(dir);
    await using disk = VirtualDisk.memory({ sectors: content.length / 512 });
    await disk.write(0, content);
    const text = new TextDecoder();
    assertEquals(text.decode(await readFile(disk, "/hello.txt")), "hello\n");
    // By a link to a folder, a link in it, and that leads up.
    assertEquals(text.decode(await readFile(disk, "way//./link")), "hello\n");
    const big = await Array.fromAsync(await openFile(disk, "folder/big.bin"));
    const whole = await Deno.readFile(`${tree}/folder/big.bin`);
    assertEquals(big.length > 1, true);
    assertEquals(
      await hashOf(
        new Uint8Array(await new Blob(big as BlobPart[]).arrayBuffer()),
      ),
      await hashOf(whole),
    );
    const [kind, message] = await refusal(readFile(disk, "folder/no\x1b"));
    assertEquals(kind, "not-found");
    assertEquals(
      message,
      'Cannot read "folder/no\\u{1b}" as there is no "folder/no\\u{1b}" in the file system',
    );
    assertEquals((await refusal(readFile(disk, "way")))[0], "not-a-file");
    const stream = (await openFile(disk, "[x]@-i!")).getReader();
    assertEquals((await stream.read()).value?.length, 1);
    await stream.cancel();
    const limited = readFile(disk, "hello.txt", { maxBytes: 5 });
    assertEquals((await refusal(limited))[0], "too-large");
  },
);

/** A disk with a cpio archive. */
async function cpioDisk(...entries: CpioEntry[]): Promise<VirtualDisk> {
  const image = cpioOf(entries);
  const disk = VirtualDisk.memory({ sectors: image.length / 512 });
  await disk.write(0, image);
  return disk;
}

Deno.test("extractFiles() takes out the rest where names are none, or the root's", async () => {
  await using dir = await tempDir();
  await using disk = await cpioDisk(
    { name: "first", content: "1" },
    // The root as a file, with a content.
    { name: ".", content: "root" },
    { name: "/", content: "root" },
    { name: "x//y", content: "none" },
    { name: "g".repeat(256), content: "longer than any system takes" },
    { name: "- last", content: "2" },
  );
  const out = dir.join("out");
  const { files, skipped } = await extractFiles(disk, out);
  assertEquals([files, skipped.length], [2, 3]);
  assertEquals(await Deno.readTextFile(`${out}/first`), "1");
  assertEquals(await Deno.readTextFile(`${out}/- last`), "2");
});

Deno.test(
  "extractFiles() into a full disk keeps whole files, and says that it is full",
  needs("root", "mount"),
  async () => {
    await using dir = await tempDir();
    await using place = await mount(
      ...["none", dir.join("small"), "-t", "tmpfs", "-o", "size=256k"] as const,
    );
    const content = "x".repeat(100_000);
    await using disk = await cpioDisk(
      ...["a", "b", "c", "d"].map((name) => ({ name, content })),
    );
    for (const overwrite of [false, true]) {
      const out = place.join(`out ${overwrite}`);
      const error = await assertRejects(
        () => extractFiles(disk, out, { overwrite }),
        DiskError,
        out,
      );
      assertEquals([error.kind, error.code], ["no-space", "ENOSPC"]);
      const left = await thingsIn(`${out}/`);
      assertEquals([...left.keys()].sort(), ["a", "b"]);
      for (const { size } of left.values()) assertEquals(size, 100_000);
      await Deno.remove(out, { recursive: true });
    }
  },
);

Deno.test(
  "extractFiles() ends where no more files can be made, and says so once",
  needs("root", "mount"),
  async () => {
    await using dir = await tempDir();
    await using place = await mount(
      ...["none", dir.join("few"), "-t", "tmpfs", "-o", "nr_inodes=4"] as const,
    );
    await using disk = await cpioDisk(
      ...["a", "b", "c/d", "e"].map((name) => ({ name, content: name })),
    );
    // The root directory, the one that is made, and two more.
    for (const overwrite of [false, true]) {
      const out = place.join(`out ${overwrite}`);
      const { kind, code } = await assertRejects(
        () => extractFiles(disk, out, { overwrite }),
        DiskError,
        out,
      );
      assertEquals([kind, code], ["no-space", "ENOSPC"]);
      assertEquals([...(await thingsIn(`${out}/`)).keys()].sort(), ["a", "b"]);
      await Deno.remove(out, { recursive: true });
    }
  },
);

Deno.test(
  "extractFiles() leaves out what is too large for the file system, and goes on",
  LONG ? needs("prlimit") : { ignore: true },
  async () => {
    await using dir = await tempDir();
    const image = await dir.file(
      "image",
      cpioOf([
        { name: "a", content: "1" },
        { name: "large", content: "x".repeat(300_000) },
        { name: "z", content: "2" },
      ]),
    );
    const program = dir.join("program.ts");
    await Deno.writeTextFile(
      program,
      `
      import { VirtualDisk } from ${
        JSON.stringify(import.meta.resolve("../../mod.ts"))
      };
      import { extractFiles, listFiles } from ${
        JSON.stringify(import.meta.resolve("../../src/files/mod.ts"))
      };
      const [image, out] = Deno.args;
      const disk = await VirtualDisk.open(image, { readOnly: true });
      // What the runtime keeps of modules is written by then.
      await Array.fromAsync(listFiles(disk));
      await new Deno.Command("prlimit", {
        args: ["--pid", String(Deno.pid), "--fsize=262144"],
      }).output();
      const { files, skipped } = await extractFiles(disk, out);
      console.log(JSON.stringify([files, skipped]));
      Deno.exit();
    `,
    );
    const out = dir.join("out");
    const config = new URL("../../deno.json", import.meta.url).pathname;
    const said = await run(Deno.execPath(), [
      ...["run", "-A", "--no-check", "--config", config, program, image, out],
    ]);
    const [files, [{ path, reason }]] = JSON.parse(said);
    assertEquals([files, path], [2, "large"]);
    assertStringIncludes(reason, "File too large");
    assertEquals([...(await thingsIn(`${out}/`)).keys()].sort(), ["a", "z"]);
  },
);

Deno.test(
  "extractFiles() lets no name replace another where case does not count",
  needs("root", "mkntfs", "lowntfs-3g"),
  async () => {
    await using dir = await tempDir();
    const image = await dir.file("ntfs.img", 1 << 21);
    await run("mkntfs", ["-q", "-F", image]);
    await using place = await mount(
      ...[image, dir.join("there"), "-t", "lowntfs-3g"] as const,
      ...["-o", "ignore_case"],
    );
    await using disk = await cpioDisk(
      { name: "A", content: "first" },
      { name: "a", content: "second" },
      { name: "B", content: "other" },
    );
    for (const overwrite of [false, true]) {
      const out = place.join("out");
      const { files, skipped } = await extractFiles(disk, out, { overwrite });
      assertEquals([files, skipped.map(({ path }) => path)], [2, ["a"]]);
      assertEquals(await Deno.readTextFile(`${out}/A`), "first");
    }
  },
);

Deno.test("extractFiles() keeps inside its directory whatever the names are", async () => {
  await using dir = await tempDir();
  const outside = dir.join("outside");
  await Deno.mkdir(outside);
  const image = cpioOf([
    { name: "../evil", content: "no" },
    { name: "a/../../evil", content: "no" },
    { name: `${outside}/evil`, content: "no" },
    { name: "way", mode: 0o120777, content: outside },
    { name: "way/evil", content: "no" },
    { name: "before/evil", content: "yes" },
    { name: "before", mode: 0o120777, content: outside },
    { name: "under/it", content: "yes" },
    { name: "under", content: "no" },
    { name: "same", content: "first" },
    { name: "same", content: "second" },
    { name: "pipe", mode: 0o010644 },
    { name: "there/evil", content: "no" },
    { name: "good", mode: 0o104711, content: "good" },
    { name: "line\nend", content: "one" },
  ]);
  await using disk = VirtualDisk.memory({ sectors: image.length / 512 });
  await disk.write(0, image);
  const out = dir.join("out");
  await Deno.mkdir(out);
  await Deno.symlink(outside, `${out}/there`);
  const result = await extractFiles(disk, out);
  const left = new Map(result.skipped.map((it) => [it.path, it.reason]));
  const away = "its path leads out of the directory, or is none";
  assertEquals(left.get("../evil"), away);
  assertEquals(left.get("a/../../evil"), away);
  assertEquals(left.get(`${outside}/evil`), away);
  assertEquals(left.get("way/evil"), '"way" is no directory');
  assertEquals(left.get("same"), "there is another one of that name");
  assertEquals(left.get("pipe"), "it is a device, a pipe or a socket");
  assertEquals(left.get("there/evil"), '"there" is there, and no directory');
  assertEquals(await Array.fromAsync(Deno.readDir(outside)), []);
  assertEquals(await Deno.readTextFile(`${out}/before/evil`), "yes");
  assertEquals(left.has("before") && left.has("under"), true);
  assertEquals(await Deno.readTextFile(`${out}/under/it`), "yes");
  assertEquals(await Deno.readTextFile(`${out}/same`), "first");
  assertEquals(await Deno.readTextFile(`${out}/line_end`), "one");
  assertEquals(await Deno.readLink(`${out}/way`), outside);
  assertEquals((await Deno.stat(`${out}/good`)).mode! & 0o7777, 0o711);
  const names = (await Array.fromAsync(Deno.readDir(out))).map(({ name }) =>
    name
  ).sort();
  assertEquals(names, [
    "before",
    "good",
    "line_end",
    "same",
    "there",
    "under",
    "way",
  ]);
  // Once more: nothing is touched, unless that is asked for.
  await Deno.writeTextFile(`${out}/good`, "mine");
  const [kind, message] = await refusal(
    extractFiles(disk, out, { paths: ["good"] }),
  );
  assertEquals([kind, message.includes("good")], ["exists", true]);
  assertEquals(await Deno.readTextFile(`${out}/good`), "mine");
  const paths = ["/good", "under"];
  const replaced = await extractFiles(disk, out, { paths, overwrite: true });
  assertEquals(replaced.skipped.map(({ path }) => path), ["under"]);
  const file = await refusal(extractFiles(disk, `${out}/good`));
  assertEquals(file[0], "exists");
  assertEquals(await Deno.readTextFile(`${out}/good`), "good");
  assertEquals(
    (await refusal(extractFiles(disk, out, { paths: ["none"] })))[0],
    "not-found",
  );
});

Deno.test(
  "listFiles() and extractFiles() fail as their disk does, time out and are aborted",
  needs("mke2fs"),
  async () => {
    await using dir = await tempDir();
    const { content } = await extDisk(dir);
    const backend = new MemoryBackend({ sectors: content.length / 512 });
    const faulty = faults(backend);
    await using disk = VirtualDisk.over(faulty);
    await disk.write(0, content);
    const list = (options = {}) => Array.fromAsync(listFiles(disk, options));
    assertEquals(await refusal(list({ timeoutMs: 1e-3 })), [
      "timeout",
      "Cannot read files as nothing has come of the file system within 0.001 ms: it may be damaged",
    ]);
    await assertRejects(() => list({ timeoutMs: 0 }), RangeError, "timeoutMs");
    const reason = new Error("Enough");
    const controller = new AbortController();
    const aborted = async () => {
      for await (const _ of listFiles(disk, controller)) {
        controller.abort(reason);
      }
    };
    assertEquals(await assertRejects(aborted, Error), reason);
    assertEquals(await assertRejects(() => list(controller), Error), reason);
    // The superblock is read twice: to know it, and by 7-Zip.
    faulty.add(parseFaultRule("read sector=64.. error=EIO"));
    const error = await assertRejects(() => list(), DiskError);
    assertEquals([error.kind, error.code], ["io", "EIO"]);
  },
);

Deno.test(
  "readFile() and listFiles() say that a file system is damaged",
  needs("mke2fs"),
  async () => {
    await using dir = await tempDir();
    const { content } = await extDisk(dir);
    const disk = VirtualDisk.memory({ sectors: content.length / 512 });
    await using _ = disk;
    // The table of inodes is random.
    const broken = content.slice();
    for (let at = 2048; at < 1 << 20; at++) broken[at] = at * 73 >> 3;
    await disk.write(0, broken);
    const [kind, message] = await refusal(Array.fromAsync(listFiles(disk)));
    assertEquals([kind, message.includes("is damaged: 7-Zip")], [
      "damaged",
      true,
    ]);
  },
);

Deno.test(
  "extractFiles() leaves out a file that is damaged, and readFile() refuses it",
  needs("mksquashfs"),
  async () => {
    await using dir = await tempDir();
    await Deno.mkdir(dir.join("tree"));
    // The same each time: other bytes may be damaged without being wrong.
    const content = new Random(1).bytes(60_000);
    // What cannot be pressed is stored: the middle of it, by gzip.
    content.fill(7, 20_000, 40_000);
    await Deno.writeFile(dir.join("tree/bad"), content);
    await Deno.writeTextFile(dir.join("tree/good"), "good");
    await run("mksquashfs", [
      ...[dir.join("tree"), dir.join("image"), "-quiet", "-no-progress"],
      "-no-fragments",
    ]);
    const image = await Deno.readFile(dir.join("image"));
    image.fill(0xff, 20_000, 20_100);
    await Deno.writeFile(dir.join("image"), image);
    await padded(dir.join("image"));
    await using disk = await VirtualDisk.open(dir.join("image"), {
      readOnly: true,
    });
    const out = dir.join("out");
    const { files, skipped } = await extractFiles(disk, out);
    assertEquals([files, skipped.map(({ path }) => path)], [1, ["bad"]]);
    const names = await Array.fromAsync(Deno.readDir(out), ({ name }) => name);
    assertEquals(names, ["good"]);
    const [kind, message] = await refusal(readFile(disk, "bad"));
    assertEquals(kind, "damaged");
    assertEquals(message.startsWith('Cannot read "bad" as'), true, message);
  },
);
