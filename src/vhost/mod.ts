/**
 * Any disk over vhost-user, so that QEMU, Cloud Hypervisor and User Mode Linux
 * have it as their virtio disk. {@linkcode VhostServer} is where to start.
 *
 * @module
 */

export type { VhostCounters } from "./counters.ts";
export { GuestFault } from "./memory_map.ts";
export { VhostProtocolError } from "./messages.ts";
export { VhostServer, type VhostServerOptions } from "./server.ts";
export { VirtqueueError } from "./virtqueue.ts";
