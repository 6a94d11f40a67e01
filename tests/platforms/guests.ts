/**
 * Guests under QEMU with kernels of Debian, and their file systems and disks.
 *
 * @module
 */

import {
  findProgram,
  ProgramError,
  runProgram,
} from "../../src/crash/programs.ts";
import { type GuestDisk, startMachine } from "./machine.ts";
import {
  arm64Deno,
  debianKernel,
  debianRoot,
  type Kernel,
  type Suite,
} from "./packages.ts";
import { Missing, type Platform, type Run, runPlaces } from "./platform.ts";
import { zfsFor } from "./zfs.ts";
import {
  byShell,
  EVERYWHERE,
  type Place,
  type Shell,
  type SuiteName,
  WHOLE,
} from "./suites.ts";

const MIB = 1 << 20;

/** The repository. */
export const REPOSITORY = new URL("../../", import.meta.url).pathname
  .replace(/\/$/, "");

/** Where images go, and what has to be done before. */
interface GuestPlace {
  /** Its disk, if it needs one: how it is made, and what it says of itself. */
  readonly disk?: {
    readonly mebibytes: number;
    readonly make?: readonly [string, ...string[]];
    readonly blockSize?: number;
    readonly writeCache?: boolean;
  };
  /**
   * Modules of kernels: also what these ask for by name, which is no dependency.
   */
  readonly modules?: readonly string[];
  /**
   * Lines of a shell that lead to a folder, `$1`, from a device, `$2`; `$zpool` is
   * that program.
   */
  readonly setUp?: string;
  /** Programs of this machine that those use. */
  readonly programs?: readonly string[];
}

const mounted = (type: string, options = "") =>
  `mount -t ${type} ${options} $2 $1`;

/** A small file system to serve from, or to lay below. */
const EXT4 = ["mkfs.ext4", "-q", "-F"] as const;

/** The modules of ext4. */
const EXT4_MODULES = ["crc32c_generic", "crc32c_intel", "ext4"];

const XFS_MODULES = ["crc32c_generic", "crc32c_intel", "xfs"];

