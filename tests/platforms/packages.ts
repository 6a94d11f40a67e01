/**
 * Packages that are not for this machine: Debian's of another release or another
 * processor, unpacked and not installed, and Deno's of npm. Each is fetched once
 * and kept in the folder that `PLATTER_GUEST_CACHE` names.
 *
 * Apt is run with lists and a state of its own, so that what this machine has
 * installed and may install is not touched.
 *
 * @module
 */

import { runProgram } from "../../src/crash/programs.ts";

/** Where packages are kept, unless it is said. */
const CACHE = Deno.env.get("PLATTER_GUEST_CACHE") ?? "/var/tmp/platter-guests";

/** Signs the lists of every release that is named here. */
const KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg";

const ARCHIVE = "http://deb.debian.org/debian";

/** A part of Debian's archive, as in `sources.list`. */
export interface Suite {
  /** A release, such as `"trixie"`. */
  readonly release: string;
  /** A processor, as dpkg names it. */
  readonly architecture: "amd64" | "arm64";
  /** Beside `main`, such as `"contrib"`. */
  readonly components?: readonly string[];
}

function isThere(path: string): Promise<boolean> {
  return Deno.lstat(path).then(() => true, () => false);
}

/** What is kept was made whole, or it is not there. */
export async function kept(
  name: string,
  make: (folder: string) => Promise<void>,
): Promise<string> {
  const place = `${CACHE}/${name}`;
  if (await isThere(place)) return place;
  await Deno.mkdir(CACHE, { recursive: true });
  const temporary = await Deno.makeTempDir({ dir: CACHE });
  try {
    await Deno.chmod(temporary, 0o755);
    await make(temporary);
    await Deno.rename(temporary, place);
  } catch (error) {
    await Deno.remove(temporary, { recursive: true });
    // Another run may have been faster.
    if (!await isThere(place)) throw error;
  }
  return place;
}

/** Apt for a suite, with a state of its own. */
class Apt {
  readonly #options: string[];

  private constructor(folder: string, architecture: string) {
    const set = (name: string, value: string) => ["-o", `${name}=${value}`];
    this.#options = [
      ...set("Dir::Etc::sourcelist", `${folder}/sources.list`),
      ...set("Dir::Etc::sourceparts", "/dev/null"),
      ...set("Dir::State::lists", `${folder}/lists`),
      ...set("Dir::State::status", `${folder}/status`),
      ...set("Dir::Cache", `${folder}/cache`),
      ...set("APT::Architecture", architecture),
      ...set("APT::Architectures", architecture),
      ...set("APT::Sandbox::User", "root"),
      ...set("Acquire::Languages", "none"),
      ...set("Acquire::http::Timeout", "60"),
      ...set("Acquire::Retries", "5"),
      ...set("Debug::NoLocking", "1"),
    ];
  }

  /** Reads the lists of a suite, once a day. */
  static async of(suite: Suite): Promise<Apt> {
    const { release, architecture, components = [] } = suite;
    const day = new Date().toISOString().slice(0, 10);
    const parts = ["main", ...components];
    const folder = await kept(
      `lists-${release}-${architecture}-${parts.join("-")}-${day}`,
      async (temporary) => {
        for (const name of ["lists", "cache"]) {
          await Deno.mkdir(`${temporary}/${name}`);
        }
        const from = (archive: string, name: string) =>
          `deb [signed-by=${KEYRING}] ${archive} ${name} ${parts.join(" ")}\n`;
        // The newest release has no security updates of its own.
        const security = ["forky", "sid"].includes(release)
          ? ""
          : from(`${ARCHIVE}-security`, `${release}-security`);
        await Deno.writeTextFile(
          `${temporary}/sources.list`,
          from(ARCHIVE, release) + security,
        );
        await Deno.writeTextFile(`${temporary}/status`, "");
        await new Apt(temporary, architecture).#run("apt-get", "update", "-qq");
      },
    );
    return new Apt(folder, architecture);
  }

  #run(program: string, ...args: string[]): Promise<string> {
    return runProgram(program, [...this.#options, ...args]);
  }

  /** What a package depends on, by its names that match. */
  async depends(name: string, pattern: RegExp): Promise<string[]> {
    const text = await this.#run("apt-cache", "depends", name);
    return [...text.matchAll(/^ +(?:Pre)?Depends: (\S+)$/gm)]
      .map(([, other]) => other!).filter((other) => pattern.test(other));
  }

  /** Packages and all that they depend on, unpacked into a folder. */
  async unpackAll(names: readonly string[], folder: string): Promise<void> {
    await this.#unpack(folder, [
      ...["install", "--download-only", "--yes", "--no-install-recommends"],
      ...names,
    ]);
  }

  /** Packages and nothing else, unpacked into a folder. */
  async unpack(names: readonly string[], folder: string): Promise<void> {
    await this.#unpack(folder, ["download", ...names]);
  }

  async #unpack(folder: string, args: readonly string[]): Promise<void> {
    const packages = await Deno.makeTempDir({ dir: CACHE });
    try {
      await Deno.mkdir(`${packages}/partial`);
      // "download" puts them where it is, "install" into its cache.
      await runProgram("env", [
        ...["-C", packages, "apt-get", "-qq", ...this.#options],
        ...["-o", `Dir::Cache::archives=${packages}`, ...args],
      ]);
      for await (const { name } of Deno.readDir(packages)) {
        if (!name.endsWith(".deb")) continue;
        await runProgram("dpkg-deb", ["-x", `${packages}/${name}`, folder]);
      }
    } finally {
      await Deno.remove(packages, { recursive: true });
    }
  }
}

