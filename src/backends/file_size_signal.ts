/**
 * Keeps a limit on the size of files (`ulimit -f`, RLIMIT_FSIZE) from ending the
 * program. Linux and the BSDs send SIGXFSZ to a thread that writes beyond it, and
 * that ends a process without a handler for the signal; with a listener, the call
 * fails with EFBIG like any other (setrlimit(2)).
 *
 * So there is a listener, which does nothing, while this thread has a disk open
 * for writing. It is Deno's own kind: it needs no permission and no FFI, keeps no
 * program running, changes nothing for programs that this one starts, and leaves
 * listeners of others alone.
 *
 * Deno handles a signal a little later, on another thread, and ends the process
 * if there is no listener any more by then. So after EFBIG the listener stays
 * until the signal has come.
 *
 * @module
 */

import { listen, unlisten } from "../platform/signals.ts";
import { os } from "../platform/system.ts";

/** The longest wait for a pending signal, in ms. */
const LATE_MS = 250;

let disks = 0;
/** Since a call failed with EFBIG, until the signal has come. */
let expected = false;
let onSignal: (() => void) | null = null;

const listener = () => {
  expected = false;
  onSignal?.();
};

/** A share in the listener. */
export interface SignalListener {
  /**
   * Gives it back.
   *
   * @returns When it is done; never rejects.
   */
  release(): Promise<void>;
}

/** Takes note that a call failed with EFBIG: the signal is pending. */
export function expectFileSizeSignal(): void {
  expected = disks > 0;
}

/**
 * Begins to listen, unless this thread does already.
 *
 * @returns A share in the listener.
 */
export function listenForFileSizeSignal(): SignalListener {
  // Windows has no such limit.
  if (os === "windows") return { release: () => Promise.resolve() };
  if (disks++ === 0) listen("SIGXFSZ", listener);
  let held = true;
  return {
    async release() {
      if (!held) return;
      held = false;
      if (disks === 1 && expected) await signalOrLate();
      if (--disks > 0) return;
      expected = false;
      unlisten("SIGXFSZ", listener);
    },
  };
}

function signalOrLate(): Promise<void> {
  return new Promise((resolve) => {
    const end = () => {
      clearTimeout(timer);
      onSignal = null;
      resolve();
    };
    // A thread of the kernel that writes in our place gets no signal.
    const timer = setTimeout(end, LATE_MS);
    onSignal = end;
  });
}
