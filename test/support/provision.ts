import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import {
  chmodSync,
  chownSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { connect, createServer } from "node:net";
import { tmpdir } from "node:os";
import { delimiter, join } from "node:path";

/** A server of our own that can be stopped and started again on the same port and folder; nothing of it survives us. */
export type PrivateServer = {
  readonly port: number;
  /** Of the server's first process; throws while it is stopped. */
  pid(): number;
  stop(): Promise<void>;
  start(): Promise<void>;
  close(): Promise<void>;
};

const onPath = (name: string): string | undefined =>
  (process.env["PATH"] ?? "")
    .split(delimiter)
    .filter((dir) => dir !== "")
    .map((dir) => join(dir, name))
    .find((file) => existsSync(file));

/** The folder with PostgreSQL's `initdb` and `postgres`, the newest where there are several. */
export const findPostgresBin = (): string | undefined => {
  const initdb = onPath("initdb");
  if (initdb !== undefined) return join(initdb, "..");
  const root = "/usr/lib/postgresql"; // Debian keeps the server's programs off the path
  if (!existsSync(root)) return undefined;
  return readdirSync(root)
    .sort((a, b) => Number(b) - Number(a))
    .map((version) => join(root, version, "bin"))
    .find((bin) => existsSync(join(bin, "initdb")) && existsSync(join(bin, "postgres")));
};

/** Where `redis-server` is. */
export const findRedisServer = (): string | undefined => onPath("redis-server");

/** Where `pgbouncer` is. Debian keeps it off the path of those who administer nothing. */
export const findPgBouncer = (): string | undefined =>
  onPath("pgbouncer") ?? ["/usr/sbin/pgbouncer"].find((file) => existsSync(file));

type Owner = { readonly uid: number; readonly gid: number } | undefined;

/** PostgreSQL refuses to run as root, and wants a user that the system knows: `postgres`, else `nobody`. */
const unprivileged = (): Owner => {
  if (process.getuid?.() !== 0) return undefined;
  const lines = readFileSync("/etc/passwd", "utf8").split("\n");
  for (const name of ["postgres", "nobody"]) {
    const fields = lines.find((line) => line.startsWith(`${name}:`))?.split(":");
    if (fields !== undefined) return { uid: Number(fields[2]), gid: Number(fields[3]) };
  }
  throw new Error("running as root, and there is neither a user postgres nor nobody to run PostgreSQL as");
};

/** A port that the kernel says is free. Somebody may take it before it is used: who starts a server tries again. */
export const freePort = (): Promise<number> =>
  new Promise((resolve, reject) => {
    const server = createServer();
    server.once("error", reject);
    server.listen(0, "127.0.0.1", () => {
      const address = server.address();
      const port = typeof address === "object" && address !== null ? address.port : 0;
      server.close(() => resolve(port));
    });
  });

/** A folder of its own under the system's temporary one, that `owner` can use too. */
const privateFolder = (owner: Owner): string => {
  const dir = mkdtempSync(join(tmpdir(), "caracal-test-"));
  chmodSync(dir, 0o755);
  if (owner !== undefined) chownSync(dir, owner.uid, owner.gid);
  return dir;
};

/**
 * A shell stands beside each server and reads from a pipe that we hold: when we are gone, however we went (kill -9
 * included), the pipe ends, and the shell stops the server and removes the folder. It is in a session of its own, so
 * that a terminal's Ctrl-C reaches us alone.
 */
const GUARD = `dir=$1; signal=$2; shift 2
"$@" </dev/null >"$dir/log" 2>&1 &
server=$!
echo "$server"
cat >/dev/null
kill -CONT $server 2>/dev/null
kill -s "$signal" $server 2>/dev/null
wait $server
if [ -e "$dir/keep" ]; then rm -f "$dir/keep"; else rm -rf "$dir"; fi`;

type Guarded = { readonly child: ChildProcess; readonly pid: number; end(): Promise<void> };

const startGuarded = async (
  dir: string,
  signal: string,
  owner: Owner,
  command: readonly string[],
): Promise<Guarded> => {
  const child = spawn("/bin/sh", ["-c", GUARD, "guard", dir, signal, ...command], {
    cwd: dir,
    detached: true,
    stdio: ["pipe", "pipe", "ignore"],
    env: { PATH: process.env["PATH"] ?? "/usr/bin:/bin", LANG: "C" },
    ...(owner ?? {}),
  });
  const pid = await new Promise<number>((resolve, reject) => {
    child.once("error", reject);
    child.once("exit", () => reject(new Error(`${command[0]} could not be started`)));
    child.stdout?.once("data", (line: Buffer) => resolve(Number(String(line).trim())));
  });
  child.removeAllListeners();
  // None of this may keep a test's process alive.
  child.unref();
  for (const stream of [child.stdin, child.stdout]) (stream as unknown as { unref?(): void } | null)?.unref?.();
  const gone = new Promise<void>((resolve) => child.once("exit", () => resolve()));
  return {
    child,
    pid,
    async end() {
      if (child.exitCode !== null || child.signalCode !== null) return;
      child.ref();
      child.stdin?.end();
      await gone;
    },
  };
};

const accepts = (port: number): Promise<boolean> =>
  new Promise((resolve) => {
    const socket = connect({ port, host: "127.0.0.1" });
    socket.once("error", () => resolve(false));
    socket.once("connect", () => {
      socket.destroy();
      resolve(true);
    });
  });

/** Whether a process of that id runs. */
export const alive = (pid: number): boolean => {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
};

const START_TIMEOUT_MS = 30_000;

/** Until the server's log says that it is ready. Rejects with the log's end where it died instead. */
const untilReady = async (guarded: Guarded, dir: string, port: number, ready: RegExp): Promise<void> => {
  const until = performance.now() + START_TIMEOUT_MS;
  const log = (): string => (existsSync(join(dir, "log")) ? readFileSync(join(dir, "log"), "utf8") : "");
  for (;;) {
    if (ready.test(log()) && (await accepts(port))) return;
    if (!alive(guarded.pid) || performance.now() > until) {
      const end = log().trim().split("\n").slice(-5).join("\n");
      await guarded.end();
      throw new Error(`the server on port ${port} did not come up:\n${end}`);
    }
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
};

/** Started by `start` now, and each time again after a stop. */
const restartable = async (port: number, dir: string, start: () => Promise<Guarded>): Promise<PrivateServer> => {
  let running: Guarded | undefined = await start();
  // While it is stopped no guard is there to remove the folder.
  process.once("exit", () => {
    if (running === undefined) rmSync(dir, { recursive: true, force: true });
  });
  return {
    port,
    pid() {
      if (running === undefined) throw new Error("this server is stopped");
      return running.pid;
    },
    async stop() {
      if (running === undefined) return;
      writeFileSync(join(dir, "keep"), "");
      const ending = running;
      running = undefined;
      await ending.end();
    },
    async start() {
      running ??= await start();
    },
    async close() {
      if (running === undefined) rmSync(dir, { recursive: true, force: true });
      else await running.end();
      running = undefined;
    },
  };
};

const ATTEMPTS = 5;

const withFreePort = async <T>(start: (port: number) => Promise<T>): Promise<T> => {
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await start(await freePort());
    } catch (error) {
      if (attempt === ATTEMPTS || !/in use/i.test(String(error))) throw error;
    }
  }
};

