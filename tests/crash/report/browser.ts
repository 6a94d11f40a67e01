/**
 * A headless Chromium, driven by its DevTools protocol: opens a page of ours at
 * some width, in a light or dark scheme, and answers questions about it.
 */

import { hasTool, pause } from "../../helpers.ts";

/** How a page is looked at. */
export interface View {
  width: number;
  height: number;
  scheme: "light" | "dark";
  media?: "screen" | "print";
}

/** A page that is open. */
export interface Page {
  /** The value of an expression, as JSON has it. */
  evaluate<T>(expression: string): Promise<T>;
  /** What the page complained of: console, exceptions, what was not loaded. */
  readonly complaints: readonly string[];
}

/** The name of the browser here; `null` if there is none. */
export const CHROMIUM: string | null =
  ["chromium", "chromium-browser", "google-chrome"].find(hasTool) ?? null;

interface Message {
  id?: number;
  method?: string;
  sessionId?: string;
  params?: Record<string, unknown>;
  result?: Record<string, unknown>;
  error?: { message: string };
}

/** A running browser. */
export class Browser implements AsyncDisposable {
  readonly #process: Deno.ChildProcess;
  readonly #socket: WebSocket;
  readonly #profile: string;
  readonly #drained: Promise<void>;
  readonly #waiting = new Map<number, (message: Message) => void>();
  readonly #heard = new Set<(message: Message) => void>();
  #last = 0;

  private constructor(
    process: Deno.ChildProcess,
    socket: WebSocket,
    profile: string,
    drained: Promise<void>,
  ) {
    this.#process = process;
    this.#socket = socket;
    this.#profile = profile;
    this.#drained = drained;
    socket.addEventListener("message", ({ data }) => {
      const message = JSON.parse(data) as Message;
      const waiting = this.#waiting.get(message.id ?? -1);
      this.#waiting.delete(message.id ?? -1);
      waiting?.(message);
      for (const hear of this.#heard) hear(message);
    });
    // Nobody waits for a browser that is no more.
    socket.addEventListener("close", () => {
      const error = { message: "the browser has ended" };
      for (const waiting of this.#waiting.values()) waiting({ error });
      this.#waiting.clear();
    });
  }

  /** Starts one, with a profile of its own. */
  static async start(): Promise<Browser> {
    const profile = await Deno.makeTempDir({ prefix: "platter-chromium-" });
    const process = new Deno.Command(CHROMIUM!, {
      args: [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--disable-background-networking",
        "--no-first-run",
        "--remote-debugging-port=0",
        `--user-data-dir=${profile}`,
        "about:blank",
      ],
      env: { HOME: profile },
      stdin: "null",
      stdout: "null",
      stderr: "piped",
    }).spawn();
    const address = Promise.withResolvers<string>();
    const drained = (async () => {
      let text = "";
      for await (
        const part of process.stderr.pipeThrough(new TextDecoderStream())
      ) {
        text = (text + part).slice(-10_000);
        const match = /DevTools listening on (ws:\S+)/.exec(text);
        if (match !== null) address.resolve(match[1]!);
      }
      address.resolve("");
    })();
    const url = await address.promise;
    if (url === "") throw new Error("Cannot start Chromium as it ends at once");
    const socket = new WebSocket(url);
    await new Promise((resolve, reject) => {
      socket.addEventListener("open", resolve, { once: true });
      socket.addEventListener("error", reject, { once: true });
    });
    return new Browser(process, socket, profile, drained);
  }

  /** Opens a file. */
  async open(path: string, view: View): Promise<Page> {
    const { targetId } = await this.#send("Target.createTarget", {
      url: "about:blank",
    });
    const { sessionId } = await this.#send("Target.attachToTarget", {
      targetId,
      flatten: true,
    });
    const send = (method: string, params: Record<string, unknown> = {}) =>
      this.#send(method, params, sessionId as string);
    const complaints: string[] = [];
    const load = Promise.withResolvers<void>();
    this.#heard.add((message) => {
      if (message.sessionId !== sessionId) return;
      if (message.method === "Page.loadEventFired") load.resolve();
      if (
        /^(Log\.entryAdded|Runtime\.(consoleAPICalled|exceptionThrown)|Network\.loadingFailed)$/
          .test(message.method ?? "")
      ) complaints.push(JSON.stringify(message.params));
    });
    for (const domain of ["Page", "Runtime", "Log", "Network"]) {
      await send(`${domain}.enable`);
    }
    const { width, height, scheme, media = "screen" } = view;
    await send("Emulation.setDeviceMetricsOverride", {
      width,
      height,
      deviceScaleFactor: 1,
      mobile: false,
    });
    await send("Emulation.setEmulatedMedia", {
      media,
      features: [{ name: "prefers-color-scheme", value: scheme }],
    });
    await send("Page.navigate", { url: `file://${path}` });
    await load.promise;
    return {
      complaints,
      async evaluate<T>(expression: string) {
        const { result, exceptionDetails } = await send("Runtime.evaluate", {
          expression,
          returnByValue: true,
        });
        if (exceptionDetails !== undefined) {
          throw new Error(JSON.stringify(exceptionDetails));
        }
        return (result as { value: T }).value;
      },
    };
  }

  #send(
    method: string,
    params: Record<string, unknown>,
    sessionId?: string,
  ): Promise<Record<string, unknown>> {
    const id = ++this.#last;
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, ({ result, error }) => {
        if (error !== undefined) {
          reject(new Error(`${method}: ${error.message}`));
        } else resolve(result!);
      });
      this.#socket.send(JSON.stringify({ id, method, params, sessionId }));
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const closed = new Promise((resolve) =>
      this.#socket.addEventListener("close", resolve, { once: true })
    );
    // It ends with its children, and closes the connection: before it answers, if
    // it is fast.
    await this.#send("Browser.close", {}).catch(() => {});
    await closed;
    await this.#process.status;
    await this.#drained;
    for (let attempts = 1;; attempts++) {
      try {
        return await Deno.remove(this.#profile, { recursive: true });
      } catch (error) {
        // A child may have written to it meanwhile.
        if (attempts === 100) throw error;
        await pause(50);
      }
    }
  }
}
