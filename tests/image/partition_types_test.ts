import { partitionTypeName } from "@platter/disk/image";
import { assertEquals } from "@std/assert";

Deno.test("partitionTypeName() knows GUIDs in either case and type bytes", () => {
  const efi = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B";
  assertEquals(partitionTypeName(efi), "EFI system");
  assertEquals(partitionTypeName(efi.toLowerCase()), "EFI system");
  assertEquals(partitionTypeName("0x05"), "extended");
  assertEquals(partitionTypeName("0x5"), "extended");
  assertEquals(partitionTypeName("0x02"), undefined);
  assertEquals(partitionTypeName("constructor"), undefined);
});
