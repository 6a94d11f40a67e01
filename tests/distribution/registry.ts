/**
 * A registry on loop-back that answers as JSR does: `meta.json` with versions,
 * `VERSION_meta.json` with exports and checksums, files, and the part of its API
 * that `deno publish` talks to. So what `deno publish` sends is what is served:
 * imports are rewritten as they will be on JSR. Deno is sent here by `JSR_URL`.
 *
 * Data flows from `deno publish`, or from files here, into a map of packages, and
 * out to whoever asks. Nothing is kept on disk.
 *
 * Source: https://jsr.io/docs/api, and `cli/tools/publish` of Deno.
 *
 * @module
 */

/** One version of a package. */
export interface Release {
  /** Its version. */
  readonly version: string;
  /** Entries by name, such as `"./cli"`. */
  readonly exports: Readonly<Record<string, string>>;
  /** Files by path, each path with a slash in front. */
  readonly files: ReadonlyMap<string, Uint8Array>;
}

/** A registry that runs. */
export class Registry implements AsyncDisposable {
  readonly #server: Deno.HttpServer<Deno.NetAddr>;
  readonly #releases = new Map<string, Release>();
  /** What was asked for and is not here. */
  readonly missing: string[] = [];

  /** Starts it. */
  constructor() {
    this.#server = Deno.serve(
      { hostname: "127.0.0.1", port: 0, onListen: () => {} },
      (request) => this.#answer(request),
    );
  }

  /** What `JSR_URL` must be. */
  get url(): string {
    return `http://127.0.0.1:${this.#server.addr.port}/`;
  }

  /** Serves a package, such as `"@std/cli"`. */
  add(name: string, release: Release): void {
    this.#releases.set(name, release);
  }

  /** What was published under a name. */
  get(name: string): Release | undefined {
    return this.#releases.get(name);
  }

  async #answer(request: Request): Promise<Response> {
    const { pathname } = new URL(request.url);
    const found = pathname.startsWith("/api/")
      ? await this.#api(request, pathname.slice("/api/".length))
      : await this.#file(pathname);
    if (found !== null) return found;
    await request.body?.cancel();
    this.missing.push(`${request.method} ${pathname}`);
    return Response.json({ code: "notFound", message: pathname }, {
      status: 404,
    });
  }

  async #file(pathname: string): Promise<Response | null> {
    const match = /^\/(@[^/]+\/[^/]+)\/(.+)$/.exec(pathname);
    const release = this.#releases.get(match?.[1] ?? "");
    if (match === null || release === undefined) return null;
    const [, name, rest] = match;
    const { version, exports, files } = release;
    if (rest === "meta.json") {
      const [scope] = name!.slice(1).split("/");
      const versions = { [version]: { createdAt: "2020-01-01T00:00:00Z" } };
      return Response.json({ scope, name, latest: version, versions });
    }
    if (rest === `${version}_meta.json`) {
      const manifest: Record<string, { size: number; checksum: string }> = {};
      for (const [path, bytes] of files) {
        const hash = await crypto.subtle.digest("SHA-256", bytes.slice());
        const checksum = `sha256-${new Uint8Array(hash).toHex()}`;
        manifest[path] = { size: bytes.length, checksum };
      }
      return Response.json({ manifest, exports });
    }
    const bytes = rest!.startsWith(`${version}/`)
      ? files.get(rest!.slice(version.length))
      : undefined;
    return bytes === undefined ? null : new Response(bytes.slice());
  }

  /** What `deno publish` asks: is there such a package, take this version. */
  async #api(request: Request, path: string): Promise<Response | null> {
    const match = /^scopes\/([^/]+)\/packages\/([^/]+)(\/versions\/(.+))?$/
      .exec(path);
    if (match !== null && request.method === "POST") {
      const [, scope, name, , version] = match;
      const files = await unpack(new Uint8Array(await request.arrayBuffer()));
      const config = new URL(request.url).searchParams.get("config") ?? "";
      const text = new TextDecoder().decode(files.get(config));
      const { exports } = JSON.parse(text) as Release;
      this.add(`@${scope}/${name}`, { version: version!, exports, files });
      return Response.json(taskOf(version!));
    }
    if (match !== null && match[3] === undefined) {
      const [, scope, name] = match;
      return Response.json({ scope, name, isArchived: false });
    }
    return path.startsWith("publish_status/")
      ? Response.json(taskOf(path.slice("publish_status/".length)))
      : null;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#server.shutdown();
  }
}

/** A publishing task that is done. */
function taskOf(id: string) {
  return { id, status: "success", error: null };
}

/** The files of a tar.gz, as `deno publish` sends it. */
async function unpack(archive: Uint8Array): Promise<Map<string, Uint8Array>> {
  const dir = await Deno.makeTempDir({ prefix: "platter-publish-" });
  try {
    await Deno.writeFile(`${dir}.tgz`, archive);
    const { success } = await new Deno.Command("tar", {
      args: ["-xzf", `${dir}.tgz`, "-C", dir],
    }).output();
    if (!success) throw new Error("Cannot unpack what was published");
    return await filesIn(dir);
  } finally {
    await Deno.remove(`${dir}.tgz`).catch(() => {});
    await Deno.remove(dir, { recursive: true });
  }
}

/**
 * Reads a folder.
 *
 * @param dir The folder.
 * @returns Its files, by paths with a slash in front.
 */
export async function filesIn(dir: string): Promise<Map<string, Uint8Array>> {
  const files = new Map<string, Uint8Array>();
  const visit = async (folder: string): Promise<void> => {
    for await (const entry of Deno.readDir(`${dir}${folder}`)) {
      const path = `${folder}/${entry.name}`;
      if (entry.isDirectory) await visit(path);
      else files.set(path, await Deno.readFile(`${dir}${path}`));
    }
  };
  await visit("");
  return files;
}
