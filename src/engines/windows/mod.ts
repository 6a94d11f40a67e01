/**
 * The engines on Windows: loaded there alone.
 *
 * @module
 */

export { chooseWindowsEngine } from "./choose_engine.ts";
export { WindowsHost } from "./host.ts";
