/**
 * One image, several Workers: each opens it for itself and gets a ring of its
 * own, while the main thread holds the one lock that keeps other programs out.
 *
 * deno run --allow-read --allow-write --allow-ffi examples/workers.ts [IMAGE]
 *
 * Random reads of 4 KiB, 32 at a time in each Worker. A disk that one thread
 * can saturate gains nothing; the page cache, RAM disks and fast NVMe drives
 * give each thread its own processor's worth. Without an image, one in the page
 * cache shows it.
 *
 * @module
 */

import { DiskError, VirtualDisk } from "../mod.ts";

const USAGE =
  `Usage: deno run --allow-read --allow-write --allow-ffi examples/workers.ts [IMAGE]

What several Workers make of one image, which is only read, by random reads.
Without IMAGE, of one in the page cache.`;

const SECONDS = 1.5;
const DEPTH = 32;
const SECTORS_PER_READ = 8;

/** The message that starts a Worker. */
interface Task {
  path: string;
  direct: "prefer" | "never";
  seconds: number;
}

/** Reads at random places until the time is over. */
async function work(task: Task): Promise<number> {
  // The main thread holds the lock for all of them.
  await using disk = await VirtualDisk.open(task.path, {
    readOnly: true,
    direct: task.direct,
    lock: "none",
  });
  const places = Math.floor(disk.sectors / SECTORS_PER_READ);
  const end = performance.now() + task.seconds * 1000;
  let reads = 0;
  await Promise.all(Array.from({ length: DEPTH }, async () => {
    const buffer = disk.allocate(SECTORS_PER_READ);
    while (performance.now() < end) {
      const place = Math.floor(Math.random() * places);
      await disk.readInto(place * SECTORS_PER_READ, buffer);
      reads++;
    }
  }));
  return reads;
}

/** Lets so many Workers read at once; returns reads a second. */
async function measure(workers: number, task: Task): Promise<number> {
  const counts = await Promise.all(
    Array.from({ length: workers }, () => {
      const worker = new Worker(import.meta.url, { type: "module" });
      return new Promise<number>((resolve, reject) => {
        worker.onmessage = ({ data }) => resolve(data);
        worker.onerror = (event) => reject(new Error(event.message));
        worker.postMessage(task);
      }).finally(() => worker.terminate());
    }),
  );
  return counts.reduce((sum, count) => sum + count) / task.seconds;
}

async function main(args: readonly string[]): Promise<number> {
  const [image] = args;
  if (args.length > 1 || image?.startsWith("-")) {
    const isHelp = image === "--help" || image === "-h";
    (isHelp ? console.log : console.error)(USAGE);
    return isHelp ? 0 : 2;
  }
  try {
    await compare(image);
    return 0;
  } catch (error) {
    if (!(error instanceof DiskError)) throw error;
    console.error(error.message);
    return 1;
  }
}

async function compare(image: string | undefined): Promise<void> {
  const folder = image === undefined ? await Deno.makeTempDir() : undefined;
  const path = image ?? `${folder}/disk.img`;
  const direct = image === undefined ? "never" : "prefer";
  try {
    await using disk = image === undefined
      ? await VirtualDisk.create(path, { sectors: 131_072, direct })
      : await VirtualDisk.open(path, { readOnly: true, lock: "exclusive" });
    if (image === undefined) {
      const chunk = disk.allocate(2048).fill(0xa5);
      for (let at = 0; at < disk.sectors; at += 2048) {
        await disk.write(at, chunk);
      }
    }
    const { engine, direct: { active } } = disk.info;
    console.log(
      `${disk.sectors} sectors, ${
        active ? "direct" : "buffered"
      }, engine ${engine.name}; lock held by the main thread: ${disk.info.lock.method}`,
    );
    let one = 0;
    for (const workers of [1, 2]) {
      const rate = await measure(workers, { path, direct, seconds: SECONDS });
      if (workers === 1) one = rate;
      console.log(
        `${workers} Worker${workers === 1 ? " " : "s"}  ${
          Math.round(rate).toLocaleString("en")
        } reads/s  ${(rate / one).toFixed(2)} × one`,
      );
    }
  } finally {
    if (folder !== undefined) await Deno.remove(folder, { recursive: true });
  }
}

// `import.meta.main` is true in a Worker as well: it is the Worker's main module.
if ("WorkerGlobalScope" in globalThis) {
  addEventListener("message", async (event) => {
    (globalThis as unknown as Worker).postMessage(
      await work((event as MessageEvent<Task>).data),
    );
  });
} else {
  Deno.exitCode = await main(Deno.args);
}
