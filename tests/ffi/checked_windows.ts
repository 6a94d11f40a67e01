/**
 * The real libraries of Windows, or Wine's, with a check in front: I/O without a
 * buffer that is not aligned is refused, as Windows refuses it and Wine does not.
 *
 * @module
 */

import type { OpenLibrary } from "../../ffi/foreign/interface.ts";
import { memoryAt } from "../../ffi/memory.ts";
import { FILE_FLAG, STATUS } from "../../ffi/windows_abi.ts";
import { foreign } from "../../ffi/foreign/mod.ts";

/** What was checked. */
export interface Checked {
  /** Opens the libraries. */
  readonly openLibrary: OpenLibrary;
  /** Reads and writes without a buffer. */
  direct: number;
  /** Those of them that were refused. */
  refused: number;
}

type Call = (...args: (bigint | number | Uint8Array)[]) => bigint | number;

/**
 * Puts the check in front of the real libraries.
 *
 * @param sector What offsets, lengths and addresses must be multiples of.
 */
export function checkedWindows(sector: number): Checked {
  const unbuffered = new Set<bigint>();
  const checked = {
    direct: 0,
    refused: 0,
    openLibrary: ((fileName, symbols) => {
      const library = foreign().openLibrary(fileName, symbols);
      const real = library.symbols as Record<string, Call>;
      const inFront: Record<string, Call> = {
        CreateFileW(...args) {
          const handle = real.CreateFileW!(...args);
          const isDirect = (Number(args[5]) & FILE_FLAG.NO_BUFFERING) !== 0;
          if (isDirect) unbuffered.add(handle as bigint);
          return handle;
        },
        CloseHandle(handle) {
          unbuffered.delete(handle as bigint);
          return real.CloseHandle!(handle!);
        },
      };
      for (const name of ["NtReadFile", "NtWriteFile"]) {
        inFront[name] = (...args) => {
          if (unbuffered.has(args[0] as bigint)) {
            checked.direct++;
            const offset = new BigInt64Array(memoryAt(Number(args[7]), 8))[0]!;
            if (
              [offset, args[6], args[5]].some((value) =>
                Number(value) % sector !== 0
              )
            ) {
              checked.refused++;
              return STATUS.INVALID_PARAMETER;
            }
          }
          return real[name]!(...args);
        };
      }
      const kept = Object.entries(inFront).filter(([name]) => name in real);
      return {
        symbols: { ...real, ...Object.fromEntries(kept) },
        close: () => library.close(),
      };
    }) as OpenLibrary,
  };
  return checked;
}
