import { assert, assertEquals } from "@std/assert";
import { runCrashTest } from "../../src/crash/run_crash_test.ts";
import { hasTmpfs, needs, tempDir, tmpfsDir } from "../helpers.ts";
import { missingOf } from "./programs/missing.ts";
import {
  commandOf,
  crashTestOf,
  type Program,
  PROGRAMS,
  type ProgramVerb,
} from "./programs/programs.ts";

/** A program by its name, and whether it can be run here. */
function programCalled(name: string): Program & { ignore: boolean } {
  const program = PROGRAMS.find((program) => program.name === name)!;
  return { ...program, ...needs(...missingOf(program)) };
}

// A check that cannot fail proves nothing of what it passes.
for (
  const name of [
    "sgdisk on a raw disk",
    "ext4 tools grow",
    "PostgreSQL default on ext4",
    "sqlite3 WAL+FULL",
    "LMDB sync",
    "LevelDB sync",
    "RocksDB sync",
    "git core.fsync=all",
    "rename atomic on ext4",
  ]
) {
  const { ignore, ...program } = programCalled(name);
  Deno.test({
    name: `the check of ${program.script[0]} fails on what is damaged`,
    ignore,
    async fn() {
      await using dir = hasTmpfs() ? await tmpfsDir() : await tempDir();
      // For the server that runs as somebody else.
      await Deno.chmod(dir.path, 0o755);
      await Deno.mkdir(dir.join("mounted"));
      const acked = await dir.file("acked", 0);
      const env = {
        PLATTER_DIR: dir.join("mounted"),
        PLATTER_IMAGE: await dir.file("image", 32 * 2 ** 20),
        PLATTER_ACKED: acked,
      };
      const shell = async (verb: ProgramVerb) => {
        const output = await new Deno.Command("sh", {
          args: ["-c", `${commandOf(program, verb)} 2>&1`],
          env,
          stdin: "null",
        }).output();
        return {
          code: output.code,
          text: new TextDecoder().decode(output.stdout),
        };
      };
      const must = async (verb: ProgramVerb) => {
        const { code, text } = await shell(verb);
        assertEquals(code, 0, text);
        return text;
      };
      await must("prepare");
      await must("check");
      const promised = (await must("run")).match(/^ACK .*$/gm) ?? [];
      assert(promised.length > 0);
      await Deno.writeTextFile(
        acked,
        promised.map((line) => line.replace("ACK ", "") + "\n").join(""),
      );
      await must("check");
      await must("damage");
      const { code, text } = await shell("check");
      assert(code !== 0 && code !== 125, `the check exits with ${code}`);
      assert(text.trim() !== "", "the check says nothing");
    },
  });
}

/**
 * The short form of `deno task programs`: programs with and without a fault that
 * is known, each with the states in which the fault has been found, and more.
 * Where none of them fails, more are judged: how soon a fault shows depends on
 * when the kernel happens to write back.
 */
const SHORT: [name: string, states: number][] = [
  ["parted on a raw disk", 40],
  ["rename durable on ext4", 20],
  ["rename atomic on ext4 noauto_da_alloc", 8],
  ["sqlite3 WAL+FULL", 20],
  ["sqlite3 OFF+OFF", 8],
  ["PostgreSQL default on ext4", 16],
  ["PostgreSQL fsync=off on ext4", 4],
];

for (const [name, maxStates] of SHORT) {
  const { ignore, ...program } = programCalled(name);
  const { survives } = program;
  Deno.test({
    name: `crashTest() finds that ${name} ${
      survives ? "survives power cuts" : "does not survive power cuts"
    }`,
    ignore,
    async fn() {
      await using dir = await tempDir();
      const record = dir.join("recording");
      const { size: _size, prepare: _prepare, run: _run, ...judged } =
        crashTestOf(program);
      for (let most = maxStates;; most *= 4) {
        const { explored, groups } = await runCrashTest({
          ...most === maxStates
            ? { ...crashTestOf(program), record }
            : { ...judged, recording: record },
          maxStates: most,
        });
        const { states, failed, unstable, unjudged, exhaustive } = explored;
        assertEquals({ unstable, unjudged }, { unstable: 0, unjudged: 0 });
        assert(states === most || exhaustive);
        if (survives) {
          assertEquals(groups.map(({ message }) => message), []);
          break;
        }
        if (failed > 0) {
          assert(groups[0]!.story !== null);
          break;
        }
        assert(!exhaustive && most < 400, `none of ${states} states fails`);
      }
    },
  });
}
