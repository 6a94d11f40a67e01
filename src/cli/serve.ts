/**
 * `platter serve`: a disk over NBD, for everything that attaches to one, or over
 * vhost-user, as the virtio disk of a virtual machine.
 *
 * @module
 */

import type { VirtualDisk } from "../disk/disk.ts";
import { DiskError } from "../errors.ts";
import {
  type NbdListenOptions,
  NbdServer,
  type NbdServerOptions,
} from "../nbd/server.ts";
import type { NbdTlsOptions } from "../nbd/tls.ts";
import { NBD_PORT } from "../protocol/nbd/numbers.ts";
import { formatNbdUri, parseNbdUri } from "../protocol/nbd/uri.ts";
import { formatSize } from "../units.ts";
import { SECTOR_BYTES } from "../geometry.ts";
import {
  checkSocketPath,
  VhostServer,
  type VhostServerOptions,
} from "../vhost/server.ts";
import {
  CliError,
  fileError,
  IMAGE_OPTIONS,
  NO_LOCK_OPTION,
} from "./images.ts";
import { type CliIo, print, printError } from "./io.ts";
import {
  LAYER_HELP,
  LAYER_OPTIONS,
  LayeredDisk,
  readLayers,
} from "./layered_disk.ts";
import { QUIET_OPTION } from "./outcome.ts";
import { readText } from "./text_file.ts";
import { ExitCode, UsageError, type Verb, type VerbArguments } from "./verb.ts";

/** The verb. */
export const serve: Verb = {
  name: "serve",
  summary: "Serve a disk: over NBD to qemu, fio …, or to a virtual machine",
  operands: "IMAGE",
  operandCount: [1, 1],
  description:
    "Prints the URI that clients attach to, and serves until Ctrl-C (or a hangup,\n" +
    "or a polite kill), which answers what clients asked for, flushes and leaves,\n" +
    "however long the disk takes; a second Ctrl-C waits for nothing. With --once\n" +
    "the last client to leave ends it like the first Ctrl-C. Listens on 127.0.0.1\n" +
    "unless told otherwise; whoever reaches it may read and write, unless\n" +
    "--tls-client-ca says who. With --tls-cert and --tls-key clients come by TLS\n" +
    "or not at all.\n" +
    "\n" +
    "With --vhost it serves no NBD but one virtual machine at a time, as its virtio\n" +
    "disk (vhost-user): QEMU, Cloud Hypervisor, User Mode Linux. It says how to\n" +
    "attach each of them. What the guest asked for last is done, but not answered\n" +
    "any more: shut the guest down first.\n" +
    "\n" +
    LAYER_HELP,
  options: [
    {
      name: "socket",
      value: "PATH",
      summary: "Listen on a Unix socket, which must not exist yet",
    },
    {
      name: "port",
      value: "NUMBER",
      summary: `Listen on a TCP port (default: ${NBD_PORT}; 0: any)`,
    },
    {
      name: "host",
      value: "ADDRESS",
      summary: "Listen at this address and not at 127.0.0.1",
    },
    {
      name: "vhost",
      value: "PATH",
      summary: "Be a virtio disk, at a new Unix socket (Linux)",
    },
    {
      name: "export",
      value: "NAME",
      summary: "What the export is called (default: nothing)",
    },
    {
      name: "tls-cert",
      value: "FILE",
      summary: "Serve over TLS, with this certificate (PEM)",
    },
    { name: "tls-key", value: "FILE", summary: "The key to it (PEM)" },
    {
      name: "tls-client-ca",
      value: "FILE",
      summary: "Only clients with a certificate from there (PEM)",
    },
    { name: "once", summary: "Leave with the last client" },
    { ...QUIET_OPTION, summary: "Say where it is served, and nothing else" },
    ...LAYER_OPTIONS,
    ...IMAGE_OPTIONS,
    NO_LOCK_OPTION,
  ],
  examples: [
    ["platter serve disk.img --socket /tmp/disk.sock", "For this machine only"],
    [
      'platter serve disk.img --overlay --fault "flush nth=3 error=EIO"',
      "What does my database do when the third flush fails?",
    ],
    [
      "platter serve disk.img --overlay --vhost /tmp/disk.sock",
      "A virtual machine that leaves the image as it is",
    ],
  ],
  exitCodes: [
    [ExitCode.Ok, "stopped, everything flushed"],
    [
      ExitCode.Trouble,
      "wrong usage, or it failed, or trace or figures are not whole",
    ],
    [ExitCode.BrokenPipe, "the same, but nobody reads what it prints"],
  ],
  run,
};

