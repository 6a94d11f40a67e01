/**
 * A cluster of three OSDs, one of which ends now and then: a pool that keeps three
 * replicas, and an image whose content is in a pool with erasure coding. The long
 * form of `deno task ceph` runs it.
 *
 * @module
 */

import { assert, assertEquals } from "@std/assert";
import { VirtualDisk } from "../../../src/disk/disk.ts";
import { openBackend } from "../../../src/disk/open.ts";
import { contractSuite } from "../../contract.ts";
import { fuzz } from "../../fuzz.ts";
import { LONG, pause } from "../../helpers.ts";
import { CephCluster, needsCeph } from "./cluster.ts";

const ignore = needsCeph().ignore || !LONG;
const cluster = ignore ? null : await CephCluster.start({ osds: 3 });
Deno.test.afterAll(async () => {
  await cluster?.[Symbol.asyncDispose]();
});
if (cluster !== null) {
  await cluster.ceph(
    ..."osd erasure-code-profile set two k=2 m=1 crush-failure-domain=osd"
      .split(" "),
  );
  await cluster.ceph(..."osd pool create coded 8 8 erasure two".split(" "));
  await cluster.ceph(
    ..."osd pool set coded allow_ec_overwrites true".split(" "),
  );
  await cluster.ceph(..."osd pool application enable coded rbd".split(" "));
}

/** Where the content of an image is, by what `rbd create` is told. */
const PLACES: Record<string, string[]> = {
  "three replicas": [],
  "erasure coding": ["--data-pool", "coded"],
};

let images = 0;

/** Makes an image of 8 MiB; returns its name. */
async function image(place: string): Promise<string> {
  const name = `image${++images}`;
  await cluster!.rbd("create", "--size", "8", ...PLACES[place]!, name);
  return name;
}

for (const place of Object.keys(PLACES)) {
  contractSuite(
    `RbdBackend, ${place}`,
    async () => {
      const uri = cluster!.uri(await image(place));
      return {
        backend: await openBackend(uri, {}),
        reopen: () => openBackend(uri, {}),
      };
    },
    { ignore, copiesAllocated: true },
  );

  Deno.test({
    name: `fuzz() finds nothing while OSDs end and come back: ${place}`,
    ignore,
    async fn() {
      const disk = await VirtualDisk.open(cluster!.uri(await image(place)), {
        requestTimeoutMs: 300_000,
      });
      const { durability, fileSystem } = disk.info;
      assertEquals(durability.flush, "media");
      assert(
        durability.reason!.includes(
          place === "erasure coding"
            ? "the pool coded keeps 3 pieces of each object (erasure coding), and takes requests while 2 are there"
            : "the pool rbd keeps 3 replicas of each object, and takes requests while 2 are there",
        ),
        durability.reason!,
      );
      assert(fileSystem!.startsWith("Ceph pool "));
      let stop = false;
      const outages = (async () => {
        for (let osd = 0; !stop; osd = (osd + 1) % 3) {
          await cluster!.stopOsd("SIGKILL", osd);
          await pause(3000);
          cluster!.startOsd(osd);
          const up = async () =>
            JSON.parse(
              await cluster!.ceph("osd", "stat", "--format", "json"),
            ).num_up_osds;
          while (await up() < 3) await pause(500);
          await pause(3000);
        }
      })();
      // Waited for below; until then it must not count as lost.
      outages.catch(() => {});
      const seed = crypto.getRandomValues(new Uint32Array(1))[0]!;
      console.log(`${place}: seed ${seed}`);
      await using subject = {
        disk,
        start: 0,
        [Symbol.asyncDispose]: () => disk.close(),
      };
      try {
        await fuzz(subject, { seed, requests: 20_000, phase: 1000 });
      } finally {
        stop = true;
        await outages;
      }
    },
  });
}
