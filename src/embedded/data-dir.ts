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
import { dirname, join, resolve } from "node:path";
import type { Env } from "../config/index.ts";
import { lockFolder } from "../kernel/folder-lock.ts";
import { StartupFault } from "../kernel/problem.ts";

/** The layout of the folder. A build that changes it raises the number and knows how to read the former ones. */
const FORMAT = 1;
const FOLDER_MODE = 0o700;
const FILE_MODE = 0o600;

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
  const release = await takeLock(path);
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
      release,
    };
  } catch (error) {
    await release();
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

const takeLock = async (path: string): Promise<() => Promise<void>> => {
  const release = await lockFolder(join(path, "held")).catch((cause: unknown) => {
    throw new StartupFault(
      `CARACAL_DATA_DIR: ${path} can't be locked (${why(cause)}); unix sockets and links must be possible there`,
    );
  });
  if (release === undefined)
    throw new StartupFault(
      `CARACAL_DATA_DIR: ${path} is in use by another caracal; stop that one or set CARACAL_DATA_DIR to another folder`,
    );
  return release;
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
