/**
 * Compares the tables of Windows with mingw's headers, as its compiler sees them:
 * what differs does not compile. Nothing is run. The compiler is no tool of the
 * gate's; `deno task wine` needs it anyway.
 *
 * @module
 */

import * as abi from "../../ffi/windows_abi.ts";
import { WINDOWS_ERRNO } from "../../ffi/windows_errno.ts";
import { assertEquals } from "@std/assert";
import { hasTool, tempDir } from "../helpers.ts";

const COMPILER = "x86_64-w64-mingw32-gcc";

/** `NAME` or an expression of C, and what it must be; by prefix of the names. */
function pairs(prefix: string, table: Record<string, number>) {
  return Object.entries(table).map(([name, value]) =>
    [`${prefix}${name}`, value] as const
  );
}

const NAMES = {
  Basic: "FileBasicInformation",
  Standard: "FileStandardInformation",
  Internal: "FileInternalInformation",
  Alignment: "FileAlignmentInformation",
  EndOfFile: "FileEndOfFileInformation",
} as const;

const ignore = !hasTool(COMPILER);
if (ignore) console.warn(`A test is skipped as ${COMPILER} is missing`);

Deno.test({
  name: "the tables of Windows are those of mingw's headers",
  ignore,
  async fn() {
    const equal: (readonly [string, number])[] = [
      ...pairs("", abi.ACCESS),
      ...pairs("FILE_SHARE_", abi.SHARE),
      ["OPEN_EXISTING", abi.OPEN_EXISTING],
      ...pairs("FILE_FLAG_", abi.FILE_FLAG),
      ...pairs("FILE_ATTRIBUTE_", abi.FILE_ATTRIBUTE),
      ...pairs("", abi.CONTROL),
      ...pairs("LOCKFILE_", abi.LOCKFILE),
      ...pairs("", abi.VIRTUAL),
      ...pairs("STATUS_", abi.STATUS),
      ...pairs("", WINDOWS_ERRNO),
      ...Object.entries(abi.FILE_INFORMATION).map(([name, value]) =>
        [NAMES[name as keyof typeof NAMES], value] as const
      ),
      ["FileFsVolumeInformation", abi.VOLUME_INFORMATION.Volume],
      ["FileFsSizeInformation", abi.VOLUME_INFORMATION.Size],
      ["FileFsDeviceInformation", abi.VOLUME_INFORMATION.Device],
      ["FileFsAttributeInformation", abi.VOLUME_INFORMATION.Attribute],
      ["StorageAccessAlignmentProperty", abi.STORAGE_ACCESS_ALIGNMENT],
      // Where the fields of structures are.
      ["offsetof(OVERLAPPED, Offset)", 16],
      ["offsetof(OVERLAPPED, hEvent)", 24],
      ["offsetof(OVERLAPPED_ENTRY, lpOverlapped)", 8],
      ["offsetof(OVERLAPPED_ENTRY, Internal)", 16],
      ["offsetof(OVERLAPPED_ENTRY, dwNumberOfBytesTransferred)", 24],
      ["sizeof(OVERLAPPED_ENTRY)", 32],
      ["sizeof(FILE_ZERO_DATA_INFORMATION)", 16],
      ["sizeof(FILE_ALLOCATED_RANGE_BUFFER)", 16],
      [
        "offsetof(STORAGE_ACCESS_ALIGNMENT_DESCRIPTOR, BytesPerLogicalSector)",
        16,
      ],
      [
        "offsetof(STORAGE_ACCESS_ALIGNMENT_DESCRIPTOR, BytesPerPhysicalSector)",
        20,
      ],
      ["offsetof(STORAGE_DEVICE_NUMBER, DeviceNumber)", 4],
      ["offsetof(VOLUME_DISK_EXTENTS, Extents)", 8],
      ["offsetof(DISK_EXTENT, DiskNumber)", 0],
      ["sizeof(DISK_EXTENT)", 24],
      ["offsetof(DISK_GEOMETRY_EX, Geometry.BytesPerSector)", 20],
    ];
    await using dir = await tempDir();
    const source = `
#define WIN32_NO_STATUS
#include <windows.h>
#undef WIN32_NO_STATUS
#include <ntstatus.h>
#include <winternl.h>
#include <winioctl.h>
#include <errno.h>
#include <stddef.h>
${
      equal.map(([name, value]) =>
        `_Static_assert((long long)(${name}) == ${value}LL || (unsigned)(${name}) == (unsigned)(${value}LL), "${
          name.replaceAll('"', "")
        }");`
      ).join("\n")
    }
`;
    const path = dir.join("tables.c");
    await Deno.writeTextFile(path, source);
    const { success, stderr } = await new Deno.Command(COMPILER, {
      args: ["-fsyntax-only", "-D_WIN32_WINNT=0x0a00", path],
      stdout: "null",
      stderr: "piped",
    }).output();
    assertEquals(
      success ? "" : new TextDecoder().decode(stderr),
      "",
    );
  },
});
