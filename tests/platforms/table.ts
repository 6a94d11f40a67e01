/**
 * The table that `deno task platforms` prints.
 *
 * @module
 */

import type { Row } from "./platform.ts";

/**
 * Lays out rows as text.
 *
 * @param rows The rows.
 * @param date When they were found.
 * @returns A table in Markdown, and below it what failed.
 */
export function table(rows: readonly Row[], date: Date): string {
  const day = date.toISOString().slice(0, 10);
  const cells = [
    [
      "platform",
      "kernel",
      "passed",
      "failed",
      "skipped",
      "differences",
      "date",
    ],
    ...rows.map(({ name, kernel, outcome, reason }) =>
      outcome === null
        ? [name, kernel, "", "", "", `not run: ${reason ?? "unknown"}`, day]
        : [
          name,
          kernel,
          ...[outcome.passed, outcome.failed, outcome.skipped].map(String),
          outcome.differences.join("; ") || "none",
          day,
        ]
    ),
  ].map((row) => row.map((cell) => cell.replaceAll("|", "\\|")));
  const widths = cells[0]!.map((_, i) =>
    Math.max(...cells.map((row) => row[i]!.length))
  );
  const line = (row: readonly string[]) =>
    `| ${row.map((cell, i) => cell.padEnd(widths[i]!)).join(" | ")} |`;
  const rule = `| ${widths.map((width) => "-".repeat(width)).join(" | ")} |`;
  const failures = rows.flatMap(({ name, outcome }) =>
    outcome?.failures.map((text) => `${name}: ${text}`) ?? []
  );
  return [
    line(cells[0]!),
    rule,
    ...cells.slice(1).map(line),
    ...failures.length > 0 ? ["", "Failed:", ...failures] : [],
  ].join("\n");
}
