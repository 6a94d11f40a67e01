/**
 * The contract of every backend, with the disk inside a qcow2 file.
 *
 * @module
 */

import { openBackend } from "../../../src/disk/open.ts";
import { contractSuite } from "../../contract.ts";
import { needs, run, tempDir } from "../../helpers.ts";

contractSuite("qemu-nbd", async () => {
  const dir = await tempDir();
  const path = dir.join("disk.qcow2");
  await run("qemu-img", ["create", "-q", "-f", "qcow2", path, "8M"]);
  const open = () => openBackend(path);
  return {
    backend: await open(),
    reopen: open,
    cleanup: () => dir[Symbol.asyncDispose](),
  };
}, needs("qemu-img", "qemu-nbd"));
