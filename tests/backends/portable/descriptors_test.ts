import { assertEquals, assertRejects } from "@std/assert";
import {
  DescriptorPool,
  readFully,
  ShrunkError,
  writeFully,
} from "../../../src/backends/portable/descriptors.ts";

/** A step that follows a script and notes where it was asked to go on. */
function scripted(...script: (number | string | Error)[]) {
  const asked: number[] = [];
  return {
    asked,
    step(done: number): Promise<number> {
      asked.push(done);
      const next = script.shift();
      if (typeof next === "number") return Promise.resolve(next);
      if (next instanceof Error) return Promise.reject(next);
      return Promise.reject(Object.assign(new Error(next), { code: next }));
    },
  };
}

Deno.test("readFully() goes on after short reads", async () => {
  const { step, asked } = scripted(100, 412, 512);
  await readFully(step, 1024, 1);
  assertEquals(asked, [0, 100, 512]);
});

Deno.test("readFully() goes on from whole host blocks", async () => {
  const { step, asked } = scripted(700, 512, 512);
  await readFully(step, 1536, 512);
  assertEquals(asked, [0, 512, 1024]);
});

Deno.test("readFully() retries what was interrupted", async () => {
  const { step, asked } = scripted("EINTR", 512, "EAGAIN", "EAGAIN", 512);
  await readFully(step, 1024, 512);
  assertEquals(asked, [0, 0, 512, 512, 512]);
});

Deno.test(
  "readFully() and writeFully() know an interruption that has no code",
  {
    ignore: Deno.build.os === "windows",
  },
  async () => {
    // As Deno throws it for a write.
    const interrupted = () =>
      new Deno.errors.Interrupted("Interrupted system call (os error 4)");
    for (const fully of [readFully, writeFully]) {
      const { step, asked } = scripted(interrupted(), 512, interrupted(), 512);
      await fully(step, 1024, 512);
      assertEquals(asked, [0, 0, 512, 512]);
      // Nothing is tried for ever.
      await assertRejects(
        () => fully(() => Promise.reject(interrupted()), 512, 512),
        Deno.errors.Interrupted,
      );
    }
  },
);

Deno.test("readFully() needs no more than was asked for", async () => {
  const { step, asked } = scripted(1000);
  await readFully(step, 512, 4096);
  assertEquals(asked, [0]);
});

Deno.test("readFully() throws where the file ends", async () => {
  await assertRejects(() => readFully(scripted(0).step, 512, 1), ShrunkError);
  const part = scripted(1000, 488);
  await assertRejects(() => readFully(part.step, 1024, 512), ShrunkError);
  assertEquals(part.asked, [0, 512]);
});

Deno.test("readFully() passes errors on", async () => {
  await assertRejects(
    () => readFully(scripted("EIO").step, 1, 1),
    Error,
    "EIO",
  );
});

Deno.test("writeFully() goes on after short writes", async () => {
  const { step, asked } = scripted(100, "EINTR", 412, "EAGAIN", 512);
  await writeFully(step, 1024, 1);
  assertEquals(asked, [0, 100, 100, 512, 512]);
});

Deno.test("writeFully() writes a torn host block again", async () => {
  const { step, asked } = scripted(700, 1024);
  await writeFully(step, 1536, 512);
  assertEquals(asked, [0, 512]);
});

Deno.test("writeFully() lets the kernel say why it takes no more", async () => {
  const { step, asked } = scripted(100, "ENOSPC");
  await assertRejects(() => writeFully(step, 1024, 512), Error, "ENOSPC");
  assertEquals(asked, [0, 0]);
  await assertRejects(
    () => writeFully(scripted(0, 0).step, 512, 1),
    Error,
    "The kernel takes no more and gives no error",
  );
});

Deno.test("DescriptorPool goes on with what it has if it can open no more", async () => {
  let opens = 0;
  const pool = new DescriptorPool([7], 4, () => {
    if (++opens > 1) throw new Error("EMFILE");
    return 8;
  });
  assertEquals(await pool.take(), 7);
  assertEquals(await pool.take(), 8);
  const third = pool.take();
  const fourth = pool.take();
  assertEquals(opens, 2);
  assertEquals(pool.size, 2);
  pool.give(8);
  assertEquals(await third, 8);
  pool.give(7);
  assertEquals(await fourth, 7);
  assertEquals(opens, 2);
});
