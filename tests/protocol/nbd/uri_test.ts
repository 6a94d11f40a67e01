import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { VirtualDisk } from "../../../src/disk/disk.ts";
import {
  formatNbdUri,
  isNbdUri,
  parseNbdUri,
} from "../../../src/protocol/nbd/uri.ts";

Deno.test("parseNbdUri() reads what formatNbdUri() writes", () => {
  const targets = [
    {
      address: { transport: "tcp", hostname: "127.0.0.1", port: 10_809 },
      exportName: "",
    },
    {
      address: { transport: "tcp", hostname: "::1", port: 1 },
      exportName: "a/b?c é",
    },
    {
      address: { transport: "unix", path: "/tmp/a b+c&d.sock" },
      exportName: "x",
    },
    {
      address: { transport: "tcp", hostname: "a", port: 2 },
      exportName: "",
      tls: { certificates: "/etc/a b+c" },
    },
    {
      address: { transport: "tcp", hostname: "a", port: 2 },
      exportName: "",
      tls: {},
    },
  ] as const;
  for (const target of targets) {
    const uri = formatNbdUri(target);
    assert(isNbdUri(uri));
    assertEquals(parseNbdUri(uri), target);
  }
  assertEquals(parseNbdUri("nbd://host").address, {
    transport: "tcp",
    hostname: "host",
    port: 10_809,
  });
  assertEquals(parseNbdUri("nbd://user@host:1/%25").exportName, "%");
  assert(!isNbdUri("nbd:disk.img"));
  assert(!isNbdUri("disk.img"));
});

Deno.test("parseNbdUri() says what is wrong with a URI, and what to do", async () => {
  const long = "x".repeat(200);
  for (
    const [uri, message] of [
      ["nbds+unix:///?socket=/x", "no TLS over a socket"],
      ["nbds://host/?tls-verify-peer=false", "no tls-verify-peer"],
      ["nbds://alice@host/?tls-psk-file=/x", "no tls-psk-file"],
      ["nbds://host/?tls-certificates=/%zz", "every % in its parameter"],
      ["nbd://host/?tls-certificates=/x", "it must begin with nbds://"],
      ["nbd+unix:///", "must say where the socket is"],
      ["nbd+unix:///name?sock=/x", "must say where the socket is"],
      ["nbd+unix:///name?socket=", "must say where the socket is"],
      ["nbd+unix://host/?socket=/x", "must have three slashes"],
      ["nbd+unix:///?socket=/%zz", "every % in its parameter socket"],
      ["nbd+unix:///?socket=/a%00b", "zero"],
      [`nbd+unix:///?socket=/${long}`, "socket's path must be 10"],
      ["nbd://host/?socket=/x", "must begin with nbd+unix:///"],
      ["nbd://host/%zz", "every % in its export's name"],
      ["nbd://host/%ff", "every % in its export's name"],
      [`nbd://host/${"%41".repeat(4097)}`, "current value is 4097 bytes"],
      ["nbd://host:99999/", "port must be from 1 to 65535"],
      ["nbd://host:0/", "port must be from 1 to 65535"],
      ["nbd://host:http/", "port must be from 1 to 65535"],
      ["nbd://::1/", "must be in brackets"],
      ["nbd+vsock://2/", "nbd+vsock is no transport"],
      ["nbd:unix:/tmp/socket:exportname=x", "nbd+unix:///NAME?socket=PATH"],
      ["nbd:host:10809", "nbd://HOST/NAME"],
    ] as const
  ) {
    assert(isNbdUri(uri), uri);
    assertThrows(() => parseNbdUri(uri), TypeError, message);
    // And that is what whoever opens it hears.
    await assertRejects(() => VirtualDisk.open(uri), TypeError, message);
  }
  assertThrows(() => parseNbdUri("file:///x"), TypeError, "nbd://HOST/NAME");
});