async function run(args: VerbArguments, io: CliIo): Promise<number> {
  const vhostPath = vhostOption(args);
  const listen = listenOptions(args);
  const tls = await tlsOptions(args);
  const path = args.operand(0);
  const layers = await readLayers(args);
  let layered: LayeredDisk;
  // Printing must not hold up the end, nor decide over it.
  let unheard: unknown;
  {
    await using cleanUp = new AsyncDisposableStack();
    layered = await LayeredDisk.open(path, layers, args, io);
    cleanUp.use(layered);
    const { disk } = layered;
    const { readOnly } = layers;

    const stopped = Promise.withResolvers<void>();
    const forget = io.onInterrupt(stopped.resolve);
    cleanUp.defer(forget);
    const once = args.flag("once");
    const onError = (error: Error) => {
      void printError(
        io,
        `platter: a client was sent away: ${error.message}\n`,
      );
    };
    const name = args.value("export") ?? "";
    const served = vhostPath === undefined
      ? overNbd(
        listenAt(listen, {
          once,
          tls,
          exports: [{ disk, name, description: path }],
          onError,
        }),
        path,
        disk,
      )
      : overVhost(
        vhostAt({
          once,
          disk,
          path: vhostPath,
          readOnly,
          onError: (error) => {
            void printError(
              io,
              `platter: the guest is wrong: ${error.message}\n`,
            );
          },
        }),
        path,
        disk,
      );
    const { server } = served;
    cleanUp.use(server);
    print(io.stdout, `${served.name}\n`).catch((error) => unheard = error);
    const quiet = args.flag("quiet");
    if (!quiet) void printError(io, served.hints);
    await Promise.race([stopped.promise, server.finished]);
    if (!quiet) void printError(io, "Stopping\n");
    try {
      await server.close();
    } finally {
      await layered.flush();
    }
  }
  if (unheard !== undefined) throw unheard;
  return layered.notesAreWhole ? ExitCode.Ok : ExitCode.Trouble;
}

/** Begins to listen; errors say where. */
function listenAt(
  listen: NbdListenOptions,
  options: NbdServerOptions,
): NbdServer {
  try {
    return NbdServer.listen({ ...listen, ...options });
  } catch (error) {
    if (error instanceof RangeError || error instanceof TypeError) throw error;
    const inUse = (error as { code?: unknown }).code === "EADDRINUSE";
    if ("path" in listen) {
      throw inUse
        ? nameInUse(listen.path, error)
        : fileError("listen at", listen.path, error);
    }
    const { hostname = "127.0.0.1", port } = listen;
    throw inUse
      ? new CliError(
        `Cannot listen at ${hostname}, port ${port}, as somebody else does: ` +
          `name another --port`,
        { cause: error },
      )
      : new CliError(
        `Cannot listen at ${hostname}, port ${port}, as ${
          (error as Error).message
        }`,
        { cause: error },
      );
  }
}

/** Begins to be a virtio disk; errors say where. */
function vhostAt(options: VhostServerOptions): VhostServer {
  try {
    return VhostServer.listen(options);
  } catch (error) {
    if (!(error instanceof DiskError) || error.kind !== "exists") throw error;
    throw nameInUse(options.path, error);
  }
}

function nameInUse(path: string, cause: unknown): CliError {
  return new CliError(
    `Cannot listen at "${path}" as there is something of that name: ` +
      `remove it if a server that has ended left it behind`,
    { cause },
  );
}

/** A server, and what people are told of it. */
interface Served {
  readonly server: AsyncDisposable & {
    readonly finished: Promise<void>;
    close(): Promise<void>;
  };
  /** What whoever attaches needs. */
  readonly name: string;
  /** How to attach. */
  readonly hints: string;
}

