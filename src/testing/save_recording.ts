/**
 * Writes a recording that is there into a file: its contents, what blocks were
 * in the beginning, and then what happened.
 *
 * @module
 */

import type { BlockSource } from "./block_source.ts";
import { ContentStore } from "./content_store.ts";
import type { CompleteCrashDevice } from "./crash_device.ts";
import { Int32List } from "./int32_list.ts";
import { RecordKind } from "./recording_format.ts";
import { writeHeader } from "./recording_header.ts";
import type { RecordedBase, RecordingLog } from "./recording_log.ts";
import { RecordingWriter } from "./recording_writer.ts";

/** What a recording is made of. */
export interface CrashRecordingParts {
  /** The device. */
  readonly device: CompleteCrashDevice;
  /** What happened. */
  readonly log: RecordingLog;
  /** What was written. */
  readonly contents: ContentStore;
  /** What is on the disk below. */
  readonly source: BlockSource;
  /** The shape of the disk below, and what was read of it; `null` for zeroes. */
  readonly base: RecordedBase | null;
  /** Whether the recorder ended it, and was not killed. */
  readonly ended: boolean;
}

/** Bytes of contents that stay in memory while they are written. */
const MEMORY_BYTES = 4 << 20;

/** Blocks of one record. */
const MOST_BLOCKS = 4096;

/**
 * Saves a recording.
 *
 * @param parts The recording.
 * @param path Where; nothing may be there.
 * @param options Whether all of the base goes into the file, and what gives up.
 * @throws {DiskError} If the file cannot be written, or the base not be read.
 */
export async function saveRecording(
  parts: CrashRecordingParts,
  path: string,
  options: { withBase?: boolean | undefined; signal?: AbortSignal | undefined },
): Promise<void> {
  const { withBase = false, signal } = options;
  signal?.throwIfAborted();
  const { device, log, base } = parts;
  const { blockSize } = device;
  const header = writeHeader({
    device,
    base: base?.shape ?? null,
    starts: log.started,
  });
  const writer = new RecordingWriter(path, header, blockSize);
  try {
    const store = new ContentStore(blockSize, writer, MEMORY_BYTES);
    const numbers = takeContents(parts, store);
    const numberOf = (content: number) => numbers.at(content);
    writeBlocks(writer, RecordKind.Initial, initialOf(parts, numberOf));
    if (base !== null) {
      for (const [chunk, sum] of base.sums) writer.baseSum(chunk, sum);
      if (withBase) await writeBase(parts, store, writer, signal);
    }
    writeEvents(log, writer, numberOf);
    if (parts.ended) writer.end();
    else writer.flush();
  } catch (error) {
    writer.remove();
    throw error;
  }
  writer.close();
}

/** Takes all contents, and returns the numbers that they have in the file. */
function takeContents(
  { contents, device }: CrashRecordingParts,
  store: ContentStore,
): Int32List {
  const numbers = new Int32List();
  numbers.push(0);
  while (numbers.length <= contents.count) {
    const first = numbers.length;
    const bytes = contents.readSome(first, contents.count - first + 1);
    const copy = (from: number, target: Uint8Array) => {
      target.set(bytes.subarray(from, from + target.length));
    };
    store.take(bytes.length / device.blockSize, copy, numbers);
  }
  return numbers;
}

/** What blocks were before all writes; zeroes go without saying over zeroes. */
function* initialOf(
  { log, base }: CrashRecordingParts,
  numberOf: (content: number) => number,
): Generator<[block: number, content: number]> {
  for (const [block, content] of log.initial.entries()) {
    if (base !== null || content !== 0) yield [block, numberOf(content)];
  }
}

/** Writes contents of blocks, those of neighbours together. */
function writeBlocks(
  writer: RecordingWriter,
  kind: typeof RecordKind.Initial | typeof RecordKind.BaseBlocks,
  entries: Iterable<[block: number, content: number]>,
): void {
  let first = 0;
  let run: number[] = [];
  for (const [block, content] of entries) {
    if (block !== first + run.length || run.length === MOST_BLOCKS) {
      if (run.length > 0) writer.blocks(kind, first, run);
      first = block;
      run = [];
    }
    run.push(content);
  }
  if (run.length > 0) writer.blocks(kind, first, run);
}

/** Writes all blocks of the base that are not zeroes. */
async function writeBase(
  { device, source }: CrashRecordingParts,
  store: ContentStore,
  writer: RecordingWriter,
  signal: AbortSignal | undefined,
): Promise<void> {
  const blocks = device.sectors / device.blockSectors;
  for (let block = 0; block < blocks; block++) {
    signal?.throwIfAborted();
    const content = store.add(
      source.peek(block) ?? await source.fetch(block),
    );
    if (content !== 0) writer.blocks(RecordKind.BaseBlocks, block, [content]);
  }
  writer.baseIsWhole();
}

function writeEvents(
  log: RecordingLog,
  writer: RecordingWriter,
  numberOf: (content: number) => number,
): void {
  if (log.started) writer.start();
  let acknowledged = 0;
  for (const event of log.events) {
    if (event.kind === "acknowledge") {
      writer.acknowledge(log.acknowledged[acknowledged++]);
    } else if (event.kind === "complete") writer.complete(event.request);
    else {
      const { request } = event;
      writer.submit(
        request,
        request.origin,
        (i) => numberOf(request.contentOf(i)),
      );
    }
  }
}
