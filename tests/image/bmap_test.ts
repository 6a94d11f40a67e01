import { assert, assertEquals, assertLess, assertThrows } from "@std/assert";
import { createHash } from "node:crypto";
import { VirtualDisk } from "../../src/disk/disk.ts";
import { DiskError } from "../../src/errors.ts";
import {
  type Bmap,
  formatBmap,
  makeBmap,
  parseBmap,
} from "../../src/image/mod.ts";
import { Random } from "../../src/random.ts";
import { LONG, needs, run, tempDir } from "../helpers.ts";

const SUM = "ab".repeat(32);

/** A map of a MiB, with its own checksum made right after the changes. */
function bmapOf(change: (text: string) => string = (text) => text): string {
  const text = change(formatBmap({
    imageBytes: (1 << 20) - 100,
    blockBytes: 4096,
    ranges: [
      { first: 0, last: 0, checksum: SUM },
      { first: 7, last: 255, checksum: SUM },
    ],
  }));
  const sum = /<BmapFileChecksum> (\w+) /.exec(text)?.[1];
  if (sum === undefined) return text;
  const blank = text.replace(sum, "0".repeat(64));
  return text.replace(
    sum,
    createHash("sha256").update(blank).digest("hex"),
  );
}

Deno.test("parseBmap() reads what formatBmap() writes", () => {
  const map = parseBmap(bmapOf());
  assertEquals(map, {
    version: "2.0",
    imageBytes: (1 << 20) - 100,
    blockBytes: 4096,
    checksumType: "sha256",
    ranges: [
      { first: 0, last: 0, checksum: SUM },
      { first: 7, last: 255, checksum: SUM },
    ],
  });
});

Deno.test("parseBmap() takes older versions, comments, entities and other checksums", () => {
  const body = `<ImageSize> 8192 </ImageSize> <BlockSize>4096</BlockSize>
    <BlocksCount> 2 </BlocksCount>`;
  const old = parseBmap(
    `<?xml version='1.0'?><!-- <bmap> --><bmap version="1.2">${body}
     <BlockMap><Range> 0 - 1 </Range></BlockMap></bmap>`,
  );
  assertEquals(old.checksumType, null);
  assertEquals(old.ranges, [{ first: 0, last: 1, checksum: null }]);

  const sum = "0".repeat(40);
  const text = `<bmap version='1.3' note="&lt;&amp;&gt;">${body}
     <BmapFileSHA1> ${sum} </BmapFileSHA1>
     <BlockMap><Range sha1='${"1".repeat(40)}'>1</Range></BlockMap></bmap>`;
  const own = createHash("sha1").update(text).digest("hex");
  const map = parseBmap(text.replace(sum, own));
  assertEquals(map.checksumType, "sha1");
  assertEquals(map.ranges[0]!.checksum, "1".repeat(40));
});

const REFUSED: [title: string, change: (text: string) => string, RegExp][] = [
  ["an empty text", () => "", /whole element/],
  ["no XML", () => "QFI", /whole element/],
  ["another root", (it) => it.replaceAll("bmap", "map"), /only root/],
  ["two roots", (it) => it + it.slice(it.indexOf("<bmap")), /only root/],
  ["a version of the future", (it) => it.replace('"2.0"', '"3.0"'), /1\.x/],
  [
    "a DOCTYPE",
    (it) => it.replace("<bmap", '<!DOCTYPE a [<!ENTITY b "c">]><bmap'),
    /DOCTYPE/,
  ],
  ["an entity of its own", (it) => it.replace("4096", "&x;"), /entity/],
  ["a tag that does not end", (it) => it.slice(0, -4), /end tag|whole/],
  ["elements that cross", (it) => it.replace("</BlockMap>", ""), /nest/],
  [
    "elements that nest deep",
    (it) => it.replace("<ImageSize>", "<a><b><c><d>"),
    /stand in|deep/,
  ],
  ["no image size", (it) => it.replace(/<ImageSize>.*/, ""), /ImageSize/],
  ["a negative size", (it) => it.replace("1048476", "-1"), /ImageSize/],
  ["a huge size", (it) => it.replace("1048476", "9".repeat(16)), /ImageSize/],
  ["a block size of 0", (it) => it.replace(" 4096 ", " 0 "), /BlockSize/],
  ["a ragged block size", (it) => it.replace(" 4096 ", " 4000 "), /BlockSize/],
  ["a wrong count", (it) => it.replace(" 256 ", " 257 "), /BlocksCount/],
  ["a wrong sum of blocks", (it) => it.replace(" 250 ", " 249 "), /Mapped/],
  ["ranges that overlap", (it) => it.replace("7-255", "0-255"), /follow/],
  ["a range that ends first", (it) => it.replace("7-255", "9-8"), /follow/],
  ["a range beyond the end", (it) => it.replace("7-255", "7-256"), /follow/],
  ["a range that is none", (it) => it.replace("7-255", "7-"), /Range/],
  ["a range given twice", (it) => it.replace("7-255", "0"), /follow/],
  ["a short checksum", (it) => it.replace(SUM, "abab"), /64 .*digits/],
  ["an unknown checksum", (it) => it.replace("sha256", "crc32"), /sha1 or/],
  ["no checksum type", (it) => it.replace(/<ChecksumType>.*/, ""), /Type/],
  [
    "no checksum of its own",
    (it) => it.replace(/<BmapFileChecksum>.*/, ""),
    /own checksum/,
  ],
  [
    "a size given twice",
    (it) => it.replace(/(<ImageSize>.*)/, "$1$1"),
    /once/,
  ],
];

