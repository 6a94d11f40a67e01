/**
 * Which block devices share their data, by a `/sys` that has what this machine
 * need not have: mapped devices.
 *
 * @module
 */

import { assertEquals } from "@std/assert";
import fs from "node:fs";
import { belowDevice } from "../../src/backends/device_use.ts";
import { identityOf, isShared } from "../../src/backends/same_file.ts";

const MIB = 1_048_576;

/** The disk's partitions and what is made of them, with their numbers. */
const DEVICES = {
  sda: 240 << 8,
  sda1: (240 << 8) + 1,
  sda2: (240 << 8) + 2,
  root: 241 << 8,
  home: (241 << 8) + 1,
  crypt: (241 << 8) + 2,
} as const;

type Name = keyof typeof DEVICES;

/** Files of `/sys/dev/block`; sizes and starts are in sectors of 512 bytes. */
const FILES: Record<string, string> = {
  "240:0/size": "8192",
  "240:1/partition": "1",
  "240:1/start": "2048",
  "240:1/size": "2048",
  "240:1/../dev": "240:0",
  "240:2/partition": "2",
  "240:2/start": "4096",
  "240:2/size": "4096",
  "240:2/../dev": "240:0",
  "241:0/size": "1024",
  "241:0/slaves/sda2/dev": "240:2",
  "241:0/slaves/sda2/size": "4096",
  "241:1/size": "1024",
  "241:1/slaves/sda2/dev": "240:2",
  "241:1/slaves/sda2/size": "4096",
  "241:2/size": "512",
  "241:2/slaves/dm-0/dev": "241:0",
  "241:2/slaves/dm-0/size": "1024",
};

/** Has those files in the place of this machine's. */
function fakeSys(): Disposable {
  const { readFileSync, readdirSync, existsSync } = fs;
  const of = (path: unknown) => String(path).replace("/sys/dev/block/", "");
  Object.assign(fs, {
    readFileSync(path: unknown) {
      const text = FILES[of(path)];
      if (text === undefined) throw new Error(`There is no ${path}`);
      return text;
    },
    readdirSync: (path: unknown) => [
      ...new Set(
        Object.keys(FILES).filter((file) => file.startsWith(`${of(path)}/`))
          .map((file) => file.slice(of(path).length + 1).split("/")[0]!),
      ),
    ],
    existsSync: (path: unknown) => of(path) in FILES,
  });
  return {
    [Symbol.dispose]() {
      Object.assign(fs, { readFileSync, readdirSync, existsSync });
    },
  };
}

Deno.test({
  name: "isShared() tells mapped devices from other partitions of their disk",
  ignore: Deno.build.os !== "linux",
  fn() {
    using _ = fakeSys();
    const identity = (name: Name) =>
      identityOf(
        {
          ...{ isFile: false, isBlockDevice: true, size: 0, dev: 5, ino: 1 },
          rdev: DEVICES[name],
        } as Parameters<typeof identityOf>[0],
        `/dev/${name}`,
      );
    const shared = (one: Name) =>
      (Object.keys(DEVICES) as Name[]).filter((other) => {
        const [a, b] = [identity(one), identity(other)];
        assertEquals(isShared(a, b), isShared(b, a));
        return isShared(a, b);
      });
    assertEquals(shared("sda"), Object.keys(DEVICES) as Name[]);
    assertEquals(shared("sda1"), ["sda", "sda1"]);
    assertEquals(shared("sda2"), ["sda", "sda2", "root", "home", "crypt"]);
    // Which part of sda2 each of both has cannot be told: as if none of the other's.
    assertEquals(shared("root"), ["sda", "sda2", "root", "crypt"]);
    assertEquals(shared("home"), ["sda", "sda2", "home"]);
    assertEquals(
      belowDevice(DEVICES.root).map(({ bytes }) => bytes),
      [
        { start: 0, end: 2 * MIB, some: true },
        { start: 2 * MIB, end: 4 * MIB, some: true },
      ],
    );
  },
});