/**
 * Unpacks packages into a folder.
 *
 * @param suite The release that they are of.
 * @param names Their names.
 * @param folder The folder.
 * @param options Whether all that they depend on goes there, too.
 * @throws {ProgramError} If the archive does not have them.
 */
export async function unpack(
  suite: Suite,
  names: readonly string[],
  folder: string,
  { dependencies = false }: { dependencies?: boolean } = {},
): Promise<void> {
  const apt = await Apt.of(suite);
  if (dependencies) await apt.unpackAll(names, folder);
  else await apt.unpack(names, folder);
}

/** A kernel for a guest. */
export interface Kernel {
  /** The kernel's image. */
  readonly image: string;
  /** The directory of its modules. */
  readonly modules: string;
  /** What `uname -r` says there. */
  readonly release: string;
}

/** Packages that a kernel is in: newer releases have its modules in another. */
const PARTS = /^linux-(image|modules|binary)-/;

/**
 * Fetches the kernel of a release of Debian.
 *
 * @param suite The release.
 * @param flavour Which of its kernels, such as `"amd64"` or `"arm64-16k"`.
 * @returns The kernel.
 * @throws {ProgramError} If the archive does not have it.
 */
export async function debianKernel(
  suite: Suite,
  flavour: string,
): Promise<Kernel> {
  const apt = await Apt.of(suite);
  const names = new Set<string>();
  const visit = async (name: string) => {
    for (const other of await apt.depends(name, PARTS)) {
      if (names.has(other)) continue;
      names.add(other);
      await visit(other);
    }
  };
  await visit(`linux-image-${flavour}`);
  const place = await kept(
    `kernel-${suite.architecture}-${[...names].toSorted()[0]}`,
    async (folder) => {
      await apt.unpack([...names], folder);
      // What is compressed is for a kernel that can unpack it.
      await runProgram("find", [
        ...[folder, "-name", "*.ko.xz"],
        ...["-exec", "xz", "--decompress", "{}", "+"],
      ]);
    },
  );
  // Of a package the image is in /boot, or among the modules.
  const image = (await runProgram("find", [
    ...[place, "-name", "vmlinu[xz]*", "-type", "f", "-size", "+1M"],
  ])).split("\n")[0]!;
  const modules = (await runProgram("find", [
    ...[place, "-path", "*/modules/*/kernel", "-prune"],
  ])).split("\n")[0]!;
  return { image, modules, release: modules.split("/").at(-2)! };
}

/** Programs that a guest runs, with all that they depend on. */
const PROGRAMS = [
  ...["busybox-static", "libc6", "libgcc-s1", "bash", "coreutils", "mount"],
  ...["util-linux", "e2fsprogs", "xfsprogs", "btrfs-progs", "strace", "procps"],
];

/**
 * A folder with Debian for another processor, in which Deno can run.
 *
 * @param suite The release.
 * @returns Its path.
 */
export async function debianRoot(suite: Suite): Promise<string> {
  return await kept(
    `root-${suite.release}-${suite.architecture}`,
    async (folder) => {
      await (await Apt.of(suite)).unpackAll(PROGRAMS, folder);
      for (const name of ["dev", "proc", "sys", "tmp", "root", "host"]) {
        await Deno.mkdir(`${folder}/${name}`, { recursive: true });
      }
      const shell = `${folder}/bin/sh`;
      if (!await isThere(shell)) {
        await Deno.symlink("busybox", shell);
      }
    },
  );
}

/** The package that has Docker's sources, and its default seccomp profile there. */
const DOCKER = "golang-github-docker-docker-dev";
const DOCKER_PROFILE =
  "usr/share/gocode/src/github.com/docker/docker/profiles/seccomp/default.json";

/**
 * Docker's default seccomp profile.
 *
 * @param suite The release of Debian whose Docker is meant.
 * @returns Its path.
 */
export async function dockerProfile(suite: Suite): Promise<string> {
  const place = await kept(`docker-${suite.release}`, async (folder) => {
    await (await Apt.of(suite)).unpack([DOCKER], folder);
  });
  return `${place}/${DOCKER_PROFILE}`;
}

/**
 * Deno for Linux on 64-bit ARM, of the version that runs this, from npm.
 *
 * @returns Its path.
 */
export async function arm64Deno(): Promise<string> {
  const name = `linux-arm64-glibc-${Deno.version.deno}`;
  const place = await kept(`deno-${name}`, async (folder) => {
    await runProgram("npm", [
      ...["pack", "--silent", "--pack-destination", folder],
      `@deno/linux-arm64-glibc@${Deno.version.deno}`,
    ]);
    await runProgram("tar", [
      "-xf",
      `${folder}/deno-${name}.tgz`,
      "-C",
      folder,
    ]);
    await Deno.remove(`${folder}/deno-${name}.tgz`);
  });
  return `${place}/package/deno`;
}
