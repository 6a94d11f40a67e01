/**
 * A library that records what it is called with, in place of a system's own.
 *
 * @module
 */

import { type Abi, abiFor } from "../../ffi/abi.ts";
import { Libc } from "../../ffi/libc.ts";
import { openLibcFunctions } from "../../ffi/library.ts";

/** One call: which function, with what. */
export interface RecordedCall {
  /** Name of the C function. */
  name: string;
  /** Arguments as they were passed, padding and all. */
  args: unknown[];
}

/** What a fake answers with, for each function; 0 unless given. */
export type Answers = Record<string, (...args: unknown[]) => number | bigint>;

/** A libc over a fake library. */
export interface FakeLibc {
  /** The libc. */
  libc: Libc;
  /** Its constants. */
  abi: Abi;
  /** The signatures that were asked for. */
  symbols: Record<string, Deno.ForeignFunction>;
  /** The file names that were tried. */
  fileNames: string[];
  /** Every call, in order. */
  calls: RecordedCall[];
  /** Whether the library was closed. */
  closed: () => boolean;
  /** Sets errno. */
  setErrno: (errno: number) => void;
}

/** Opens a fake library of a system. */
export function fakeLibc(
  os: string,
  arch: string,
  answers: Answers = {},
  missing: string[] = [],
): FakeLibc {
  const abi = abiFor(os, arch)!;
  const errno = new Int32Array(new ArrayBuffer(4));
  const calls: RecordedCall[] = [];
  const fileNames: string[] = [];
  let symbols: Record<string, Deno.ForeignFunction> = {};
  let closed = false;
  const functions = openLibcFunctions(abi, (fileName, asked) => {
    fileNames.push(fileName);
    symbols = asked as Record<string, Deno.ForeignFunction>;
    const bound: Record<string, unknown> = {};
    for (const [key, symbol] of Object.entries(symbols)) {
      const name = symbol.name ?? key;
      bound[key] = missing.includes(name) ? null : (...args: unknown[]) => {
        if (key === "errnoLocation") {
          return Deno.UnsafePointer.value(Deno.UnsafePointer.of(errno));
        }
        // A buffer may be changed afterwards.
        calls.push({
          name,
          args: args.map((arg) =>
            arg instanceof Uint8Array ? arg.slice() : arg
          ),
        });
        const answer = answers[name]?.(...args) ?? 0;
        return symbol.result === "i64" ? BigInt(answer) : Number(answer);
      };
    }
    return { symbols: bound, close: () => closed = true };
  });
  return {
    libc: new Libc(abi, functions),
    abi,
    symbols,
    fileNames,
    calls,
    closed: () => closed,
    setErrno: (value) => errno[0] = value,
  };
}