const PLACES: Readonly<Record<string, GuestPlace>> = {
  ext4: {
    disk: { mebibytes: 256, make: EXT4 },
    modules: EXT4_MODULES,
    setUp: mounted("ext4"),
  },
  // The smallest one is of 300 MiB.
  xfs: {
    disk: { mebibytes: 320, make: ["mkfs.xfs", "-q", "-f"] },
    modules: XFS_MODULES,
    setUp: mounted("xfs"),
  },
  btrfs: {
    disk: { mebibytes: 256, make: ["mkfs.btrfs", "-q", "-f"] },
    modules: [
      ...["crc32c_generic", "crc32c_intel", "xxhash_generic"],
      ...["blake2b_generic", "sha256_generic", "btrfs"],
    ],
    setUp: mounted("btrfs"),
  },
  vfat: {
    disk: { mebibytes: 128, make: ["mkfs.vfat", "-F", "32"] },
    modules: ["vfat", "nls_cp437", "nls_ascii", "nls_iso8859_1"],
    setUp: mounted("vfat"),
  },
  tmpfs: { setUp: "mount -t tmpfs memory $1" },
  overlay: {
    disk: { mebibytes: 256, make: EXT4 },
    modules: [...EXT4_MODULES, "overlay"],
    setUp: `mkdir $1.below && mount -t ext4 $2 $1.below &&
mkdir $1.below/upper $1.below/work $1.below/lower &&
mount -t overlay -o lowerdir=$1.below/lower,upperdir=$1.below/upper,workdir=$1.below/work overlay $1`,
  },
  "9p": { setUp: "mount --bind /tmp/share $1" },
  nfs: {
    disk: { mebibytes: 256, make: EXT4 },
    modules: [...EXT4_MODULES, "nfsd", "nfsv4"],
    programs: ["rpc.nfsd", "rpc.mountd", "exportfs"],
    setUp: `mkdir /tmp/exported && mount -t ext4 $2 /tmp/exported &&
mount -t tmpfs memory /run && mount -t tmpfs memory /var/lib/nfs &&
touch /var/lib/nfs/etab /var/lib/nfs/rmtab && mkdir /var/lib/nfs/v4recovery &&
# The third version would need a portmapper.
mount -t nfsd nfsd /proc/fs/nfsd &&
exportfs -i -o rw,no_root_squash,insecure,no_subtree_check,fsid=0 127.0.0.1:/tmp/exported &&
rpc.mountd --no-nfs-version 3 && rpc.nfsd --no-nfs-version 3 4 &&
mount -i -t nfs4 -o addr=127.0.0.1,clientaddr=127.0.0.1,vers=4.2 127.0.0.1:/ $1`,
  },
  smb: {
    disk: { mebibytes: 256, make: EXT4 },
    modules: [
      ...[...EXT4_MODULES, "md4", "md5", "hmac", "cmac", "ccm", "gcm", "ctr"],
      ...[
        "aes_generic",
        "aes_x86_64",
        "sha256_generic",
        "sha512_generic",
        "ecb",
      ],
      ...["ghash_generic", "seqiv", "des_generic", "nls_utf8", "cifs"],
    ],
    programs: ["smbd", "mount.cifs"],
    setUp: `mkdir -p /tmp/shared /tmp/samba && mount -t ext4 $2 /tmp/shared &&
cat >/tmp/smb.conf <<END
[global]
map to guest = Bad User
guest account = root
disable netbios = yes
smb ports = 445
load printers = no
private dir = /tmp/samba
lock directory = /tmp/samba
state directory = /tmp/samba
cache directory = /tmp/samba
pid directory = /tmp/samba
ncalrpc dir = /tmp/samba/ncalrpc
log file = /tmp/samba/log
[shared]
path = /tmp/shared
guest ok = yes
read only = no
force user = root
END
smbd --configfile=/tmp/smb.conf --daemon </dev/null >/dev/null 2>&1
for i in 1 2 3 4 5 6; do
  mount -t cifs -o guest,vers=3.1.1 //127.0.0.1/shared $1 && break
  sleep 2
done
mountpoint -q $1`,
  },
  // Of a whole disk it would make partitions, and wait for udev.
  zfs: {
    disk: {
      mebibytes: 256,
      make: ["sh", "-c", 'echo 2048 | sfdisk --quiet "$0"'],
    },
    modules: ["zlib_deflate", "zlib_inflate"],
    programs: ["make"],
    setUp: "$zpool create -f -o cachefile=none -m $1 pool ${2}1",
  },
  device: { disk: { mebibytes: 16 } },
  "4Kn": { disk: { mebibytes: 16, blockSize: 4096 } },
  "4Kn-ext4": {
    disk: {
      mebibytes: 256,
      make: [...EXT4, "-b", "4096"],
      blockSize: 4096,
    },
    modules: EXT4_MODULES,
    setUp: mounted("ext4"),
  },
  "4Kn-xfs": {
    disk: {
      mebibytes: 320,
      make: ["mkfs.xfs", "-q", "-f", "-s", "size=4096"],
      blockSize: 4096,
    },
    modules: XFS_MODULES,
    setUp: mounted("xfs"),
  },
  "no-cache": { disk: { mebibytes: 16, writeCache: false } },
};

/** A kernel, and what is run on it. */
interface GuestKind {
  readonly suite: Suite;
  readonly flavour: string;
  /** Places, and what they run if that is not {@linkcode EVERYWHERE}. */
  readonly places: Readonly<Record<string, readonly SuiteName[]>>;
}

const some = (...names: string[]) =>
  Object.fromEntries(names.map((name) => [name, EVERYWHERE]));

const FILE_SYSTEMS = ["xfs", "btrfs", "vfat", "overlay", "9p", "tmpfs"];

const DISKS = ["device", "4Kn", "4Kn-ext4", "4Kn-xfs", "no-cache"];

/** Programs of this processor are not in the root of another one. */
const ARM64: readonly SuiteName[] = [...EVERYWHERE, "probe", "ffi"];

