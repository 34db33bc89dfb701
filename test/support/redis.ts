import { connect } from "node:net";
import { startFaultProxy } from "./fault-proxy.ts";
import { type RedisServerOptions, startRedisServer } from "./provision.ts";

/** A Redis for one test file. */
export type TestRedis = {
  readonly url: string;
  /** Ends the server's process; connections break, new ones are refused. What it persists stays. */
  stop(): Promise<void>;
  /** Starts it again at the same address, on the same folder. */
  start(): Promise<void>;
  /** SIGSTOP: connections stay, nothing answers. */
  pause(): void;
  resume(): void;
  close(): Promise<void>;
};

const onPrivateServer = async (options: RedisServerOptions): Promise<TestRedis> => {
  const server = await startRedisServer(options);
  const user_info = options.password === undefined ? "" : `:${encodeURIComponent(options.password)}@`;
  return {
    url: `redis://${user_info}127.0.0.1:${server.port}`,
    stop: () => server.stop(),
    start: () => server.start(),
    pause() {
      process.kill(server.pid(), "SIGSTOP");
    },
    resume() {
      process.kill(server.pid(), "SIGCONT");
    },
    close: () => server.close(),
  };
};

/** Sends commands one after the other and gives back each one's first reply line. */
const ask = (url: URL, commands: readonly (readonly string[])[]): Promise<readonly string[]> =>
  new Promise((resolve, reject) => {
    const socket = connect({ host: url.hostname, port: Number(url.port || 6379) });
    let received = "";
    socket.setTimeout(5_000, () => socket.destroy(new Error("the given Redis does not answer")));
    socket.on("error", reject);
    socket.on("data", (chunk: Buffer) => {
      received += String(chunk);
      const lines = received.split("\r\n").slice(0, -1);
      if (lines.length < commands.length) return;
      socket.end();
      resolve(lines);
    });
    for (const command of commands) {
      const words = command.map((word) => `$${Buffer.byteLength(word)}\r\n${word}\r\n`).join("");
      socket.write(`*${command.length}\r\n${words}`);
    }
  });

const DATABASES = 16;
const CLAIM = "caracal-test-claim";

/**
 * A database of the server that was given, which no other test file uses: its number is claimed by a key in database 0.
 * It is not ours to stop, so a proxy stands before it that can be.
 */
const onGivenServer = async (given: string): Promise<TestRedis> => {
  const url = new URL(given);
  if (url.protocol !== "redis:") throw new Error("TEST_REDIS_URL: must be redis://…; TLS is not supported here");
  const user = decodeURIComponent(url.username);
  const password = decodeURIComponent(url.password);
  const login = password === "" ? [] : [user === "" ? ["AUTH", password] : ["AUTH", user, password]];
  const last = async (...commands: readonly (readonly string[])[]): Promise<string> =>
    (await ask(url, [...login, ...commands])).at(-1) ?? "";
  for (let number = 1; number < DATABASES; number += 1) {
    // It lapses by itself where a test was killed.
    if ((await last(["SET", `${CLAIM}:${number}`, "1", "NX", "EX", "900"])) !== "+OK") continue;
    await last(["SELECT", String(number)], ["FLUSHDB"]);
    const proxy = await startFaultProxy({ host: url.hostname, port: Number(url.port || 6379) });
    const own = new URL(given);
    own.hostname = "127.0.0.1";
    own.port = String(proxy.port);
    own.pathname = `/${number}`;
    return {
      url: own.href,
      async stop() {
        proxy.refuse();
        proxy.cutAll();
      },
      async start() {
        proxy.heal();
      },
      pause: () => proxy.blackHole(),
      resume: () => proxy.heal(),
      async close() {
        await proxy.close();
        await last(["SELECT", String(number)], ["FLUSHDB"], ["SELECT", "0"], ["DEL", `${CLAIM}:${number}`]);
      },
    };
  }
  throw new Error(`TEST_REDIS_URL: all of its ${DATABASES - 1} databases are in use by tests`);
};

/**
 * An empty Redis: a private server, or, with `TEST_REDIS_URL` and no options, a database of that one (`stop` and `pause`
 * then act on the way to it). A password or persistence are always a private server's.
 */
export const startRedis = async (options: RedisServerOptions = {}): Promise<TestRedis> => {
  const given = process.env["TEST_REDIS_URL"];
  return given === undefined || Object.keys(options).length > 0 ? onPrivateServer(options) : onGivenServer(given);
};
