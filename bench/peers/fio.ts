/**
 * fio, the field's own measure.
 *
 * @module
 */

import { type Measurement, Unavailable, type Work } from "../work.ts";

/**
 * What fio is asked to do.
 *
 * @param engine Its `--ioengine`.
 * @param work The measurement.
 * @returns Its arguments.
 */
export function fioArguments(engine: string, work: Work): string[] {
  const writes = work.operation.startsWith("write");
  const kind = work.operation === "mixed" ? "rw" : writes ? "write" : "read";
  return [
    "--name=bench",
    // A colon would separate two files.
    `--filename=${work.path.replaceAll(":", "\\:")}`,
    `--size=${work.bytes}`,
    "--allow_file_create=0",
    `--ioengine=${engine}`,
    `--rw=${work.order === "random" ? "rand" : ""}${kind}`,
    `--bs=${work.blockBytes}`,
    `--iodepth=${work.depth}`,
    `--direct=${work.direct ? 1 : 0}`,
    ...(work.operation === "write + flush" ? ["--fdatasync=1"] : []),
    "--time_based",
    `--runtime=${Math.round(work.seconds * 1000)}ms`,
    `--ramp_time=${Math.round(work.warmUpSeconds * 1000)}ms`,
    "--randrepeat=0",
    "--norandommap",
    // From the call to the answer, as the others measure it.
    "--lat_percentiles=1",
    "--clat_percentiles=0",
    "--percentile_list=50:99:99.9",
    "--output-format=json",
  ];
}

interface FioDirection {
  total_ios: number;
  io_bytes: number;
  runtime: number;
  iops: number;
  bw_bytes: number;
  lat_ns: { percentile?: Record<string, number> };
}

interface FioJob {
  error: number;
  job_runtime: number;
  usr_cpu: number;
  sys_cpu: number;
  read: FioDirection;
  write: FioDirection;
}

/**
 * Reads what fio printed.
 *
 * @param output Its output: JSON, with warnings before it.
 * @param operation What it was asked to do.
 * @returns The measurement.
 */
export function parseFio(
  output: string,
  operation: Work["operation"],
): Measurement {
  const report: { jobs: FioJob[] } = JSON.parse(
    output.slice(output.indexOf("{")),
  );
  const job = report.jobs[0]!;
  const directions = operation === "mixed"
    ? [job.read, job.write]
    : [operation === "read" ? job.read : job.write];
  const seconds = directions[0]!.runtime / 1000;
  const percentiles = operation === "write + flush"
    ? undefined // Those are of the write alone.
    : directions[0]!.lat_ns.percentile;
  // Rates, not totals: a total has the requests that the ramp began.
  const sum = (value: (direction: FioDirection) => number) =>
    directions.reduce((total, direction) => total + value(direction), 0);
  return {
    operations: Math.round(sum(({ iops }) => iops) * seconds),
    bytes: Math.round(sum(({ bw_bytes }) => bw_bytes) * seconds),
    seconds,
    cpuSeconds: (job.usr_cpu + job.sys_cpu) / 100 * job.job_runtime / 1000,
    latency: percentiles === undefined ? null : {
      p50: percentiles["50.000000"]! / 1000,
      p99: percentiles["99.000000"]! / 1000,
      p999: percentiles["99.900000"]! / 1000,
    },
  };
}

/**
 * Turns fio's complaint into one line.
 *
 * @param engine The engine.
 * @param output What it printed.
 * @returns The error.
 */
export function fioError(engine: string, output: string): Unavailable {
  const line = output.split("\n").find((line) => /error|fail|not /i.test(line));
  return new Unavailable(`fio ${engine}: ${line?.trim() ?? "failed"}`);
}
