import { randomBytes } from "node:crypto";
import {
  closeSync,
  existsSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeSync,
} from "node:fs";
import { connect, createServer, type Server } from "node:net";
import { dirname, join, relative, resolve } from "node:path";
import { setTimeout as pause } from "node:timers/promises";
import type { Env } from "../config/index.ts";
import { StartupFault } from "../kernel/problem.ts";

/** The layout of the folder. A build that changes it raises the number and knows how to read the former ones. */
const FORMAT = 1;
const FOLDER_MODE = 0o700;
const FILE_MODE = 0o600;
/** sockaddr_un holds 108 bytes on Linux, 104 on macOS, the ending zero included. */
const MAX_SOCKET_PATH = 103;
/** How long a process that found the owner dead may take from that look to its take-over. */
const TAKE_OVER_MS = 100;

/** The folder of a dev start: held by this process alone, with its secrets made. */
export type DataDir = {
  readonly path: string;
  /** Values for the variables that the environment leaves out. */
  readonly secrets: Env;
  readonly file: (name: string) => string;
  /** Writes whole or not at all, synced, mode 0600. */
  write(name: string, text: string): void;
  read(name: string): string | undefined;
  remove(name: string): void;
  release(): Promise<void>;
};

/** Each secret, its file and how it is made. */
const SECRETS = [
  { variable: "ZONE_KEK", file: "zone-kek", make: () => randomBytes(32).toString("hex") },
  { variable: "STREAMS_HMAC_KEY", file: "streams-hmac-key", make: () => randomBytes(32).toString("hex") },
  { variable: "AUDIT_HMAC_KEY", file: "audit-hmac-key", make: () => randomBytes(32).toString("hex") },
] as const;

/** The folder of the embedded database within the data folder. */
export const DATABASE_FOLDER = "database";

/**
 * Opens (and makes) the data folder: private, locked against a second process, of a format that this build reads, and
 * with secrets. Throws `StartupFault` with one line for each way in which that can fail.
 */
export const openDataDir = async (configured: string, env: Env): Promise<DataDir> => {
  const path = resolve(configured);
  make(path);
  const lock = await takeLock(path);
  try {
    checkFormat(path);
    const secrets = ensureSecrets(path, env);
    return {
      path,
      secrets,
      file: (name) => join(path, name),
      write: (name, text) => writeWhole(path, name, text),
      read: (name) => readIfThere(path, name),
      remove: (name) => rmSync(join(path, name), { force: true }),
      release: () => new Promise((done) => lock.close(() => done())),
    };
  } catch (error) {
    lock.close();
    throw error;
  }
};

const why = (cause: unknown): string => (cause instanceof Error && "code" in cause ? String(cause.code) : "unknown");

/** Each folder by itself: Node's own `recursive` never returns where a parent is there and can hold no folder (/proc). */
const makeFolders = (path: string): void => {
  if (existsSync(path)) return;
  makeFolders(dirname(path));
  try {
    mkdirSync(path, { mode: FOLDER_MODE });
  } catch (cause) {
    if (why(cause) !== "EEXIST") throw cause;
  }
};

const make = (path: string): void => {
  try {
    makeFolders(path);
    if (!statSync(path).isDirectory()) throw Object.assign(new Error(), { code: "ENOTDIR" });
    const probe = join(path, `.probe-${process.pid}`);
    closeSync(openSync(probe, "wx", FILE_MODE));
    rmSync(probe);
  } catch (cause) {
    throw new StartupFault(
      `CARACAL_DATA_DIR: ${path} can't be written (${why(cause)}); name a folder that this user may write`,
    );
  }
  if ((statSync(path).mode & 0o077) !== 0) {
    throw new StartupFault(
      `CARACAL_DATA_DIR: ${path} is open to other users, and secrets rest there; run: chmod 700 ${path}`,
    );
  }
};

const isAlive = (socket_path: string): Promise<boolean> =>
  new Promise((answer) => {
    const probe = connect(socket_path);
    probe.once("connect", () => {
      probe.destroy();
      answer(true);
    });
    probe.once("error", (error: NodeJS.ErrnoException) =>
      answer(error.code !== "ECONNREFUSED" && error.code !== "ENOENT"),
    );
  });

const tryListen = (socket_path: string): Promise<Server | undefined> =>
  new Promise((answer, reject) => {
    const server = createServer((peer) => peer.destroy());
    server.once("error", (error: NodeJS.ErrnoException) =>
      error.code === "EADDRINUSE" ? answer(undefined) : reject(error),
    );
    server.listen(socket_path, () => {
      server.unref();
      answer(server);
    });
  });

