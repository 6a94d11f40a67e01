/**
 * A disk that is resized while a driver is attached, without a guest.
 *
 * @module
 */

import { assert, assertEquals } from "@std/assert";
import { SocketPair } from "../../ffi/socket_pair.ts";
import { VirtualDisk } from "../../src/disk/disk.ts";
import { readRequest, writeRequest } from "../../src/request.ts";
import { VhostServer } from "../../src/vhost/mod.ts";
import { carryOut, readSectors, submitAll } from "../contract.ts";
import { pause, tempDir } from "../helpers.ts";
import { VhostDriver } from "./driver.ts";
import { BackMessage, Message, ProtocolFeature, u64 } from "./messages.ts";

const ignore = Deno.build.os !== "linux";

Deno.test("VhostServer tells its driver of a new size, and serves it", {
  ignore,
}, async () => {
  await using dir = await tempDir();
  await using disk = VirtualDisk.memory({ sectors: 4096 });
  await using server = VhostServer.listen({
    path: dir.join("disk.sock"),
    disk,
  });
  const driver = await VhostDriver.connect(server.path);
  const { kernel, frontEnd } = driver;
  const pair = SocketPair.open(kernel.libc);
  assert(typeof pair !== "number");
  frontEnd.tell(
    Message.SetProtocolFeatures,
    u64(driver.protocolFeatures | 1n << BigInt(ProtocolFeature.BackendReq)),
  );
  frontEnd.tell(Message.SetBackendReqFd, new Uint8Array(0), [pair.otherFd]);
  kernel.libc.close(pair.otherFd);
  await frontEnd.settled();
  const told = async () => {
    for (;;) {
      const received = kernel.receive(pair.fd, 64);
      if (received !== null) {
        return new DataView(received.bytes.buffer).getUint32(0, true);
      }
      await pause(1);
    }
  };
  const end = () => readRequest(6143, new Uint8Array(512));
  try {
    assertEquals(driver.config.capacity, 4096);
    await disk.resize(6144);
    assertEquals(await told(), BackMessage.ConfigChange);
    // The driver refuses by itself what its configuration space does not have.
    assertEquals((await driver.readConfig()).capacity, 6144);
    await carryOut(driver, writeRequest(6143, new Uint8Array(512).fill(7)));
    assertEquals((await readSectors(driver, 6143, 1))[0], 7);
    assertEquals((await disk.read(6143, 1))[0], 7);
    await disk.resize(4096, { force: true });
    assertEquals(await told(), BackMessage.ConfigChange);
    // One that has not looked yet gets an error, and nothing else.
    const [error] = await submitAll(driver, [end()]);
    assertEquals(error?.kind, "io");
    assertEquals((await driver.readConfig()).capacity, 4096);
    await carryOut(driver, readRequest(4095, new Uint8Array(512)));
  } finally {
    await driver.close();
    pair.close();
  }
});
