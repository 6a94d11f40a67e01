import { VirtualDisk } from "@platter/disk";

const path = await Deno.makeTempDir() + "/disk.img";
await using disk = await VirtualDisk.create(path, { sectors: 131_072 }); // 64 MiB
const data = disk.allocate(8).fill(0xa5); // 8 sectors of 512 bytes, aligned
await Promise.all([disk.write(0, data), disk.write(8, data)]); // one request
await disk.flush(); // durable now: disk.info.durability says how far
const back = await disk.read(0, 16);
console.log(back.length, "bytes read, direct I/O:", disk.info.direct.active);
