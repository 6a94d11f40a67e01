/**
 * The contract of every backend, with those that crash tests are made on: the
 * device of a recorder, and the disk of a state.
 *
 * @module
 */

import { ZeroSource } from "../../src/testing/block_source.ts";
import { completeCrashDevice } from "../../src/testing/crash_device.ts";
import { CrashRecorder } from "../../src/testing/crash_recorder.ts";
import { CrashStateBackend } from "../../src/testing/crash_state.ts";
import { contractSuite } from "../contract.ts";

for (const blockSize of [512, 4096]) {
  const device = { sectors: 16_384, blockSize };
  contractSuite(`CrashRecorder, blocks of ${blockSize}`, async () => {
    const recorder = await CrashRecorder.create({ device });
    return {
      backend: recorder.open(),
      reopen: () => Promise.resolve(recorder.open()),
    };
  });
  // What is written to a state goes with its backend.
  contractSuite(
    `CrashStateBackend, blocks of ${blockSize}`,
    () =>
      Promise.resolve({
        backend: new CrashStateBackend(
          new ZeroSource(blockSize),
          completeCrashDevice(device),
        ),
      }),
  );
}