export type PostgresServerOptions = {
  /** PEM files; with them the server takes TLS connections beside plain ones. */
  readonly tls?: { readonly cert_file: string; readonly key_file: string };
  /** Further settings, as `name=value`. */
  readonly settings?: readonly string[];
};

/** A PostgreSQL of our own on loopback, superuser `postgres` without password; nothing of it survives us. */
export const startPostgresServer = async (options: PostgresServerOptions = {}): Promise<PrivateServer> => {
  const bin = findPostgresBin();
  if (bin === undefined) throw new Error("no PostgreSQL: its programs (initdb, postgres) were not found");
  const owner = unprivileged();
  return withFreePort(async (port) => {
    const dir = privateFolder(owner);
    const data = join(dir, "data");
    const made = spawnSync(
      join(bin, "initdb"),
      ["-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "-N"],
      { cwd: dir, env: { PATH: process.env["PATH"] ?? "", LANG: "C" }, ...(owner ?? {}) },
    );
    if (made.status !== 0) {
      rmSync(dir, { recursive: true, force: true });
      throw new Error(`initdb failed: ${String(made.stderr).trim()}`);
    }
    const settings = [
      "listen_addresses=127.0.0.1",
      "unix_socket_directories=",
      "fsync=off", // it lives for one run of the tests
      "full_page_writes=off",
      "max_connections=200",
      ...(options.settings ?? []),
    ];
    if (options.tls !== undefined) {
      const folder = join(dir, "tls");
      mkdirSync(folder);
      if (owner !== undefined) chownSync(folder, owner.uid, owner.gid); // or the guard could not remove it
      const copy = (from: string, name: string): string => {
        const to = join(folder, name);
        spawnSync("cp", [from, to]);
        chmodSync(to, 0o600); // PostgreSQL refuses a key that others can read
        if (owner !== undefined) chownSync(to, owner.uid, owner.gid);
        return to;
      };
      settings.push("ssl=on", `ssl_cert_file=${copy(options.tls.cert_file, "cert.pem")}`);
      settings.push(`ssl_key_file=${copy(options.tls.key_file, "key.pem")}`);
    }
    const command = [
      ...[join(bin, "postgres"), "-D", data, "-p", String(port)],
      ...settings.flatMap((setting) => ["-c", setting]),
    ];
    return restartable(port, dir, async () => {
      const guarded = await startGuarded(dir, "INT", owner, command);
      await untilReady(guarded, dir, port, /ready to accept connections/);
      return guarded;
    });
  });
};

/** PgBouncer of our own on loopback, in transaction mode, before the PostgreSQL on `target_port` that trusts everybody. */
export const startPgBouncer = async (target_port: number, server_connections: number): Promise<PrivateServer> => {
  const program = findPgBouncer();
  if (program === undefined) throw new Error("no PgBouncer: its program was not found");
  const owner = unprivileged(); // as root it does not start
  return withFreePort(async (port) => {
    const dir = privateFolder(owner);
    const lines = [
      "[databases]",
      `* = host=127.0.0.1 port=${target_port} user=postgres`,
      "[pgbouncer]",
      "listen_addr = 127.0.0.1",
      `listen_port = ${port}`,
      "unix_socket_dir =",
      "auth_type = any",
      "pool_mode = transaction",
      `default_pool_size = ${server_connections}`,
      "max_client_conn = 200",
    ];
    const file = join(dir, "pgbouncer.ini");
    writeFileSync(file, `${lines.join("\n")}\n`, { mode: 0o644 });
    return restartable(port, dir, async () => {
      const guarded = await startGuarded(dir, "INT", owner, [program, file]);
      await untilReady(guarded, dir, port, /process up/);
      return guarded;
    });
  });
};

export type RedisServerOptions = {
  /** Appends every write to a file and syncs it: what was answered survives kill -9. */
  readonly appendonly?: boolean;
  /** When the file is synced: with every write by default, or every second, as in production. */
  readonly appendfsync?: "always" | "everysec";
  readonly password?: string;
};

/** A Redis of our own on loopback, `noeviction`, without persistence unless it is asked for. */
export const startRedisServer = async (options: RedisServerOptions = {}): Promise<PrivateServer> => {
  const program = findRedisServer();
  if (program === undefined) throw new Error("no Redis: redis-server was not found on the path");
  return withFreePort(async (port) => {
    const dir = privateFolder(undefined);
    const appendonly = options.appendonly === true;
    const command = [
      ...[program, "--bind", "127.0.0.1", "--port", String(port), "--dir", dir, "--save", ""],
      ...["--maxmemory-policy", "noeviction", "--appendonly", appendonly ? "yes" : "no"],
      ...["--appendfsync", options.appendfsync ?? "always"],
      ...(options.password === undefined ? [] : ["--requirepass", options.password]),
    ];
    return restartable(port, dir, async () => {
      const guarded = await startGuarded(dir, "TERM", undefined, command);
      await untilReady(guarded, dir, port, /ready to accept connections/i);
      return guarded;
    });
  });
};