const KINDS: Readonly<Record<string, GuestKind>> = {
  "5.10": {
    suite: { release: "bullseye", architecture: "amd64" },
    flavour: "amd64",
    places: { ext4: WHOLE, ...some(...FILE_SYSTEMS, ...DISKS) },
  },
  "6.1": {
    suite: { release: "bookworm", architecture: "amd64" },
    flavour: "amd64",
    places: {
      ext4: WHOLE,
      ...some(...FILE_SYSTEMS, "nfs", "smb", "zfs", ...DISKS),
    },
  },
  "6.12": {
    suite: { release: "trixie", architecture: "amd64" },
    flavour: "amd64",
    places: { ext4: WHOLE, ...some(...FILE_SYSTEMS, "nfs", "smb", ...DISKS) },
  },
  "7.2": {
    suite: { release: "forky", architecture: "amd64" },
    flavour: "amd64",
    places: { ext4: WHOLE, ...some(...FILE_SYSTEMS, "nfs", "smb", ...DISKS) },
  },
  "arm64": {
    suite: { release: "trixie", architecture: "arm64" },
    flavour: "arm64",
    places: { ext4: ARM64, ...some("xfs", "btrfs", "tmpfs", "device", "4Kn") },
  },
  "arm64-16k": {
    suite: { release: "trixie", architecture: "arm64" },
    flavour: "arm64-16k",
    places: { ext4: ARM64, ...some("xfs", "btrfs", "tmpfs", "device", "4Kn") },
  },
};

/** Guests, each a platform. */
export const GUESTS: readonly Platform[] = Object.entries(KINDS).map((
  [name, kind],
) => ({
  name,
  about: `Debian's kernel of ${kind.suite.release} for ${kind.flavour}, QEMU`,
  places: Object.keys(kind.places),
  run: (run) => runGuest(name, kind, run),
}));

async function runGuest(
  name: string,
  kind: GuestKind,
  run: Run,
): Promise<void> {
  const { places: names, report, found } = run;
  const arm = kind.suite.architecture === "arm64";
  const architecture = arm ? "aarch64" : "x86_64";
  await needPrograms(
    ...["apt-get", "busybox", "dpkg-deb", "find", "xz"],
    `qemu-system-${architecture}`,
    ...(arm ? ["npm"] : []),
  );
  if (!arm && Deno.build.arch !== "x86_64") {
    throw new Missing("its programs are this machine's, which is no x86-64");
  }
  const [kernel, root, deno] = await fetched(() =>
    Promise.all([
      debianKernel(kind.suite, kind.flavour),
      arm
        ? debianRoot({ release: "bookworm", architecture: "arm64" })
        : Promise.resolve("/"),
      arm ? arm64Deno() : Promise.resolve(Deno.execPath()),
    ])
  );
  await using stack = new AsyncDisposableStack();
  const directory = await Deno.makeTempDir({
    dir: "/var/tmp",
    prefix: "platter-",
  });
  stack.defer(() => Deno.remove(directory, { recursive: true }));
  const share = `${directory}/share`;
  await Deno.mkdir(share);
  await warmCache(`${directory}/deno`);
  // One file, as each costs much over 9p.
  await runProgram("tar", [
    "-C",
    directory,
    "-cf",
    `${share}/deno.tar`,
    "deno",
  ]);
  const disks: GuestDisk[] = [];
  const places = names.map((place) => {
    const { disk } = PLACES[place]!;
    if (disk === undefined) return { place, device: "" };
    const path = `${directory}/${place}.img`;
    disks.push({
      path,
      blockSize: disk.blockSize ?? 512,
      writeCache: disk.writeCache ?? true,
    });
    return {
      place,
      device: `/dev/vd${String.fromCharCode(96 + disks.length)}`,
    };
  });
  for (const { place } of places) await makeDisk(place, directory);
  if (names.includes("zfs")) report(`${name}: makes ZFS, unless it is there`);
  const zfs = !names.includes("zfs")
    ? null
    : await zfsFor(kind.suite, kernel).catch((error) => {
      if (error instanceof ProgramError) return error.message;
      throw error;
    });
  report(`${name}: boots Linux ${kernel.release}`);
  const hostPrefix = arm ? "/host" : "";
  const guest = stack.use(
    await startMachine({
      architecture,
      kernel,
      root,
      hostPrefix,
      directory,
      modules: [
        // Tests of devices and of engines use both.
        ...["loop", "fuse"],
        ...names.flatMap((place) => PLACES[place]!.modules ?? []),
      ],
      otherModules: zfs instanceof Object ? zfs.modules : [],
      disks,
      share,
    }),
  );
  await guest.run("tar -C /dev/shm -xf /tmp/share/deno.tar");
  const shell: Shell = {
    deno: `${hostPrefix}${deno}`,
    repository: `${hostPrefix}${REPOSITORY}`,
    denoDir: "/dev/shm/deno",
    run: (command, timeoutMs) => guest.try(command, { timeoutMs }),
  };
  const ready: Place[] = [];
  for (const { place, device } of places) {
    const { setUp, programs = [] } = PLACES[place]!;
    const row = { name: `${name}:${place}`, kernel: kernelName(kernel) };
    const lacking = await missingPrograms(programs);
    if (lacking.length > 0) {
      found({ ...row, outcome: null, reason: `no ${lacking.join(", ")}` });
      continue;
    }
    if (place === "zfs" && typeof zfs === "string") {
      report(zfs);
      found({ ...row, outcome: null, reason: zfs.split("\n")[0]! });
      continue;
    }
    const folder = `/tmp/${place}`;
    if (setUp !== undefined) {
      const { code, output } = await guest.try(
        `zpool="${
          zfs instanceof Object ? zfs.zpool : ""
        }"; mkdir ${folder} && set -- ${folder} ${device} && ${setUp}`,
      );
      if (code !== 0) {
        const reason = output.split("\n")[0] ||
          `its setup ends with ${code}`;
        const { output: messages } = await guest.try("dmesg | tail -n 8");
        report(`${row.name}: ${output}\n${messages}`);
        found({ ...row, outcome: null, reason });
        continue;
      }
    }
    ready.push({
      name: place,
      where: setUp === undefined ? device : folder,
      suites: kind.places[place]!,
    });
  }
  await runPlaces(byShell(shell), name, kernelName(kernel), ready, run);
  await guest.stop("busybox poweroff -f");
}

