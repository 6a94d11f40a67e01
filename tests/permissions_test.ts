/**
 * What Platter asks of Deno's sandbox, and that FFI is no way around it: each
 * test runs a script with some permissions and no others.
 *
 * @module
 */

import { assert, assertEquals, assertMatch, assertNotMatch } from "@std/assert";
import { needs, tempDir } from "./helpers.ts";

const MOD = import.meta.resolve("../mod.ts");
const LINUX = Deno.build.os === "linux";

interface Answer {
  /** What the script printed, if it ran to its end. */
  result: Record<string, unknown>;
  errors: string;
}

const HEAD = `
import { DiskError, VirtualDisk } from ${JSON.stringify(MOD)};
const attempt = async (open) => {
  try {
    await using disk = await open();
    const { backend, engine, direct, lock } = disk.info;
    return { backend, engine, direct, lock, byte: (await disk.read(0, 1))[0] };
  } catch (error) {
    return error instanceof DiskError
      ? { kind: error.kind, message: error.message }
      : { kind: "thrown", message: String(error) };
  }
};
`;

/** Runs a script with permissions; what it may not do it is not asked about. */
async function runWith(
  permissions: string[],
  dir: string,
  body: string,
  wrapper: string[] = [],
): Promise<Answer> {
  const script = `${dir}/script.ts`;
  await Deno.writeTextFile(script, `${HEAD}\n${body}\n`);
  const [command, ...args] = [
    ...wrapper,
    ...[Deno.execPath(), "run", "--no-check", "--no-prompt"],
    ...permissions,
    script,
  ];
  const output = await new Deno.Command(command!, {
    args,
    stdin: "null",
    stdout: "piped",
    stderr: "piped",
  }).output();
  const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
  const errors = text(output.stderr);
  assert(output.success, errors);
  return { result: JSON.parse(text(output.stdout)), errors };
}

/** An image, every byte of which is 7, and a place beside it. */
async function place() {
  const dir = await tempDir();
  await Deno.mkdir(dir.join("allowed"));
  await Deno.mkdir(dir.join("secret"));
  const allowed = await dir.file("allowed/disk.img", sevens());
  const secret = await dir.file("secret/disk.img", sevens());
  return {
    dir: dir.path,
    folder: dir.join("allowed"),
    allowed,
    secret,
    [Symbol.asyncDispose]: () => dir[Symbol.asyncDispose](),
  };
}

function sevens(): Uint8Array {
  return new Uint8Array(65_536).fill(7);
}

const opening = (path: string, options: Record<string, unknown> = {}) =>
  `console.log(JSON.stringify(await attempt(() => VirtualDisk.open(${
    JSON.stringify(path)
  }, ${JSON.stringify(options)}))));`;

Deno.test("Importing mod.ts asks for no permission", async () => {
  await using at = await place();
  const { result } = await runWith(
    [],
    at.dir,
    `
    const names = ["read", "write", "ffi", "sys", "env", "run", "net"];
    const states = await Promise.all(
      names.map(async (name) => (await Deno.permissions.query({ name })).state));
    console.log(JSON.stringify({ states }));
    `,
  );
  assertEquals(result.states, Array(7).fill("prompt"));
});

Deno.test("VirtualDisk.memory() needs no permission", async () => {
  await using at = await place();
  const { result } = await runWith(
    [],
    at.dir,
    `console.log(JSON.stringify(
      await attempt(() => VirtualDisk.memory({ sectors: 8 }))));`,
  );
  assertEquals(result.backend, "memory");
});

Deno.test("VirtualDisk.open() without permissions opens nothing, and says which", async () => {
  await using at = await place();
  for (const backend of ["auto", "portable", "direct"]) {
    const { result } = await runWith(
      [],
      at.dir,
      opening(at.allowed, { backend }),
    );
    assertEquals(result.kind, "permission", String(result.message));
    assertMatch(String(result.message), /--allow-|access/);
  }
});

