import { randomUUID } from "node:crypto";
import { closeSync, linkSync, mkdirSync, openSync, readdirSync, rmSync } from "node:fs";
import { connect, createServer, type Server } from "node:net";
import { join } from "node:path";

/** What a unix socket's address holds at most on the systems that we run on (104 on some, 108 on Linux), with the zero. */
const MAX_ADDRESS_BYTES = 103;
/** An attempt fails only because another process got further. After so many, that one counts as the holder. */
const MAX_ATTEMPTS = 64;
const DEAD: ReadonlySet<unknown> = new Set(["ECONNREFUSED", "ENOENT"]);

const codeOf = (error: unknown): unknown => (error instanceof Error && "code" in error ? error.code : undefined);

const listen = (address: string): Promise<Server> =>
  new Promise((resolve, reject) => {
    const server = createServer((peer) => peer.destroy());
    server.once("error", reject);
    server.listen(address, () => {
      server.off("error", reject);
      server.on("error", () => undefined); // a peer that can't be accepted is no fault of the lock
      server.unref();
      resolve(server);
    });
  });

/** Whether somebody listens there. If that can't be found out, yes: nobody takes a lock by mistake. */
const isAlive = (address: string): Promise<boolean> =>
  new Promise((resolve) => {
    const probe = connect(address);
    probe.once("connect", () => {
      probe.destroy();
      resolve(true);
    });
    probe.once("error", (error) => resolve(!DEAD.has(codeOf(error))));
  });

/**
 * One holder at a time among the processes of one machine, freed by the kernel however its process ends. `folder` is the
 * lock's own; it is made where it is missing. Resolves to the release, or to undefined where another holds it. Rejects where
 * the folder can't be made, or takes no sockets or links.
 *
 * The folder holds sockets named 1, 2, 3, …; the highest is the holder's, if it listens. Who finds it dead links a socket of
 * its own, which listens already, to the next number: of many only one can, and a name that was dead never comes to life.
 * Only who holds a higher number removes lower ones, and the highest always stays. So who was slow, and linked a number that
 * had been removed, finds a higher one beside it and steps back.
 */
export const lockFolder = async (folder: string): Promise<(() => Promise<void>) | undefined> => {
  mkdirSync(folder, { recursive: true, mode: 0o700 });
  const fd = openSync(folder, "r");
  // Through the open folder an address is short, however long its path is.
  const addressOf = (name: string): string =>
    process.platform === "linux" ? `/proc/self/fd/${fd}/${name}` : join(folder, name);
  const own = `new-${randomUUID().slice(0, 8)}`;
  const remove = (name: string): void => rmSync(join(folder, name), { force: true });
  const highest = (): number => {
    let most = 0;
    for (const name of readdirSync(folder)) if (/^[1-9]\d{0,14}$/.test(name)) most = Math.max(most, Number(name));
    return most;
  };

  let server: Server | undefined;
  const close = async (): Promise<void> => {
    const open = server;
    if (open !== undefined) await new Promise((resolve) => open.close(resolve));
    closeSync(fd);
  };

  /** The number that is ours now; undefined where another holds the lock. */
  const take = async (): Promise<number | undefined> => {
    for (let attempt = 0; attempt < MAX_ATTEMPTS; attempt += 1) {
      const top = highest();
      if (top > 0 && (await isAlive(addressOf(String(top))))) return undefined;
      const next = top + 1;
      try {
        linkSync(join(folder, own), join(folder, String(next)));
      } catch (error) {
        if (codeOf(error) === "EEXIST") continue;
        if (codeOf(error) === "ENOENT") return undefined; // a holder took our socket for a dead one's
        throw error;
      }
      if (highest() === next) return next;
      remove(String(next));
    }
    return undefined;
  };

  /** Removes what processes left that died: lower numbers, and sockets of those that were killed on their way. */
  const sweep = async (held: number): Promise<void> => {
    for (const name of readdirSync(folder)) {
      const stale = name.startsWith("new-") ? !(await isAlive(addressOf(name))) : Number(name) < held;
      if (stale) remove(name);
    }
  };

  try {
    const longest = addressOf(own);
    if (Buffer.byteLength(longest) > MAX_ADDRESS_BYTES)
      throw Object.assign(new Error(`${longest}: is too long for a socket's address`), { code: "ENAMETOOLONG" });
    server = await listen(longest);
    const held = await take();
    remove(own);
    if (held !== undefined) {
      await sweep(held);
      return close; // the number stays, dead, so that the next holder's is higher
    }
  } catch (error) {
    remove(own);
    await close();
    throw error;
  }
  await close();
  return undefined;
};
