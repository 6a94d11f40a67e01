/**
 * The stages by name.
 *
 * @module
 */

import type { Stage, StageName } from "../stage.ts";
import { hostStage } from "./host.ts";
import { qemuStage } from "./qemu.ts";
import { rawStage } from "./raw.ts";
import { umlStage } from "./uml.ts";

const STAGES: Readonly<Record<StageName, () => Stage>> = {
  raw: rawStage,
  host: hostStage,
  uml: umlStage,
  qemu: qemuStage,
};

/** The names of the stages that there are. */
export const STAGE_NAMES: readonly StageName[] = Object.keys(
  STAGES,
) as StageName[];

/**
 * Makes a stage.
 *
 * @param name Its name.
 * @returns The stage; whoever asked for it ends it.
 * @throws {TypeError} If there is none of that name.
 */
export function stageOf(name: StageName): Stage {
  if (STAGE_NAMES.includes(name)) return STAGES[name]();
  throw new TypeError(
    `Cannot test as the stage must be one of ${
      STAGE_NAMES.join(", ")
    }: current value is ${JSON.stringify(name)}`,
  );
}