Deno.test("VirtualDisk.open() without --allow-ffi takes the portable backend and says why", async () => {
  await using at = await place();
  const { result, errors } = await runWith(
    [`--allow-read=${at.folder}`, `--allow-write=${at.folder}`],
    at.dir,
    opening(at.allowed),
  );
  assertEquals(result.backend, "portable");
  assertEquals(result.byte, 7);
  const { engine } = result as { engine: { reason: string | null } };
  assertMatch(engine.reason ?? "", /FFI|--allow-ffi/);
  assertEquals(errors, "");
});

Deno.test("VirtualDisk.open() with --allow-read alone reads without FFI", async () => {
  await using at = await place();
  const { result } = await runWith(
    [`--allow-read=${at.folder}`],
    at.dir,
    opening(at.allowed, { readOnly: true }),
  );
  assertEquals(result.backend, "portable");
  assertEquals(result.byte, 7);
});

Deno.test({
  name: "VirtualDisk.open() with FFI and the path takes the direct backend",
  ignore: !LINUX,
  async fn() {
    await using at = await place();
    for (const backend of ["auto", "direct"]) {
      const { result, errors } = await runWith(
        [
          "--allow-ffi",
          `--allow-read=${at.folder}`,
          `--allow-write=${at.folder}`,
        ],
        at.dir,
        opening(at.allowed, { backend }),
      );
      assertEquals(result.backend, "direct", String(result.message));
      assertEquals(result.byte, 7);
      assertNotMatch(errors, /permission/i);
    }
  },
});

/** Permissions that lack something, for a disk that is to be written. */
const LACKING: [title: string, (folder: string) => string[]][] = [
  ["nothing but FFI", () => ["--allow-ffi"]],
  ["no right to write", (folder) => ["--allow-ffi", `--allow-read=${folder}`]],
  ["no right to read", (folder) => ["--allow-ffi", `--allow-write=${folder}`]],
  [
    "a right that is denied",
    (folder) => [
      "--allow-ffi",
      `--allow-read=${folder}`,
      `--allow-write=${folder}`,
      `--deny-write=${folder}/disk.img`,
    ],
  ],
];

for (const [title, permissions] of LACKING) {
  for (const backend of ["auto", "direct", "portable"]) {
    Deno.test(`VirtualDisk.open() with ${title} opens nothing, ${backend} backend`, async () => {
      await using at = await place();
      const { result } = await runWith(
        permissions(at.folder),
        at.dir,
        opening(at.allowed, { backend }),
      );
      assertEquals(result.kind, "permission", String(result.message));
      assertMatch(String(result.message), /disk\.img/);
    });
  }
}