for (const [title, change, words] of REFUSED) {
  Deno.test(`parseBmap() refuses ${title}`, () => {
    const error = assertThrows(() => parseBmap(bmapOf(change)), DiskError);
    assertEquals(error.kind, "argument");
    assert(words.test(error.message), error.message);
    assertLess(error.message.length, 400);
  });
}

Deno.test("parseBmap() sees any digit of the file that changed", () => {
  const text = bmapOf();
  for (const place of [/Size> (\d)/, /Range chksum="(\w)/, /-(\d)/]) {
    const at = place.exec(text)!.index + place.exec(text)![0].length - 1;
    const other = text[at] === "1" ? "2" : "1";
    const bad = text.slice(0, at) + other + text.slice(at + 1);
    assertThrows(() => parseBmap(bad), DiskError);
  }
});

Deno.test("parseBmap() gives a map or a typed error, whatever is mutated", () => {
  const seed = crypto.getRandomValues(new Uint32Array(1))[0]!;
  const random = new Random(seed);
  const texts = [
    bmapOf(),
    bmapOf((it) =>
      it.replace('"2.0"', '"1.1"').replaceAll(/ chksum="\w+"/g, "")
    ),
  ];
  const parts = ["<", ">", "&", '"', "-", "0", "9".repeat(20), "<!--", "</"];
  let read = 0;
  for (let round = 0; round < (LONG ? 100_000 : 2000); round++) {
    let text = texts[random.below(texts.length)]!;
    for (let n = random.below(3); n >= 0; n--) {
      const at = random.below(text.length);
      const length = random.below(4) === 0 ? random.below(200) : 1;
      const put = random.below(2) === 0
        ? parts[random.below(parts.length)]!
        : String.fromCharCode(random.below(128));
      text = text.slice(0, at) + put + text.slice(at + length);
    }
    try {
      checkSound(parseBmap(text));
      read++;
    } catch (error) {
      assert(error instanceof DiskError, `seed ${seed}: ${error}`);
    }
  }
  assert(read > 0, `seed ${seed}: the version without sums is read at times`);
});

/** Whoever goes by the map stays within the image. */
function checkSound({ imageBytes, blockBytes, ranges }: Bmap): void {
  let next = 0;
  for (const { first, last } of ranges) {
    assert(next <= first && first <= last);
    assert(last * blockBytes < imageBytes);
    next = last + 1;
  }
}

Deno.test("makeBmap() maps blocks that have data, and sums them up", async () => {
  await using disk = VirtualDisk.memory({ sectors: 4096 + 1 });
  await disk.write(2048, new Uint8Array(512).fill(1));
  await disk.write(4096, new Uint8Array(512).fill(2));
  const map = parseBmap(await makeBmap(disk));
  assertEquals(map.imageBytes, 4097 * 512);
  const last = map.ranges.at(-1)!;
  assertEquals(last.last, 512);
  for (const { first, last, checksum } of map.ranges) {
    const end = Math.min((last + 1) * 8, disk.sectors);
    const bytes = await disk.read(first * 8, end - first * 8);
    assertEquals(createHash("sha256").update(bytes).digest("hex"), checksum);
  }
  const mapped = (block: number) =>
    map.ranges.some(({ first, last }) => first <= block && block <= last);
  assert(mapped(256));
});

Deno.test(
  "bmaptool flashes by makeBmap()'s map, and its own is read",
  needs("bmaptool"),
  async () => {
    await using dir = await tempDir();
    const image = await dir.file("a.img", 4 << 20);
    {
      await using disk = await VirtualDisk.open(image);
      const random = new Random(7);
      await disk.write(16, random.bytes(8192));
      await disk.write(5000, random.bytes(64 * 1024));
      await Deno.writeTextFile(dir.join("ours"), await makeBmap(disk));
    }
    await run("bmaptool", [
      "copy",
      "--bmap",
      dir.join("ours"),
      image,
      dir.join("b.img"),
    ]);
    assertEquals(
      await Deno.readFile(dir.join("b.img")),
      await Deno.readFile(image),
    );

    await run("bmaptool", ["create", "-o", dir.join("theirs"), image]);
    const theirs = parseBmap(await Deno.readTextFile(dir.join("theirs")));
    const ours = parseBmap(await Deno.readTextFile(dir.join("ours")));
    assertEquals(theirs, ours);
  },
);
