/**
 * A Windows of the tests' own, over files of this machine: two libraries whose
 * functions do as those of Windows are said to do, to be opened in place of the
 * real ones. What Windows refuses is refused, Wine or not: I/O without a buffer
 * that is not aligned, a second open that the first does not share, a flush
 * without the right to write, a completion where none is due. It also writes down
 * what it was called with.
 *
 * Sources: "File Buffering", "Creating and Opening Files", "Synchronous and
 * Asynchronous I/O", "LockFileEx", "FSCTL_SET_ZERO_DATA",
 * "FSCTL_QUERY_ALLOCATED_RANGES" (Microsoft); `ntifs.h` and `winioctl.h`.
 *
 * @module
 */

import fs from "node:fs";
import type { OpenLibrary } from "../../ffi/foreign/interface.ts";
import { addressOf, alignedMemory, memoryAt } from "../../ffi/memory.ts";
import {
  ACCESS,
  CONTROL,
  FILE_ATTRIBUTE,
  FILE_FLAG,
  FILE_INFORMATION,
  LOCKFILE,
  SHARE,
  STATUS,
  VOLUME_INFORMATION,
} from "../../ffi/windows_abi.ts";

const INVALID_HANDLE = 0xffff_ffff_ffff_ffffn;

/** Bytes that a sparse file is allocated by: those of NTFS. */
const UNIT_BYTES = 65_536;

const ERROR = {
  FILE_NOT_FOUND: 2,
  ACCESS_DENIED: 5,
  SHARING_VIOLATION: 32,
  LOCK_VIOLATION: 33,
} as const;

const INVALID_DEVICE_REQUEST = 0xc000_0010 | 0;
const INVALID_HANDLE_STATUS = 0xc000_0008 | 0;
const MEDIA_WRITE_PROTECTED = 0xc000_00a2 | 0;

/** What there is of a file, whoever has it open. */
interface FileNode {
  sparse: boolean;
  /** Units that are allocated, of a sparse file. */
  readonly units: Set<number>;
  /** Who holds the lock byte, and whether alone. */
  readonly locks: Map<number, boolean>;
}

interface Handle {
  readonly path: string;
  readonly fd: number;
  readonly access: number;
  readonly share: number;
  readonly flags: number;
  readonly key: string;
  readonly node: FileNode;
  readonly device: FakeDevice | null;
  port: Port | null;
  /** Whether I/O may go beyond the end of a volume's file system. */
  extended: boolean;
}

interface Packet {
  readonly context: bigint;
  readonly status: number;
  readonly information: number;
}

interface Port {
  readonly packets: Packet[];
  wake: (() => void) | null;
}

/** A disk, or a volume on one. */
export interface FakeDevice {
  /** A file that has its content. */
  readonly content: string;
  /** The number of the disk that it is, or is on. */
  readonly disk: number;
  /** Whether it is a volume. */
  readonly volume?: boolean;
  /** The status of a volume that does not say what disk it is on. */
  readonly untold?: number;
  /** Where a volume's file system ends, in bytes, if before the volume. */
  readonly fileSystemBytes?: number;
  /** Whether files are open on it. */
  readonly inUse?: boolean;
  /** Whether nothing can be written to it. */
  readonly writeProtected?: boolean;
}

/** How it is to be. */
export interface FakeWindowsOptions {
  /** Bytes of a sector: 512. */
  readonly sector?: number;
  /** The file system's name: NTFS. */
  readonly fileSystem?: string;
  /** Whether files are on another machine. */
  readonly remote?: boolean;
  /** Attributes that all files have. */
  readonly attributes?: number;
  /** Whether a file system zeroes ranges, and tells what is allocated. */
  readonly zeroes?: boolean;
  /** Fails a read or a write with a status. */
  readonly fail?: (name: string, offset: number) => number | undefined;
  /** Holds completions back until it is told to. */
  readonly hold?: boolean;
  /** Devices by path. */
  readonly devices?: Readonly<Record<string, FakeDevice>>;
}

/** One call. */
export interface WindowsCall {
  readonly name: string;
  readonly args: readonly unknown[];
}

