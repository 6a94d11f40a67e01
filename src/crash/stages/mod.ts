/**
 * The stages by name.
 *
 * @module
 */

import type { Stage, StageName } from "../stage.ts";
import { host } from "./host.ts";
import { raw } from "./raw.ts";

const STAGES: readonly Stage[] = [raw, host];

/** The names of the stages that there are. */
export const STAGE_NAMES: readonly StageName[] = STAGES.map(({ name }) => name);

/**
 * Looks up a stage.
 *
 * @param name Its name.
 * @returns The stage.
 * @throws {TypeError} If there is none of that name.
 */
export function stageOf(name: StageName): Stage {
  const stage = STAGES.find((stage) => stage.name === name);
  if (stage !== undefined) return stage;
  throw new TypeError(
    `Cannot test as the stage must be one of ${
      STAGE_NAMES.join(", ")
    }: current value is ${JSON.stringify(name)}`,
  );
}
