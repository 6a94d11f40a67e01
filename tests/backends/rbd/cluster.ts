/**
 * A real Ceph cluster of one node on loopback: a monitor and an OSD over a file, or
 * several, and a manager if asked for. It takes some 15 s to start. Its daemons are children
 * of ours and end with this process, whatever ends it.
 *
 * @module
 */

import {
  needs,
  run,
  stopProcess,
  type TempDir,
  tempDir,
} from "../../helpers.ts";

/** Programs that a cluster is made of, and what is asked with. */
const TOOLS = ["ceph-mon", "ceph-osd", "ceph", "rbd", "monmaptool", "setpriv"];

/**
 * Whether tests on a cluster run: in the task `ceph`, with the tools.
 *
 * @param tools Further programs.
 */
export function needsCeph(...tools: string[]): { ignore: boolean } {
  return Deno.env.get("PLATTER_CEPH") === "1"
    ? needs("root", ...TOOLS, ...tools)
    : { ignore: true };
}

/** The longest that a cluster may take to do what it is told, in ms. */
const PATIENCE_MS = 120_000;

/** What a cluster is like. */
export interface CephOptions {
  /** Whether it has a manager, which counts what pools hold. */
  manager?: boolean;
  /** How many OSDs it has, each over a file; one by default. */
  osds?: number;
}

/** A cluster. */
export class CephCluster implements AsyncDisposable {
  readonly #dir: TempDir;
  readonly #daemons = new Map<string, Deno.ChildProcess>();

  private constructor(dir: TempDir) {
    this.#dir = dir;
  }

  /** Its configuration. */
  get conf(): string {
    return this.#dir.join("ceph.conf");
  }

  /** The path of a file beside it. */
  join(name: string): string {
    return this.#dir.join(name);
  }

  /** What an image is called, in the pool `rbd`. */
  uri(image: string, more = ""): string {
    return `rbd:rbd/${image}?conf=${this.conf}${more}`;
  }

  /** Starts one, with a pool `rbd`. */
  static async start(options: CephOptions = {}): Promise<CephCluster> {
    const dir = await tempDir();
    const cluster = new CephCluster(dir);
    try {
      await cluster.#start(options);
    } catch (error) {
      await cluster[Symbol.asyncDispose]();
      throw error;
    }
    return cluster;
  }