/** A fake Windows. */
export class FakeWindows {
  /** Every call but those that only ask, in order. */
  readonly calls: WindowsCall[] = [];
  /** I/O that was refused as it was not aligned. */
  refused = 0;
  /** Libraries that are open. */
  openLibraries = 0;
  readonly #options: FakeWindowsOptions;
  readonly #handles = new Map<number, Handle>();
  readonly #ports = new Map<number, Port>();
  readonly #nodes = new Map<string, FileNode>();
  readonly #memory = new Map<number, Uint8Array>();
  readonly #held: { context: bigint; give: (cancelled: boolean) => void }[] =
    [];
  readonly #begun = new Map<bigint, bigint>();
  #next = 0x100;
  #lastError = 0;
  #searches = 0;
  #portFailure = 0;

  constructor(options: FakeWindowsOptions = {}) {
    this.#options = options;
  }

  /** Handles of files and devices that are open. */
  get openHandles(): number {
    return this.#handles.size;
  }

  /** Pieces of memory that are mapped. */
  get mapped(): number {
    return this.#memory.size;
  }

  /**
   * Opens a file for another program.
   *
   * @returns What closes it.
   */
  openElsewhere(path: string, access: number, share: number): () => void {
    const units = [...path, "\0"].map((c) => c.charCodeAt(0));
    const bytes = new Uint8Array(new Uint16Array(units).buffer);
    const handle = this.CreateFileW(bytes, access, share, 0n, 3, 0);
    return () => {
      this.CloseHandle(handle);
    };
  }

  /** Puts a completion into every port that nothing stands behind. */
  post(context: bigint): void {
    for (const port of this.#ports.values()) {
      this.#queue(port, { context, status: 0, information: 512 });
    }
  }

  /** Nothing comes out of any port from here on. */
  breakPorts(): void {
    this.#portFailure = INVALID_HANDLE_STATUS;
    for (const { wake } of this.#ports.values()) wake?.();
  }

  /** How a path was opened last. */
  flagsOf(path: string): { access: number; share: number; flags: number } {
    return [...this.#handles.values()].findLast((one) => one.path === path)!;
  }

  /** Opens one of its libraries. */
  readonly openLibrary: OpenLibrary = (fileName, symbols) => {
    const here = this as unknown as Record<
      string,
      (...args: unknown[]) => unknown
    >;
    const functions: Record<string, unknown> = {};
    for (const [name, signature] of Object.entries(symbols)) {
      const { nonblocking, parameters } = signature;
      if (typeof here[name] !== "function") {
        throw new Error(`${fileName} has no ${name}`);
      }
      functions[name] = (...args: unknown[]) => {
        if (args.length !== parameters.length) {
          throw new Error(`${name} was given ${args.length} arguments`);
        }
        if (nonblocking) return this.#offThread(name, args as bigint[]);
        return here[name]!.apply(this, args);
      };
    }
    this.openLibraries++;
    return { symbols: functions, close: () => this.openLibraries-- };
  };

  #offThread(name: string, args: bigint[]): Promise<number> {
    if (name === "NtFlushBuffersFile") {
      return new Promise((resolve) =>
        setTimeout(() => resolve(this.NtFlushBuffersFile(args[0]!, args[1]!)))
      );
    }
    if (name === "NtYieldExecution") {
      return new Promise((resolve) => setTimeout(() => resolve(0)));
    }
    const take = () =>
      this.NtRemoveIoCompletionEx(
        ...args as unknown as Parameters<
          FakeWindows["NtRemoveIoCompletionEx"]
        >,
      );
    const port = this.#ports.get(Number(args[0]))!;
    const ticks = view(args[4]!, 8).getBigInt64(0, true);
    if (ticks >= 0n) throw new Error("A timeout from now on is below 0");
    return new Promise((resolve) => {
      const end = () => {
        clearTimeout(timer);
        port.wake = null;
        resolve(take());
      };
      const timer = setTimeout(end, Number(-ticks / 10_000n));
      if (port.packets.length > 0) end();
      else port.wake = end;
    });
  }

  /** Lets go of completions that are held back. */
  release(): void {
    for (const { give } of this.#held.splice(0)) give(false);
  }

  // ---- kernel32.dll ----

  CreateFileW(
    path: Uint8Array<ArrayBuffer>,
    access: number,
    share: number,
    _security: bigint,
    disposition: number,
    flags: number,
  ): bigint {
    const units = new Uint16Array(path.buffer);
    if (units.at(-1) !== 0) throw new Error("The path does not end in NUL");
    if (disposition !== 3) throw new Error("Only what is there is opened");
    const name = String.fromCharCode(...units.subarray(0, -1));
    this.calls.push({
      name: "CreateFileW",
      args: [name, access, share, flags],
    });
    const device = this.#options.devices?.[name] ?? null;
    const file = device?.content ?? name;
    const stat = fs.statSync(file, { bigint: true, throwIfNoEntry: false });
    if (stat === undefined) return this.#fail(ERROR.FILE_NOT_FOUND);
    const key = device === null
      ? `${stat.dev}:${stat.ino}:${stat.birthtimeNs}`
      : name;
    const wants = shareFor(access);
    for (const other of this.#handles.values()) {
      if (other.key !== key) continue;
      const has = shareFor(other.access);
      if ((wants & ~other.share) !== 0 || (has & ~share) !== 0) {
        return this.#fail(ERROR.SHARING_VIOLATION);
      }
    }
    const writes = (access & ACCESS.GENERIC_WRITE) !== 0;
    const fd = fs.openSync(file, writes ? "r+" : "r");
    let node = this.#nodes.get(key);
    if (node === undefined) {
      node = { sparse: false, units: new Set(), locks: new Map() };
      this.#nodes.set(key, node);
    }
    const handle = this.#next += 4;
    this.#handles.set(handle, {
      ...{ path: name, fd, access, share, flags, key, node, device },
      port: null,
      extended: false,
    });
    return BigInt(handle);
  }

