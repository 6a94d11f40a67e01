/**
 * Every small case of {@linkcode AlignmentPlanner}: all ranges of a small file,
 * on all hosts whose blocks, memory, tail and longest calls are a few bytes. The
 * rules are those of arithmetic, so that what holds for blocks of 2, 3 and 4
 * bytes holds for those of 512 and 4,096.
 *
 * @module
 */

import { assert, assertEquals, assertThrows } from "@std/assert";
import {
  AlignmentPlanner,
  type HostLimits,
  MAX_CALL_BYTES,
  NO_ADDRESS,
  type Piece,
  roundDown,
  roundUp,
  Way,
} from "../../src/backends/alignment_plan.ts";

/** Bytes of the small file. */
const SIZE = 13;

/** A request, and the address of its memory. */
interface Range {
  start: number;
  end: number;
  address: number;
}

function* allHosts(): Generator<HostLimits> {
  for (const writes of [false, true]) {
    for (const alignment of [1, 2, 3, 4]) {
      for (const memoryAlignment of [1, 2, 4]) {
        // Some are no whole blocks, as little as a file is.
        for (const maxBounceBytes of [alignment, 5, 8]) {
          for (const maxStraightBytes of [alignment, 5, 100]) {
            if (maxBounceBytes < alignment) continue;
            const base = {
              writes,
              alignment,
              memoryAlignment,
              maxBounceBytes,
              maxStraightBytes,
              maxSegments: 3,
            };
            yield { ...base, tailStart: Infinity };
            yield { ...base, tailStart: roundDown(SIZE, alignment) };
          }
        }
      }
    }
  }
}

function* allRanges(host: HostLimits): Generator<Range> {
  for (let start = 0; start < SIZE; start++) {
    for (let end = start + 1; end <= SIZE; end++) {
      yield { start, end, address: NO_ADDRESS };
      for (let address = 0; address < host.memoryAlignment; address++) {
        yield { start, end, address };
      }
    }
  }
}

/** All pieces of a request, each planned from where the one before it ended. */
function piecesOf(planner: AlignmentPlanner, range: Range): Piece[] {
  const { start, end, address } = range;
  const pieces: Piece[] = [];
  for (let position = start; position < end;) {
    const at = address === NO_ADDRESS ? NO_ADDRESS : address + position - start;
    const piece = { ...planner.plan(position, end, at) };
    assert(piece.length > 0, "a piece that moves nothing");
    pieces.push(piece);
    position += piece.length;
  }
  return pieces;
}

/** Runs a check on every range of every host, and says which one failed. */
function forAll(check: (host: HostLimits, range: Range, it: Piece[]) => void) {
  let cases = 0;
  for (const host of allHosts()) {
    const planner = new AlignmentPlanner(host);
    for (const range of allRanges(host)) {
      const pieces = piecesOf(planner, range);
      try {
        check(host, range, pieces);
      } catch (cause) {
        const found = JSON.stringify({ host, range, pieces }, null, 1);
        throw new Error(`The plan is wrong: ${found}`, { cause });
      }
      cases++;
    }
  }
  assert(cases > 100_000, `only ${cases} cases`);
}

/** The host's block at a position: 1 in the tail, which is buffered. */
function blockAt(host: HostLimits, position: number): number {
  return position >= host.tailStart ? 1 : host.alignment;
}

Deno.test("AlignmentPlanner.plan() covers each range once, in order, on its side of the tail", () => {
  forAll((host, { start, end }, pieces) => {
    let position = start;
    for (const piece of pieces) {
      const { offset, span, skip, length, inTail } = piece;
      assertEquals(offset + skip, position);
      assert(skip >= 0 && skip + length <= span, "beside its blocks");
      assertEquals(inTail, position >= host.tailStart);
      position += length;
      assert(inTail || position <= host.tailStart, "across the tail's start");
      // A read may ask for what lies beyond the end, a write may not make it so.
      assert(!host.writes || inTail || offset + span <= host.tailStart);
    }
    assertEquals(position, end);
  });
});

