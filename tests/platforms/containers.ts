/**
 * Containers of podman on this kernel, with the seccomp profiles that Docker and
 * podman have: what is in them is of this machine, below an overlay.
 *
 * @module
 */

import { fetched, needPrograms, REPOSITORY, warmCache } from "./guests.ts";
import { dockerProfile } from "./packages.ts";
import { Missing, type Platform, type Run, runPlaces } from "./platform.ts";
import { byShell, EVERYWHERE, type Shell } from "./suites.ts";

/** A profile: its file, or `null` for podman's own. */
interface Profile {
  readonly name: string;
  readonly about: string;
  readonly file: (() => Promise<string>) | null;
}

const docker = (release: string) => () =>
  dockerProfile({ release, architecture: "amd64" });

const PROFILES: readonly Profile[] = [
  {
    name: "docker",
    about: "Docker 26's seccomp profile, without io_uring, in podman",
    file: docker("trixie"),
  },
  {
    name: "docker-20",
    about: "Docker 20's seccomp profile, with io_uring, in podman",
    file: docker("bookworm"),
  },
  { name: "podman", about: "podman and its own seccomp profile", file: null },
];

/**
 * podman, as its script says. Its runtime crun refuses machines that have both
 * versions of control groups: there it sees the second one alone.
 */
const PODMAN = `[ ! -d /sys/fs/cgroup/unified ] || exec unshare --mount sh -c '
umount --recursive /sys/fs/cgroup && mount -t cgroup2 cgroup2 /sys/fs/cgroup &&
exec podman "$@"' podman "$@"
exec podman "$@"`;

/** Folders of images in a container, by their name in the table. */
const FOLDERS = { overlay: "/scratch", volume: "/volume" } as const;

/** Containers, each a platform. */
export const CONTAINERS: readonly Platform[] = PROFILES.map((profile) => ({
  name: profile.name,
  about: profile.about,
  places: Object.keys(FOLDERS),
  run: (run) => runContainer(profile, run),
}));

async function runContainer(
  { name, file }: Profile,
  wanted: Run,
): Promise<void> {
  await needPrograms("podman", "apt-get", "dpkg-deb");
  const profile = file === null ? null : await fetched(file);
  await using stack = new AsyncDisposableStack();
  const directory = await Deno.makeTempDir({
    dir: "/var/tmp",
    prefix: "platter-",
  });
  stack.defer(() => Deno.remove(directory, { recursive: true }));
  const root = await makeRoot(`${directory}/root`);
  await Deno.mkdir(`${directory}/volume`);
  await warmCache(`${directory}/deno`);
  const deno = Deno.execPath();
  const volume = (path: string, at = path, options = ":ro") => [
    "-v",
    `${path}:${at}${options}`,
  ];
  const run = async (args: readonly string[], timeoutMs: number) => {
    const { code, stdout } = await new Deno.Command("sh", {
      args: [
        ...["-c", PODMAN, "podman", "run", "--rm", "--network", "none"],
        // Limits that are lower than anybody's, as few may raise them.
        ...["--ulimit", "nofile=4096:4096", "--ulimit", "nproc=4096:4096"],
        ...["--cgroups", "disabled", "--shm-size", "256m"],
        ...["--timeout", String(Math.ceil(timeoutMs / 1000))],
        ...(profile === null ? [] : ["--security-opt", `seccomp=${profile}`]),
        ...volume("/usr"),
        ...(deno.startsWith("/usr/") ? [] : volume(deno)),
        ...volume(REPOSITORY),
        ...volume(`${directory}/deno`, "/deno", ""),
        ...volume(`${directory}/volume`, FOLDERS.volume, ""),
        ...["--rootfs", `${root}:O`, ...args],
      ],
      stdin: "null",
      stderr: "inherit",
      signal: AbortSignal.timeout(timeoutMs + 60_000),
    }).output();
    return { code, output: new TextDecoder().decode(stdout) };
  };
  const { code, output } = await run(["sh", "-c", "id 2>&1"], 60_000);
  if (code !== 0) throw new Missing(`podman ends with ${code} ${output}`);
  const shell: Shell = {
    deno,
    repository: REPOSITORY,
    denoDir: "/deno",
    run: (command, timeoutMs) => run(["sh", "-c", command], timeoutMs),
  };
  const kernel = `Linux ${Deno.osRelease()}`;
  const places = wanted.places.map((place) => ({
    name: place,
    where: FOLDERS[place as keyof typeof FOLDERS],
    suites: EVERYWHERE,
  }));
  await runPlaces(byShell(shell), name, kernel, places, wanted);
}

/** A root whose programs are this machine's. */
async function makeRoot(root: string): Promise<string> {
  const folders = ["dev", "proc", "sys", "tmp", "usr", "var/tmp", "etc"];
  for (const name of [...folders, "scratch", "volume", "deno"]) {
    await Deno.mkdir(`${root}/${name}`, { recursive: true });
  }
  for (const name of ["bin", "sbin", "lib", "lib64"]) {
    await Deno.symlink(`usr/${name}`, `${root}/${name}`);
  }
  return root;
}
