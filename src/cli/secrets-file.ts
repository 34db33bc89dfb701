import { closeSync, existsSync, fsyncSync, openSync, readFileSync, renameSync, statSync, writeSync } from "node:fs";
import { isObject } from "../contracts/members.ts";
import { UsageFault } from "../kernel/problem.ts";

/** A new client as it stands in the file; without a secret it was about to be made when the program ended. */
type Entry = { readonly client_id?: string; readonly client_secret?: string };

/** Where new client secrets go: JSON by application's name, for this user alone (mode 0600). */
export type SecretsFile = {
  /** Names of applications whose secret was on its way here when a former run ended. */
  readonly pending: readonly string[];
  /** Before one is made: a crash right after leaves the name, and the next run knows that the secret is lost. */
  expect(name: string): void;
  keep(name: string, entry: Required<Entry>): void;
};

const readEntries = (file: string): Record<string, Entry> => {
  if (!existsSync(file)) return {};
  if ((statSync(file).mode & 0o077) !== 0)
    throw new UsageFault(`--secrets-out: ${file} can be read by others; chmod 600 it`);
  try {
    const parsed: unknown = JSON.parse(readFileSync(file, "utf8"));
    if (isObject(parsed)) return { ...(parsed as Record<string, Entry>) };
  } catch {
    // told below
  }
  throw new UsageFault(`--secrets-out: ${file} is no file that this command wrote; name another`);
};

/** Opens or makes the file. Each write is whole on the disk before it returns. */
export const openSecretsFile = (file: string): SecretsFile => {
  const entries = readEntries(file);
  const write = (): void => {
    const next = `${file}.next`;
    try {
      const descriptor = openSync(next, "w", 0o600);
      writeSync(descriptor, `${JSON.stringify(entries, null, 2)}\n`);
      fsyncSync(descriptor);
      closeSync(descriptor);
      renameSync(next, file);
    } catch (cause) {
      const why = cause instanceof Error && "code" in cause ? String(cause.code) : "no access";
      throw new UsageFault(`--secrets-out: ${file} can't be written (${why})`);
    }
  };
  return {
    pending: Object.keys(entries).filter((name) => entries[name]?.client_secret === undefined),
    expect(name) {
      entries[name] = {};
      write();
    },
    keep(name, entry) {
      entries[name] = entry;
      write();
    },
  };
};