Deno.test("AlignmentPlanner.plan() aligns every call and makes none too long", () => {
  forAll((host, { start, address }, pieces) => {
    let position = start;
    for (const { way, offset, span, skip, length } of pieces) {
      const block = blockAt(host, position);
      assert(offset % block === 0 && span % block === 0, "beside a block");
      if (way === Way.Straight) {
        assert(skip === 0 && length === span);
        assert(address !== NO_ADDRESS, "memory that the kernel may not have");
        assertEquals((address + position - start) % host.memoryAlignment, 0);
        assert(span <= host.maxStraightBytes);
      } else {
        assert(span <= host.maxBounceBytes);
      }
      position += length;
    }
  });
});

Deno.test("AlignmentPlanner.plan() keeps every byte around a write, and reads no block without need", () => {
  forAll((host, { start }, pieces) => {
    let position = start;
    for (const piece of pieces) {
      const { way, offset, span, skip, length } = piece;
      const block = blockAt(host, position);
      const read = new Set<number>();
      if (piece.readsFirst) read.add(offset);
      if (piece.readsLast) read.add(offset + span - block);
      assertEquals(read.size, Number(piece.readsFirst) + +piece.readsLast);
      // The blocks of the span that are not wholly written.
      const parts = new Set<number>();
      for (let byte = offset; byte < offset + span; byte++) {
        if (byte < offset + skip || byte >= offset + skip + length) {
          parts.add(roundDown(byte, block));
        }
      }
      assertEquals(read, host.writes ? parts : new Set());
      assertEquals(way === Way.Modify, read.size > 0);
      position += length;
    }
  });
});

Deno.test("AlignmentPlanner.plan() copies nothing that can go straight", () => {
  forAll((host, { start, end, address }, pieces) => {
    let position = start;
    for (const { way, length } of pieces) {
      const until = position < host.tailStart
        ? Math.min(end, host.tailStart)
        : end;
      const block = blockAt(host, position);
      const left = until - position;
      const aligned = position % block === 0 && address !== NO_ADDRESS &&
        (address + position - start) % host.memoryAlignment === 0;
      // The rest as a whole; or what is more than aligned memory holds.
      const bounce = roundDown(host.maxBounceBytes, host.alignment);
      const straight = aligned && (left % block === 0 || left > bounce);
      assertEquals(way === Way.Straight, straight);
      if (straight) {
        const most = roundDown(host.maxStraightBytes, host.alignment);
        assertEquals(length, Math.min(roundDown(left, block), most));
      }
      position += length;
    }
  });
});

Deno.test("AlignmentPlanner.plan() makes as few calls as can be", () => {
  const calls = (piece: Piece) =>
    1 + Number(piece.readsFirst) + Number(piece.readsLast);
  /** Calls that the best division needs, found by trying all of them. */
  const fewest = (host: HostLimits, range: Range): number => {
    const { start, end, address } = range;
    const best = new Array<number>(end + 1).fill(Infinity);
    best[end] = 0;
    for (let from = end - 1; from >= start; from--) {
      const block = blockAt(host, from);
      const side = from < host.tailStart ? Math.min(end, host.tailStart) : end;
      for (let to = from + 1; to <= side; to++) {
        const first = roundDown(from, block);
        const span = roundUp(to, block) - first;
        const edges = new Set<number>();
        if (host.writes && from > first) edges.add(first);
        if (host.writes && to % block !== 0) edges.add(roundDown(to, block));
        const straight = from === first && to % block === 0 &&
          address !== NO_ADDRESS &&
          (address + from - start) % host.memoryAlignment === 0 &&
          span <= host.maxStraightBytes;
        if (!straight && span > host.maxBounceBytes) continue;
        best[from] = Math.min(best[from]!, 1 + edges.size + best[to]!);
      }
    }
    return best[start]!;
  };
  let checked = 0;
  forAll((host, range, pieces) => {
    // Where calls on the caller's memory are shorter than those on aligned
    // memory, not to copy is worth one more. And where memory is aligned to more
    // than a block, it may come right in the middle of a piece that is copied.
    if (
      host.maxStraightBytes < host.maxBounceBytes ||
      host.alignment % host.memoryAlignment !== 0
    ) return;
    checked++;
    const made = pieces.reduce((sum, piece) => sum + calls(piece), 0);
    assertEquals(made, fewest(host, range));
  });
  assert(checked > 10_000, `only ${checked} cases`);
});