/**
 * A listening socket in the folder: the kernel closes it with its owner, so a dead owner's lock is seen to be dead.
 * Crash state: the file stays after kill -9; nobody answers on it, and the next start replaces it. Two that replace it
 * at once: the later one unlinks the former's, which sees, after TAKE_OVER_MS, that the file is not its own, and gives up.
 */
const takeLock = async (path: string): Promise<Server> => {
  const absolute = join(path, "lock.sock");
  const near = relative(process.cwd(), absolute);
  const socket_path = near.length < absolute.length ? near : absolute;
  if (Buffer.byteLength(socket_path) > MAX_SOCKET_PATH) {
    throw new StartupFault(
      `CARACAL_DATA_DIR: ${path} is too long a path for the socket that locks it; use a shorter one`,
    );
  }
  const taken = new StartupFault(
    `CARACAL_DATA_DIR: ${path} is in use by another caracal; stop that one or set CARACAL_DATA_DIR to another folder`,
  );
  const first = await tryListen(socket_path).catch((cause: unknown) => {
    throw new StartupFault(
      `CARACAL_DATA_DIR: ${path} can't be locked (${why(cause)}); a unix socket must be possible there`,
    );
  });
  if (first !== undefined) return first;
  if (await isAlive(socket_path)) throw taken;
  rmSync(absolute, { force: true });
  const second = await tryListen(socket_path);
  if (second === undefined) throw taken;
  const own = statSync(absolute).ino;
  await pause(TAKE_OVER_MS);
  // The loser leaves its own socket open until it exits: closing it would unlink the path, which is the winner's by now.
  if (!existsSync(absolute) || statSync(absolute).ino !== own) throw taken;
  return second;
};

const checkFormat = (path: string): void => {
  const text = readIfThere(path, "format");
  if (text === undefined) {
    if (existsSync(join(path, DATABASE_FOLDER))) {
      throw new StartupFault(
        `CARACAL_DATA_DIR: ${path} holds a database but no format file; restore the folder whole or use another`,
      );
    }
    writeWhole(path, "format", `${FORMAT}\n`);
    return;
  }
  const format = Number(text.trim());
  if (!Number.isSafeInteger(format) || format < 1) {
    throw new StartupFault(`CARACAL_DATA_DIR: ${path}/format is damaged; restore the folder or use another`);
  }
  if (format > FORMAT) {
    throw new StartupFault(
      `CARACAL_DATA_DIR: ${path} was written by a newer caracal (format ${format}, this one reads ${FORMAT}); update caracal or use another folder`,
    );
  }
};

/** Makes each secret that neither the environment nor the folder has; one that went missing beside data is not made anew. */
const ensureSecrets = (path: string, env: Env): Env => {
  const secrets: Record<string, string> = {};
  for (const { variable, file, make: makeSecret } of SECRETS) {
    if ((env[variable] ?? "") !== "" || (env[`${variable}_FILE`] ?? "") !== "") continue;
    const kept = readIfThere(path, file);
    if (kept !== undefined) {
      secrets[variable] = kept.trim();
      continue;
    }
    if (existsSync(join(path, DATABASE_FOLDER))) {
      throw new StartupFault(
        `${variable}: ${join(path, file)} is missing, and the data of the folder can't be read without it; restore it or use another folder`,
      );
    }
    const made = makeSecret();
    writeWhole(path, file, `${made}\n`);
    secrets[variable] = made;
  }
  return secrets;
};

const readIfThere = (path: string, name: string): string | undefined => {
  try {
    return readFileSync(join(path, name), "utf8");
  } catch (cause) {
    if (why(cause) === "ENOENT") return undefined;
    throw new StartupFault(`CARACAL_DATA_DIR: ${join(path, name)} can't be read (${why(cause)})`);
  }
};

/** Crash states: before the rename the former file stands; after it, the new one, whose bytes were synced before. */
const writeWhole = (path: string, name: string, text: string): void => {
  const draft = join(path, `.${name}.${process.pid}`);
  try {
    const fd = openSync(draft, "w", FILE_MODE);
    try {
      writeSync(fd, text);
      fsyncSync(fd);
    } finally {
      closeSync(fd);
    }
    renameSync(draft, join(path, name));
  } catch (cause) {
    rmSync(draft, { force: true });
    throw new StartupFault(`CARACAL_DATA_DIR: ${join(path, name)} can't be written (${why(cause)})`);
  }
};