  CloseHandle(handle: bigint): number {
    const number = Number(handle);
    this.calls.push({ name: "CloseHandle", args: [number] });
    const found = this.#handles.get(number);
    if (found === undefined) {
      if (!this.#ports.delete(number)) throw new Error("Closed twice");
      return 1;
    }
    found.node.locks.delete(number);
    this.#handles.delete(number);
    fs.closeSync(found.fd);
    return 1;
  }

  GetLastError(): number {
    return this.#lastError;
  }

  #fail(error: number): bigint {
    this.#lastError = error;
    return INVALID_HANDLE;
  }

  CreateIoCompletionPort(
    file: bigint,
    port: bigint,
    key: bigint,
    _threads: number,
  ): bigint {
    const handle = this.#handles.get(Number(file))!;
    if (handle.port !== null || port !== 0n || key !== 0n) {
      throw new Error("A file has one port, of its own");
    }
    if ((handle.flags & FILE_FLAG.OVERLAPPED) === 0) {
      this.#fail(87);
      return 0n;
    }
    const number = this.#next += 4;
    handle.port = { packets: [], wake: null };
    this.#ports.set(number, handle.port);
    return BigInt(number);
  }

  PostQueuedCompletionStatus(
    port: bigint,
    information: number,
    _key: bigint,
    context: bigint,
  ): number {
    this.#queue(this.#ports.get(Number(port))!, {
      ...{ context, status: 0, information },
    });
    return 1;
  }

  #queue(port: Port, packet: Packet): void {
    port.packets.push(packet);
    port.wake?.();
  }

  CreateEventW(): bigint {
    return 0x80n;
  }

  WaitForSingleObject(handle: bigint): number {
    if (handle !== 0x80n) throw new Error("That is no event");
    return 0;
  }

  LockFileEx(
    file: bigint,
    flags: number,
    _reserved: number,
    lengthLow: number,
    lengthHigh: number,
    overlapped: bigint,
  ): number {
    const number = Number(file);
    const { node, fd } = this.#handles.get(number)!;
    const offset = Number(view(overlapped, 32).getBigUint64(16, true));
    if ((flags & LOCKFILE.FAIL_IMMEDIATELY) === 0) throw new Error("It waits");
    if (offset < fs.fstatSync(fd).size || lengthLow !== 1 || lengthHigh !== 0) {
      throw new Error("A lock on content keeps its own handles out");
    }
    const exclusive = (flags & LOCKFILE.EXCLUSIVE_LOCK) !== 0;
    const others = [...node.locks.values()];
    if (others.some((other) => other || exclusive)) {
      this.#fail(ERROR.LOCK_VIOLATION);
      return 0;
    }
    node.locks.set(number, exclusive);
    return 1;
  }

  VirtualAlloc(_address: bigint, length: bigint): bigint {
    const memory = alignedMemory(Number(length), 4096);
    const address = addressOf(memory);
    this.#memory.set(address, memory);
    return BigInt(address);
  }

  VirtualFree(address: bigint): number {
    if (!this.#memory.delete(Number(address))) throw new Error("Freed twice");
    return 1;
  }

  FindFirstVolumeW(name: bigint, characters: number): bigint {
    this.#searches = 0;
    return this.FindNextVolumeW(0n, name, characters) === 0
      ? INVALID_HANDLE
      : 0x90n;
  }

  FindNextVolumeW(_search: bigint, name: bigint, characters: number): number {
    const volumes = Object.entries(this.#options.devices ?? {})
      .filter(([, { volume }]) => volume);
    const found = volumes[this.#searches++];
    if (found === undefined) return 0;
    const units = new Uint16Array(memoryAt(Number(name), characters * 2));
    [...`${found[0]}\\\0`].forEach((c, i) => units[i] = c.charCodeAt(0));
    return 1;
  }

  FindVolumeClose(): number {
    return 1;
  }

  // ---- ntdll.dll ----

  NtReadFile(...args: TransferArgs): number {
    return this.#transfer("NtReadFile", args);
  }

  NtWriteFile(...args: TransferArgs): number {
    return this.#transfer("NtWriteFile", args);
  }

  #transfer(name: "NtReadFile" | "NtWriteFile", args: TransferArgs): number {
    const [file, event, , context, statusBlock, buffer, , at] = args;
    const { fd, flags, access, node, device, extended } = this.#handles.get(
      Number(file),
    )!;
    const offset = Number(view(at, 8).getBigInt64(0, true));
    this.calls.push({ name, args: [Number(file), offset, args[6]] });
    // As in FatCommonRead of Microsoft's FASTFAT: cut where it ends.
    const fileSystemEnd = extended
      ? Infinity
      : device?.fileSystemBytes ?? Infinity;
    const length = Math.min(args[6], Math.max(0, fileSystemEnd - offset));
    const { sector = 512 } = this.#options;
    const isWhole = (value: number) => value % sector === 0;
    const unbuffered = (flags & FILE_FLAG.NO_BUFFERING) !== 0;
    if (unbuffered || device !== null) {
      const memory = unbuffered ? Number(buffer) : 0;
      if (![offset, length, memory].every(isWhole)) {
        this.refused++;
        return STATUS.INVALID_PARAMETER;
      }
    }
    const failure = this.#options.fail?.(name, offset);
    if (failure !== undefined && failure >>> 30 === 3) return failure;
    const bytes = new Uint8Array(memoryAt(Number(buffer), length));
    const carryOut = (): [status: number, information: number] => {
      if (failure !== undefined) return [failure, 0];
      if (offset >= fileSystemEnd) return [STATUS.END_OF_FILE, 0];
      if (name === "NtReadFile") {
        const count = fs.readSync(fd, bytes, 0, length, offset);
        return count === 0 && length > 0
          ? [STATUS.END_OF_FILE, 0]
          : [STATUS.SUCCESS, count];
      }
      if ((access & ACCESS.GENERIC_WRITE) === 0) {
        return [STATUS.ACCESS_DENIED, 0];
      }
      for (let done = 0; done < length;) {
        done += fs.writeSync(fd, bytes, done, length - done, offset + done);
      }
      for (
        let unit = Math.floor(offset / UNIT_BYTES);
        unit * UNIT_BYTES < offset + length;
        unit++
      ) node.units.add(unit);
      return [STATUS.SUCCESS, length];
    };
    return this.#complete(file, event, context, statusBlock, carryOut);
  }

  /** Ends what was begun: at once, or through the port or at the event. */
  #complete(
    file: bigint,
    event: bigint,
    context: bigint,
    statusBlock: bigint,
    carryOut: () => [status: number, information: number],
  ): number {
    const { port, flags } = this.#handles.get(Number(file))!;
    const write = (status: number, information: number) => {
      const block = view(statusBlock, 16);
      block.setInt32(0, status, true);
      block.setBigUint64(8, BigInt(information), true);
    };
    if ((flags & FILE_FLAG.OVERLAPPED) === 0 || context === 0n) {
      const [status, information] = carryOut();
      if ((flags & FILE_FLAG.OVERLAPPED) !== 0 && event === 0n) {
        throw new Error("It is not to be known when this is over");
      }
      write(status, information);
      return event !== 0n && (flags & FILE_FLAG.OVERLAPPED) !== 0
        ? STATUS.PENDING
        : status;
    }
    if (port === null) throw new Error("A context without a port");
    const give = (cancelled: boolean) => {
      this.#begun.delete(statusBlock);
      const [status, information] = cancelled
        ? [STATUS.CANCELLED, 0]
        : carryOut();
      this.#queue(port, { context, status, information });
    };
    this.#begun.set(statusBlock, context);
    if (this.#options.hold) this.#held.push({ context, give });
    else if (context % 3n === 0n) give(false);
    else if (context % 3n === 1n) setImmediate(() => give(false));
    else setTimeout(() => give(false));
    return STATUS.PENDING;
  }

  NtCancelIoFileEx(_file: bigint, statusBlock: bigint): number {
    const context = this.#begun.get(statusBlock);
    const at = this.#held.findIndex((one) => one.context === context);
    if (at >= 0) this.#held.splice(at, 1)[0]!.give(true);
    return 0;
  }

  NtFlushBuffersFile(file: bigint, _statusBlock: bigint): number {
    const { access, fd } = this.#handles.get(Number(file))!;
    this.calls.push({ name: "NtFlushBuffersFile", args: [Number(file)] });
    if ((access & ACCESS.GENERIC_WRITE) === 0) return STATUS.ACCESS_DENIED;
    const failure = this.#options.fail?.("NtFlushBuffersFile", 0);
    if (failure !== undefined) return failure;
    fs.fsyncSync(fd);
    return 0;
  }

  NtFsControlFile(...args: ControlArgs): number {
    const [file, event, , context, block, code, input, , output, size] = args;
    const handle = this.#handles.get(Number(file))!;
    const { node, fd, device } = handle;
    const done = (status: number, information = 0) =>
      this.#complete(file, event, context, block, () => [status, information]);
    const { zeroes = true } = this.#options;
    switch (code) {
      case CONTROL.FSCTL_SET_SPARSE:
        if (!zeroes) return INVALID_DEVICE_REQUEST;
        this.calls.push({ name: "FSCTL_SET_SPARSE", args: [Number(file)] });
        if (!node.sparse) {
          const units = Math.ceil(fs.fstatSync(fd).size / UNIT_BYTES);
          for (let unit = 0; unit < units; unit++) node.units.add(unit);
        }
        node.sparse = true;
        return done(0);
      case CONTROL.FSCTL_SET_ZERO_DATA: {
        if (!zeroes) return INVALID_DEVICE_REQUEST;
        const from = Number(view(input, 16).getBigInt64(0, true));
        const to = Number(view(input, 16).getBigInt64(8, true));
        this.calls.push({ name: "FSCTL_SET_ZERO_DATA", args: [from, to] });
        return this.#complete(file, event, context, block, () => {
          const end = Math.min(to, fs.fstatSync(fd).size);
          if (end > from) {
            fs.writeSync(fd, new Uint8Array(end - from), 0, end - from, from);
          }
          for (
            let unit = Math.ceil(from / UNIT_BYTES);
            node.sparse && (unit + 1) * UNIT_BYTES <= to;
            unit++
          ) node.units.delete(unit);
          return [0, 0];
        });
      }
      case CONTROL.FSCTL_QUERY_ALLOCATED_RANGES: {
        if (!zeroes) return INVALID_DEVICE_REQUEST;
        const from = Number(view(input, 16).getBigInt64(0, true));
        const to = Math.min(
          from + Number(view(input, 16).getBigInt64(8, true)),
          fs.fstatSync(fd).size,
        );
        const ranges = rangesOf(node, from, to);
        const most = Math.floor(size / 16);
        ranges.slice(0, most).forEach(([start, length], i) => {
          view(output, size).setBigInt64(i * 16, BigInt(start), true);
          view(output, size).setBigInt64(i * 16 + 8, BigInt(length), true);
        });
        const count = Math.min(ranges.length, most);
        return done(
          ranges.length > most ? STATUS.BUFFER_OVERFLOW : 0,
          count * 16,
        );
      }
      case CONTROL.FSCTL_LOCK_VOLUME:
        this.calls.push({ name: "FSCTL_LOCK_VOLUME", args: [handle.path] });
        return device?.inUse ? STATUS.ACCESS_DENIED : done(0);
      case CONTROL.FSCTL_DISMOUNT_VOLUME:
        this.calls.push({ name: "FSCTL_DISMOUNT_VOLUME", args: [handle.path] });
        return done(0);
      case CONTROL.FSCTL_ALLOW_EXTENDED_DASD_IO:
        if (!device?.volume) return INVALID_DEVICE_REQUEST;
        handle.extended = true;
        return done(0);
      default:
        return INVALID_DEVICE_REQUEST;
    }
  }

  NtDeviceIoControlFile(...args: ControlArgs): number {
    const [file, event, , context, block, code, input, , output, size] = args;
    const { device, fd } = this.#handles.get(Number(file))!;
    if (device === null) return INVALID_DEVICE_REQUEST;
    const { sector = 512 } = this.#options;
    const answer = (bytes: number, fill: (out: DataView) => void) => {
      fill(view(output, size));
      return this.#complete(
        ...[file, event, context, block] as const,
        () => [0, bytes],
      );
    };
    switch (code) {
      case CONTROL.IOCTL_DISK_IS_WRITABLE:
        return device.writeProtected
          ? MEDIA_WRITE_PROTECTED
          : this.#complete(file, event, context, block, () => [0, 0]);
      case CONTROL.IOCTL_DISK_GET_LENGTH_INFO:
        return answer(
          8,
          (out) => out.setBigInt64(0, BigInt(fs.fstatSync(fd).size), true),
        );
      case CONTROL.IOCTL_STORAGE_QUERY_PROPERTY:
        if (view(input, 8).getUint32(0, true) !== 6) return -1;
        return answer(28, (out) => {
          out.setUint32(16, sector, true);
          out.setUint32(20, 4096, true);
        });
      case CONTROL.IOCTL_STORAGE_GET_DEVICE_NUMBER:
        return answer(12, (out) => out.setUint32(4, device.disk, true));
      case CONTROL.IOCTL_VOLUME_GET_VOLUME_DISK_EXTENTS:
        if (device.untold !== undefined) return device.untold;
        return answer(32, (out) => {
          out.setUint32(0, 1, true);
          out.setUint32(8, device.disk, true);
        });
      default:
        return INVALID_DEVICE_REQUEST;
    }
  }

  NtQueryInformationFile(
    file: bigint,
    _statusBlock: bigint,
    information: bigint,
    length: number,
    informationClass: number,
  ): number {
    const { fd, node } = this.#handles.get(Number(file))!;
    const out = view(information, length);
    const { size, ino } = fs.fstatSync(fd, { bigint: true });
    switch (informationClass) {
      case FILE_INFORMATION.Basic:
        out.setUint32(
          32,
          (this.#options.attributes ?? 0) |
            (node.sparse ? FILE_ATTRIBUTE.SPARSE_FILE : 0),
          true,
        );
        return 0;
      case FILE_INFORMATION.Standard: {
        const allocated = node.sparse
          ? BigInt(node.units.size * UNIT_BYTES)
          : size;
        out.setBigInt64(0, allocated, true);
        out.setBigInt64(8, size, true);
        return 0;
      }
      case FILE_INFORMATION.Internal:
        out.setBigUint64(0, ino, true);
        return 0;
      case FILE_INFORMATION.Alignment:
        out.setUint32(0, 1, true);
        return 0;
      default:
        return STATUS.INVALID_PARAMETER;
    }
  }

  NtSetInformationFile(
    file: bigint,
    _statusBlock: bigint,
    information: bigint,
    length: number,
    informationClass: number,
  ): number {
    const { fd, access } = this.#handles.get(Number(file))!;
    if (informationClass !== FILE_INFORMATION.EndOfFile || length !== 8) {
      return STATUS.INVALID_PARAMETER;
    }
    if ((access & ACCESS.GENERIC_WRITE) === 0) return STATUS.ACCESS_DENIED;
    fs.ftruncateSync(fd, Number(view(information, 8).getBigInt64(0, true)));
    return 0;
  }

  NtQueryVolumeInformationFile(
    file: bigint,
    _statusBlock: bigint,
    information: bigint,
    length: number,
    informationClass: number,
  ): number {
    const { fd } = this.#handles.get(Number(file))!;
    const out = view(information, length);
    const { sector = 512, fileSystem = "NTFS", remote } = this.#options;
    switch (informationClass) {
      case VOLUME_INFORMATION.Volume: {
        const { dev } = fs.fstatSync(fd, { bigint: true });
        out.setUint32(8, Number(BigInt.asUintN(32, dev)), true);
        return 0;
      }
      case VOLUME_INFORMATION.Device:
        out.setUint32(4, remote ? 0x10 : 0x20, true);
        return 0;
      case VOLUME_INFORMATION.Attribute:
        out.setUint32(8, fileSystem.length * 2, true);
        [...fileSystem].forEach((c, i) =>
          out.setUint16(12 + i * 2, c.charCodeAt(0), true)
        );
        return 0;
      case VOLUME_INFORMATION.SectorSize:
        out.setUint32(0, sector, true);
        out.setUint32(8, 4096, true);
        return 0;
      default:
        return STATUS.INVALID_PARAMETER;
    }
  }

  NtRemoveIoCompletionEx(
    port: bigint,
    entries: bigint,
    count: number,
    removed: bigint,
    _timeout: bigint,
    _alertable: number,
  ): number {
    if (this.#portFailure !== 0) return this.#portFailure;
    const { packets } = this.#ports.get(Number(port))!;
    const taken = packets.splice(0, count);
    // As Wine does it: what a call that fails says counts for nothing.
    view(removed, 4).setUint32(0, Math.max(taken.length, 1), true);
    taken.forEach(({ context, status, information }, i) => {
      const entry = view(entries + BigInt(i * 32), 32);
      entry.setBigUint64(8, context, true);
      entry.setInt32(16, status, true);
      entry.setBigUint64(24, BigInt(information), true);
    });
    return taken.length === 0 ? STATUS.TIMEOUT : STATUS.SUCCESS;
  }

  NtYieldExecution(): number {
    return 0;
  }
}

type TransferArgs = [
  file: bigint,
  event: bigint,
  apc: bigint,
  context: bigint,
  statusBlock: bigint,
  buffer: bigint,
  length: number,
  offset: bigint,
  key: bigint,
];

type ControlArgs = [
  file: bigint,
  event: bigint,
  apc: bigint,
  context: bigint,
  statusBlock: bigint,
  code: number,
  input: bigint,
  inputLength: number,
  output: bigint,
  outputLength: number,
];

function view(address: bigint, byteLength: number): DataView {
  if (address === 0n) return new DataView(new ArrayBuffer(byteLength));
  return new DataView(memoryAt(Number(address), byteLength));
}

/** What others must share for that access. */
function shareFor(access: number): number {
  return ((access & ACCESS.GENERIC_READ) !== 0 ? SHARE.READ : 0) |
    ((access & ACCESS.GENERIC_WRITE) !== 0 ? SHARE.WRITE : 0);
}

/** What is allocated of a range, as `[offset, length]`. */
function rangesOf(
  { sparse, units }: FileNode,
  from: number,
  to: number,
): [number, number][] {
  if (!sparse) return [[from, to - from]];
  const found: [number, number][] = [];
  for (
    let unit = Math.floor(from / UNIT_BYTES);
    unit * UNIT_BYTES < to;
    unit++
  ) {
    if (!units.has(unit)) continue;
    const start = Math.max(unit * UNIT_BYTES, from);
    const end = Math.min((unit + 1) * UNIT_BYTES, to);
    const last = found.at(-1);
    if (last !== undefined && last[0] + last[1] === start) {
      last[1] += end - start;
    } else found.push([start, end - start]);
  }
  return found;
}