Deno.test({
  name: "VirtualDisk.open() with FFI alone makes no call to open the image",
  ...needs("strace"),
  async fn() {
    await using at = await place();
    for (
      const permissions of [
        ["--allow-ffi"],
        ["--allow-ffi", `--allow-read=${at.folder}`],
      ]
    ) {
      const log = `${at.dir}/log`;
      const { result } = await runWith(
        permissions,
        at.dir,
        opening(at.allowed, { backend: "direct" }),
        [
          "strace",
          "-f",
          "-qq",
          "-o",
          log,
          "-P",
          at.allowed,
          "-e",
          "open,openat",
        ],
      );
      assertEquals(result.kind, "permission");
      assertNotMatch(await Deno.readTextFile(log), /open(at)?\(/);
    }
  },
});

Deno.test("VirtualDisk.open() for reading needs no right to write", async () => {
  await using at = await place();
  const { result } = await runWith(
    ["--allow-ffi", `--allow-read=${at.folder}`],
    at.dir,
    opening(at.allowed, { readOnly: true }),
  );
  assertEquals(result.byte, 7, String(result.message));
  if (LINUX) assertEquals(result.backend, "direct");
});

for (const ffi of [[], ["--allow-ffi"]]) {
  const how = ffi.length === 0 ? "without FFI" : "with FFI";
  Deno.test({
    name:
      `VirtualDisk.open() goes where Deno lets a program go, no further, ${how}`,
    ignore: Deno.build.os === "windows",
    async fn() {
      await using at = await place();
      // Deno follows links out of what is allowed; making them needs all rights.
      await Deno.symlink(at.secret, `${at.folder}/link.img`);
      await Deno.symlink(`${at.dir}/secret`, `${at.folder}/folder`);
      const rights = [
        ...ffi,
        `--allow-read=${at.folder}`,
        `--allow-write=${at.folder}`,
      ];
      for (
        const [path, outside] of [
          [`${at.folder}/link.img`, false],
          [`${at.folder}/folder/disk.img`, false],
          [`${at.folder}/../secret/disk.img`, true],
          [at.secret, true],
        ] as const
      ) {
        for (const readOnly of [false, true]) {
          const { result } = await runWith(
            rights,
            at.dir,
            `
            const path = ${JSON.stringify(path)};
            const readOnly = ${readOnly};
            const disk = await attempt(() => VirtualDisk.open(path, { readOnly }));
            let deno = true;
            try {
              Deno.openSync(path, { read: true, write: !readOnly }).close();
            } catch (error) {
              if (!(error instanceof Deno.errors.NotCapable)) throw error;
              deno = false;
            }
            console.log(JSON.stringify({ deno, disk }));
            `,
          );
          const { deno, disk } = result as {
            deno: boolean;
            disk: { kind?: string; byte?: number };
          };
          assertEquals(disk.kind === "permission", !deno, path);
          assertEquals(disk.byte === 7, deno, path);
          if (outside) assertEquals(deno, false);
        }
      }
    },
  });

  Deno.test({
    name:
      `VirtualDisk.open() locks what links lead to where only their path is granted, ${how}`,
    ignore: Deno.build.os === "windows",
    async fn() {
      await using at = await place();
      await Deno.symlink(at.secret, `${at.folder}/link.img`);
      await Deno.symlink(`${at.dir}/secret`, `${at.folder}/folder`);
      const paths = [
        `${at.folder}/link.img`,
        `${at.folder}/folder/disk.img`,
      ];
      const grants = paths.flatMap((path) => [
        `--allow-read=${path}`,
        `--allow-write=${path}`,
      ]);
      const { result } = await runWith(
        [...ffi, ...grants],
        at.dir,
        `
        const paths = ${JSON.stringify(paths)};
        const pairs = [[0, 1], [1, 0]];
        const found = [];
        for (const [one, other] of pairs) {
          await using disk = await VirtualDisk.open(paths[one]);
          const again = await attempt(() => VirtualDisk.open(paths[other]));
          found.push([disk.info.lock.method !== "none", again.kind]);
        }
        console.log(JSON.stringify({ found }));
        `,
      );
      assertEquals(result.found, [[true, "locked"], [true, "locked"]]);
    },
  });

  Deno.test(`VirtualDisk.create() makes nothing where it may not write, ${how}`, async () => {
    await using at = await place();
    const path = `${at.dir}/secret/new.img`;
    const { result } = await runWith(
      [...ffi, `--allow-read=${at.dir}`, `--allow-write=${at.folder}`],
      at.dir,
      `console.log(JSON.stringify(await attempt(() => VirtualDisk.create(${
        JSON.stringify(path)
      }, { sectors: 8 }))));`,
    );
    assertEquals(result.kind, "permission");
    assertEquals(
      await Deno.stat(path).catch((error) => error.constructor),
      Deno.errors.NotFound,
    );
  });
}

Deno.test({
  name: "VirtualDisk.open() says that --allow-ffi with a path is not enough",
  ignore: !LINUX,
  async fn() {
    await using at = await place();
    const rights = [
      `--allow-ffi=${at.folder}`,
      `--allow-read=${at.folder}`,
      `--allow-write=${at.folder}`,
    ];
    const { result } = await runWith(
      rights,
      at.dir,
      opening(at.allowed, { backend: "direct" }),
    );
    assertEquals(result.kind, "permission");
    assertMatch(String(result.message), /--allow-ffi/);
    const auto = await runWith(rights, at.dir, opening(at.allowed));
    assertEquals(auto.result.backend, "portable");
  },
});

Deno.test({
  name: "VirtualDisk.open() under --deny-ffi takes the portable backend",
  async fn() {
    await using at = await place();
    const { result } = await runWith(
      ["-A", "--deny-ffi"],
      at.dir,
      opening(at.allowed),
    );
    assertEquals(result.backend, "portable");
    assertEquals(result.byte, 7);
  },
});