function kernelName({ release }: Kernel): string {
  return `Linux ${release}`;
}

async function makeDisk(place: string, directory: string): Promise<void> {
  const { disk } = PLACES[place]!;
  if (disk === undefined) return;
  const path = `${directory}/${place}.img`;
  {
    using file = await Deno.create(path);
    await file.truncate(disk.mebibytes * MIB);
  }
  if (disk.make === undefined) return;
  const [program, ...args] = disk.make;
  await runProgram(program, [...args, path]);
}

/** Says what cannot be fetched, and why, in its own words. */
export async function fetched<T>(fetch: () => Promise<T>): Promise<T> {
  try {
    return await fetch();
  } catch (error) {
    throw new Missing(
      `cannot be fetched: ${
        error instanceof Error ? error.message.split("\n")[0] : error
      }`,
      { cause: error },
    );
  }
}

async function missingPrograms(names: readonly string[]): Promise<string[]> {
  const missing: string[] = [];
  for (const name of names) {
    if (await findProgram(name) === null) missing.push(name);
  }
  return missing;
}

/** Throws {@linkcode Missing} unless all these programs are here. */
export async function needPrograms(...names: string[]): Promise<void> {
  const missing = await missingPrograms(names);
  if (missing.length > 0) throw new Missing(`no ${missing.join(", ")} here`);
}

/** What suites need, transpiled here: an emulated processor is slow at it. */
export async function warmCache(denoDir: string): Promise<void> {
  const tests = [
    ...["tests/platforms/place.ts", "tests/platforms/facts.ts"],
    ...[
      "examples/direct_io_alignment.ts",
      "tests/backends/direct",
      "tests/engines",
      "tests/ffi",
    ],
  ];
  const files: string[] = [];
  for (const path of tests) {
    if (path.endsWith(".ts")) files.push(path);
    else {
      for await (const { name } of Deno.readDir(`${REPOSITORY}/${path}`)) {
        if (name.endsWith(".ts")) files.push(`${path}/${name}`);
      }
    }
  }
  const { success, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["cache", "--no-check", "--no-lock", "--quiet", ...files],
    cwd: REPOSITORY,
    env: { DENO_DIR: denoDir },
    stdin: "null",
    stdout: "null",
    stderr: "piped",
  }).output();
  if (!success) throw new Error(new TextDecoder().decode(stderr));
}