function overNbd(server: NbdServer, path: string, disk: VirtualDisk): Served {
  const uri = server.uri();
  const isSecure = uri.startsWith("nbds");
  const query = `${uri.includes("?") ? "&" : "?"}tls-certificates=DIR`;
  const to = isSecure ? uri + query : uri;
  const hints = `${headline(path, disk, disk.readOnly)}` +
    `${isSecure ? ", with a ca-cert.pem in DIR" : ""}:\n` +
    `  nbdinfo "${to}"\n` +
    // QEMU has TLS, but no URI that says so.
    (isSecure
      ? ""
      : `  qemu-system-x86_64 -drive "file=${to},format=raw,if=virtio"\n`) +
    `  nbdfuse --readonly ./mnt "${to}"\n` +
    `  nbdcopy "${to}" copy.img\n`;
  return { server, name: uri, hints };
}

function overVhost(
  server: VhostServer,
  path: string,
  disk: VirtualDisk,
): Served {
  const { path: name } = server;
  const hints = `${headline(path, disk, server.readOnly)}:\n` +
    `  qemu-system-x86_64 -m 1G -object memory-backend-memfd,id=mem,size=1G,share=on \\\n` +
    `    -numa node,memdev=mem -chardev socket,id=disk,path=${name} \\\n` +
    `    -device vhost-user-blk-pci,chardev=disk …\n` +
    `  cloud-hypervisor --memory size=1G,shared=on \\\n` +
    `    --disk vhost_user=on,socket=${name} …\n` +
    `  linux.uml mem=1G virtio_uml.device=${name}:2 …\n`;
  return { server, name, hints };
}

function headline(path: string, disk: VirtualDisk, readOnly: boolean): string {
  const size = formatSize(disk.sectors * SECTOR_BYTES);
  const notes = readOnly ? ", read-only" : "";
  return `Serving "${path}", ${size}${notes}. Ctrl-C stops. To attach`;
}

/** Options that are NBD's alone. */
const NBD_OPTIONS = [
  "socket",
  "port",
  "host",
  "export",
  "tls-cert",
  "tls-key",
  "tls-client-ca",
];

function vhostOption(args: VerbArguments): string | undefined {
  const path = args.parsed("vhost", checkSocketPath);
  if (path === undefined) return undefined;
  const other = NBD_OPTIONS.find((name) => args.value(name) !== undefined);
  if (other !== undefined) {
    throw new UsageError(
      `Cannot use --vhost with --${other} as that is for NBD`,
    );
  }
  return path;
}

function listenOptions(args: VerbArguments): NbdListenOptions {
  const path = args.parsed("socket", parseSocketPath);
  const port = args.parsed("port", parsePort);
  const hostname = args.value("host");
  if (path !== undefined) {
    if (port !== undefined || hostname !== undefined) {
      throw new UsageError(
        "Cannot use --socket with --port or --host as they say where to listen, too",
      );
    }
    return { path };
  }
  return {
    port: port ?? NBD_PORT,
    ...(hostname === undefined ? {} : { hostname }),
  };
}

async function tlsOptions(
  args: VerbArguments,
): Promise<NbdTlsOptions | undefined> {
  const paths = ["tls-cert", "tls-key", "tls-client-ca"].map((name) =>
    args.value(name)
  );
  const texts: (string | undefined)[] = [];
  for (const path of paths) {
    texts.push(path === undefined ? undefined : await readText(path));
  }
  const [cert, key, clientCa] = texts;
  if (cert !== undefined && key !== undefined) {
    return { cert, key, clientCa };
  }
  if (paths.every((path) => path === undefined)) return undefined;
  throw new UsageError(
    "Cannot serve over TLS as it takes both --tls-cert and --tls-key",
  );
}

/** Takes a path that a socket can have: what clients cannot name is none. */
function parseSocketPath(path: string): string {
  parseNbdUri(
    formatNbdUri({ address: { transport: "unix", path }, exportName: "" }),
  );
  return path;
}

function parsePort(text: string): number {
  const port = Number(text);
  if (/^\d+$/.test(text) && port <= 65_535) return port;
  throw new RangeError(
    `Cannot parse a port as it must be a number up to 65535: current value is "${text}"`,
  );
}
