import { ListingReader } from "../../src/files/file_entry.ts";
import { FileSystemError } from "../../src/files/mod.ts";
import { assertEquals, assertThrows } from "@std/assert";

const LISTING = `Path = a = b
Folder = -
Size = 5
Packed Size = 1024
Mode = -rwsr-xr-T
Modified = 2001-02-03 04:05:06.789000000
Created = 
iNode = 12
Links = 2
Symbolic Link = 
User ID = 1000
Group ID = 100

Path = ünï/link
Folder = +
Size = 3
Mode = lrwxrwxrwx
Modified = 
Symbolic Link = dir

Path = folder
Folder = +
Size = 
Modified = 2026-11-26 06:49:08
Attributes = D

Path = pipe
Size = 0
Mode = prw-r--r--
Modified = 2026-99-99 nonsense

`;

const NOTHING = {
  ...{ size: 0, mode: null, uid: null, gid: null, modified: null },
  ...{ inode: null, links: null, target: null },
};

const ENTRIES = [
  {
    path: "a = b",
    type: "file",
    ...{ size: 5, mode: 0o5754, uid: 1000, gid: 100 },
    modified: new Date("2001-02-03T04:05:06.789Z"),
    ...{ inode: 12, links: 2, target: null },
  },
  {
    ...NOTHING,
    path: "ünï/link",
    type: "symlink",
    ...{ size: 3, mode: 0o777, target: "dir" },
  },
  {
    ...NOTHING,
    path: "folder",
    type: "directory",
    modified: new Date("2026-11-26T06:49:08Z"),
  },
  { ...NOTHING, path: "pipe", type: "other", mode: 0o644 },
];

Deno.test("ListingReader reads a listing in pieces of any length", () => {
  const bytes = new TextEncoder().encode(LISTING);
  for (const length of [1, 7, 64, bytes.length]) {
    const reader = new ListingReader();
    const found: unknown[] = [];
    for (let at = 0; at < bytes.length; at += length) {
      found.push(...reader.read(bytes.subarray(at, at + length)));
    }
    found.push(...reader.end());
    assertEquals(found, ENTRIES);
  }
});

Deno.test("ListingReader refuses what is no listing, and one without an end", () => {
  const refuses = (text: string) =>
    assertThrows(
      () => {
        const reader = new ListingReader();
        reader.read(new TextEncoder().encode(text));
        reader.end();
      },
      FileSystemError,
      "lines that are none",
    );
  refuses("Size = 5\n\n");
  refuses("nothing");
  refuses("Path = ".padEnd(1 << 21, "x"));
});
