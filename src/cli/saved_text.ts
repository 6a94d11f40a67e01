/**
 * Texts that a verb makes of what it found out, in a file.
 *
 * @module
 */

import { saveFile, type Saving } from "./saved_file.ts";

/**
 * Saves a text.
 *
 * @param path Where.
 * @param text The text.
 * @param saving How.
 * @returns When all of it is durable.
 * @throws {CliError} If it cannot be; it says what is left. A file that was made
 * for it is removed.
 */
export async function saveText(
  path: string,
  text: string,
  saving: Saving,
): Promise<void> {
  const bytes = new TextEncoder().encode(text);
  await saveFile(path, saving, (write) => write(bytes));
}