/** A host of 4,096 bytes as both backends meet it. */
const HOST: HostLimits = {
  writes: true,
  alignment: 4096,
  memoryAlignment: 4096,
  tailStart: Infinity,
  maxStraightBytes: Infinity,
  maxBounceBytes: 1 << 20,
  maxSegments: 3,
};

Deno.test("AlignmentPlanner.plan() modifies one host block for a sector, and two for sectors of both", () => {
  const planner = new AlignmentPlanner(HOST);
  const sector = { start: 17 * 512, end: 18 * 512, address: 0 };
  assertEquals(piecesOf(planner, sector), [{
    way: Way.Modify,
    offset: 8192,
    span: 4096,
    skip: 512,
    length: 512,
    inTail: false,
    readsFirst: true,
    readsLast: false,
  }]);
  const three = { start: 7 * 512, end: 10 * 512, address: 0 };
  assertEquals(piecesOf(planner, three), [{
    way: Way.Modify,
    offset: 0,
    span: 8192,
    skip: 3584,
    length: 1536,
    inTail: false,
    readsFirst: true,
    readsLast: true,
  }]);
});

Deno.test("AlignmentPlanner.plan() holds beyond 32 bits, and moves less than MAX_RW_COUNT at once", () => {
  const planner = new AlignmentPlanner(HOST);
  const start = 2 ** 45;
  const whole = { start, end: start + 2 ** 32, address: 2 ** 47 };
  const pieces = piecesOf(planner, whole);
  assertEquals(pieces.map(({ length }) => length), [
    MAX_CALL_BYTES,
    MAX_CALL_BYTES,
    MAX_CALL_BYTES,
    MAX_CALL_BYTES,
  ]);
  // MAX_RW_COUNT is INT_MAX & PAGE_MASK: include/linux/fs.h.
  assert(MAX_CALL_BYTES <= (2 ** 31 - 1 - 4095));
  const ragged = { start, end: start + (3 << 20) + 512, address: 4096 };
  assertEquals(
    piecesOf(planner, ragged).map(({ way, length }) => [way, length]),
    [[Way.Straight, 3 << 20], [Way.Modify, 512]],
  );
});

Deno.test("AlignmentPlanner.takesSegments() takes whole host blocks on pages, and no more than one call", () => {
  const pages = (count: number) => new Uint8Array(count * 4096);
  const takes = (
    segments: Uint8Array[],
    address = 4096,
    limits: Partial<HostLimits> = {},
  ) =>
    new AlignmentPlanner({ ...HOST, ...limits }).takesSegments(
      {
        segmentCount: segments.length,
        segment: (index) => segments[index]!,
      },
      () => address,
    );
  const three = [pages(1), pages(3), pages(1)];
  assert(takes(three));
  assertEquals(takes([...three, pages(1)]), false, "IOV_MAX");
  assertEquals(takes(three, NO_ADDRESS), false);
  assertEquals(takes(three, 4096 + 512), false);
  assertEquals(takes([pages(1), new Uint8Array(4096 + 512)]), false);
  const fine = { alignment: 512 };
  assert(takes([pages(1), new Uint8Array(4096 + 512)], 4096, fine));
  assertEquals(takes([pages(1), new Uint8Array(512)], 4096, fine), false);
  assert(takes(three, 4096, { maxStraightBytes: 5 * 4096 }));
  assertEquals(takes(three, 4096, { maxStraightBytes: 4 * 4096 }), false);
});

Deno.test("AlignmentPlanner throws if one host block is more than a call takes", () => {
  for (const limit of ["maxStraightBytes", "maxBounceBytes"] as const) {
    assertThrows(
      () => new AlignmentPlanner({ ...HOST, [limit]: 4095 }),
      RangeError,
      "alignment must be at most 4095 bytes: current value is 4096",
    );
  }
});

Deno.test("roundDown() and roundUp() hold beyond 32 bits", () => {
  assertEquals(roundDown(2 ** 45 + 511, 512), 2 ** 45);
  assertEquals(roundUp(2 ** 45 + 1, 4096), 2 ** 45 + 4096);
  assertEquals(roundUp(0, 512), 0);
  assertEquals(roundDown(512, 512), 512);
  assertEquals(roundUp(512, 512), 512);
  assertEquals(roundUp(7, 1), 7);
});