  async #start({ manager = false, osds = 1 }: CephOptions): Promise<void> {
    const dir = this.#dir.path;
    for (const name of ["mon", "mgr"]) await Deno.mkdir(`${dir}/${name}`);
    const monitor = `127.0.0.1:${freePort()}`;
    const id = crypto.randomUUID();
    await Deno.writeTextFile(
      this.conf,
      `[global]
fsid = ${id}
mon host = [v2:${monitor}]
auth cluster required = none
auth service required = none
auth client required = none
osd pool default size = ${Math.min(osds, 3)}
osd crush chooseleaf type = 0
mon allow pool size one = true
mon warn on pool no redundancy = false
auth allow insecure global id reclaim = false
mon data avail warn = 1
mon data avail crit = 1
ms bind ipv4 = true
public addr = 127.0.0.1
cluster addr = 127.0.0.1
run dir = ${dir}
admin socket = ${dir}/$name.$pid.asok
log file =
mon cluster log file =
mon data = ${dir}/mon
osd data = ${dir}/osd$id
mgr data = ${dir}/mgr
bluestore block size = 4294967296
bluestore fsck on mount = false
osd memory target = 939524096
`,
    );
    const map = `${dir}/monmap`;
    await run("monmaptool", [
      "--create",
      "--addv",
      "a",
      `[v2:${monitor}]`,
      "--fsid",
      id,
      map,
    ]);
    await run("ceph-mon", [
      "--mkfs",
      "-i",
      "a",
      "--monmap",
      map,
      "-c",
      this.conf,
    ]);
    this.#spawn("mon", "ceph-mon", ["-f", "-i", "a", "-c", this.conf]);
    for (let osd = 0; osd < osds; osd++) {
      await Deno.mkdir(`${dir}/osd${osd}`);
      const osdId = crypto.randomUUID();
      await this.ceph("osd", "new", osdId);
      await run("ceph-osd", [
        "-i",
        String(osd),
        "--mkfs",
        "--osd-uuid",
        osdId,
        "-c",
        this.conf,
        "--osd-objectstore",
        "bluestore",
      ]);
      this.startOsd(osd);
    }
    if (manager) {
      this.#spawn("mgr", "ceph-mgr", ["-f", "-i", "x", "-c", this.conf]);
    }
    await this.ceph("osd", "pool", "create", "rbd", "8", "8");
    await this.ceph("osd", "pool", "application", "enable", "rbd", "rbd");
    await this.untilUp();
  }

  /** Runs `ceph`; returns what it printed. */
  ceph(...args: string[]): Promise<string> {
    const seconds = String(PATIENCE_MS / 1000);
    return run("timeout", [seconds, "ceph", "-c", this.conf, ...args]);
  }

  /** Runs `rbd`; returns what it printed. */
  rbd(...args: string[]): Promise<string> {
    const seconds = String(PATIENCE_MS / 1000);
    return run("timeout", [seconds, "rbd", "-c", this.conf, ...args]);
  }

  /** Waits until the OSD takes requests. */
  async untilUp(): Promise<void> {
    // The first write waits for the placement groups, too.
    await this.rbd("create", "--size", "1", "probe");
    await this.rbd("rm", "--no-progress", "probe");
  }

  /** Starts an OSD again, or first. */
  startOsd(osd = 0): void {
    const args = ["-f", "-i", String(osd), "-c", this.conf];
    this.#spawn(`osd${osd}`, "ceph-osd", args);
  }

  /** Ends an OSD: as a power cut would, or in good order. */
  stopOsd(signal: "SIGKILL" | "SIGTERM" = "SIGKILL", osd = 0): Promise<void> {
    return this.#end(`osd${osd}`, signal);
  }

  /** Ends the monitor. */
  stopMonitor(): Promise<void> {
    return this.#end("mon", "SIGKILL");
  }

  /** Starts the monitor again. */
  startMonitor(): void {
    this.#spawn("mon", "ceph-mon", ["-f", "-i", "a", "-c", this.conf]);
  }

  /** Holds the first OSD up; once this is over, none of its threads runs. */
  async holdOsd(): Promise<void> {
    await stopProcess(this.#daemons.get("osd0")!.pid);
  }

  /** Lets it go on. */
  releaseOsd(): void {
    this.#daemons.get("osd0")!.kill("SIGCONT");
  }

  #spawn(name: string, program: string, args: string[]): void {
    const child = new Deno.Command("setpriv", {
      args: ["--pdeathsig", "KILL", program, ...args],
      stdin: "null",
      stdout: "null",
      stderr: "null",
    }).spawn();
    this.#daemons.set(name, child);
  }

  async #end(name: string, signal: Deno.Signal): Promise<void> {
    const child = this.#daemons.get(name);
    if (child === undefined) return;
    this.#daemons.delete(name);
    try {
      child.kill(signal);
    } catch {
      // It has ended by itself.
    }
    await child.status;
  }

  /** Ends its daemons and removes all that it wrote. */
  async [Symbol.asyncDispose](): Promise<void> {
    for (const name of [...this.#daemons.keys()]) {
      await this.#end(name, "SIGKILL");
    }
    await this.#dir[Symbol.asyncDispose]();
  }
}

/**
 * A port that nobody listens at just now, and that no connection gets from the
 * system meanwhile: those have ports from 32,768 on (ip_local_port_range, ip(7)).
 */
function freePort(): number {
  for (;;) {
    const port = 20_000 + Math.floor(Math.random() * 10_000);
    try {
      Deno.listen({ hostname: "127.0.0.1", port }).close();
      return port;
    } catch (error) {
      if (!(error instanceof Deno.errors.AddrInUse)) throw error;
    }
  }
}
