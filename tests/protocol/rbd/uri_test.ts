import {
  assertEquals,
  assertFalse,
  assertRejects,
  assertThrows,
} from "@std/assert";
import { isRbdUri, parseRbdUri } from "../../../src/protocol/rbd/uri.ts";
import { VirtualDisk } from "../../../src/disk/disk.ts";
import { DiskError } from "../../../src/errors.ts";

Deno.test("parseRbdUri() reads pools, namespaces, images, snapshots and options", () => {
  const plain = {
    pool: "rbd",
    namespace: "",
    image: "img",
    snapshot: null,
    conf: null,
    id: "admin",
    cluster: "ceph",
  };
  assertEquals(parseRbdUri("rbd:rbd/img"), plain);
  assertEquals(parseRbdUri("RBD:rbd/img@monday"), {
    ...plain,
    snapshot: "monday",
  });
  assertEquals(
    parseRbdUri(
      "rbd:a%20b/tenant/c%2Fd@e%3Ff?id=client.me&conf=/etc/ceph/x%26y.conf&cluster=other",
    ),
    {
      pool: "a b",
      namespace: "tenant",
      image: "c/d",
      snapshot: "e?f",
      conf: "/etc/ceph/x&y.conf",
      id: "me",
      cluster: "other",
    },
  );
});

const LONG = "ü".repeat(513);

Deno.test("parseRbdUri() refuses what is no name, and says how it is written", () => {
  for (
    const [uri, text] of [
      ["rbd:img", "must be rbd:POOL/IMAGE"],
      ["rbd:a/b/c/d", "must be rbd:POOL/IMAGE"],
      ["rbd://mon/pool/img", "there is no host in it"],
      ["rbd:/img", "its pool must have a name"],
      ["rbd:pool/", "its image must have a name"],
      ["rbd:pool//img", "its namespace must have a name"],
      ["rbd:pool/img@", "its snapshot must have a name"],
      ["rbd:pool/img@a@b", "cannot have @ or / in it"],
      ["rbd:pool/img:conf=/x:id=me", "must be written rbd:POOL/IMAGE?conf="],
      ["rbd:pool/img?conf", "only conf=PATH, id=USER and cluster=NAME"],
      ["rbd:pool/img?mon=x", "only conf=PATH, id=USER and cluster=NAME"],
      ["rbd:pool/img?id=a&id=b", "must have id only once"],
      ["rbd:pool/img%00x", "there cannot be a zero in its image"],
      ["rbd:pool/img?conf=/a,b.conf", "a comma or ; in conf"],
      ["rbd:pool/img?conf=/a%3Bb.conf", "a comma or ; in conf"],
      [`rbd:${LONG}/img`, "its pool must be 1024 bytes at most"],
      [`rbd:pool/${LONG}/img`, "its namespace must be 1024 bytes at most"],
      [`rbd:pool/${LONG}`, "its image must be 1024 bytes at most"],
      [`rbd:pool/img@${LONG}`, "its snapshot must be 1024 bytes at most"],
      [`rbd:pool/img?id=${LONG}`, "id must be 1024 bytes at most"],
      [`rbd:pool/img?cluster=${LONG}`, "cluster must be 1024 bytes at most"],
      [`rbd:pool/img?conf=/${LONG}`, "conf must be 1024 bytes at most"],
      ["rbd:pool/%img", "every % in its image"],
    ] as const
  ) {
    assertThrows(() => parseRbdUri(uri), TypeError, text, uri);
  }
});

Deno.test("isRbdUri() tells images of clusters from files", () => {
  assertEquals(["rbd:x", "RBD:pool/img"].map(isRbdUri), [true, true]);
  for (const path of ["./rbd:x", "/rbd:pool/img", "nbd://rbd:x", "rbd"]) {
    assertFalse(isRbdUri(path));
  }
});

Deno.test("VirtualDisk.open() refuses what an image of a cluster cannot have", async () => {
  for (
    const options of [
      { direct: "require" },
      { backend: "portable" },
      { engine: "sync" },
      { format: "qcow2" },
    ] as const
  ) {
    const error = await assertRejects(
      () => VirtualDisk.open("rbd:pool/img", options),
      DiskError,
    );
    assertEquals(error.kind, "platform");
  }
  for (
    const options of [{ requestTimeoutMs: 0 }, { closeTimeoutMs: 2 ** 31 }, {
      id: "é",
    }]
  ) {
    await assertRejects(
      () => VirtualDisk.open("rbd:pool/img", options),
      RangeError,
    );
  }
  const made = await assertRejects(
    () => VirtualDisk.create("rbd:pool/img@snap", { sectors: 8 }),
    DiskError,
  );
  assertEquals([made.kind, made.operation], ["platform", "create"]);
  for (const name of ["a%40b", "a%2Fb"]) {
    await assertRejects(
      () => VirtualDisk.create(`rbd:pool/${name}`, { sectors: 8 }),
      TypeError,
      "its name must have no @ and no / in it",
    );
  }
});
