import type { RoleName } from "../domain/role-name.ts";
import type { Log } from "../kernel/log.ts";
import type { Service } from "../kernel/service.ts";
import type { Address, Given, RoleThread } from "./role-thread.ts";

/** The threads of the process, in the order in which they stop: the main one first. */
export type Threads = readonly RoleThread[];

/** The values of work that is under way in several threads; the fault of the first that has one, whoever was quicker. */
const inTurn = async <T>(under_way: readonly Promise<T>[]): Promise<readonly T[]> => {
  for (const one of under_way) one.catch(() => undefined); // awaited below
  const values: T[] = [];
  for (const one of under_way) values.push(await one);
  return values;
};

/** Every port of the process, before anything is made. Rejects with one thread's `StartupFault`. */
export const bindAll = async (threads: Threads): Promise<Readonly<Partial<Record<RoleName, Address>>>> =>
  Object.assign({}, ...(await inTurn(threads.map((thread) => thread.bind()))));

/** Everything is there before anything works. The ledger's thread starts before the roles that write to the ledger. */
export const startAll = async (threads: Threads, given: Given): Promise<void> => {
  await inTurn(threads.map((thread) => thread.make(given)));
  for (const thread of threads.toReversed()) await thread.start();
};

/** What keeps any role of the process from being ready, in words. */
export const faultsOf = async (threads: Threads): Promise<readonly string[]> =>
  (await Promise.all(threads.map((thread) => thread.faults()))).flat();

/** At once, everywhere: no thread waits for another. */
export const allNotReady = (threads: Threads): void => {
  for (const thread of threads) void thread.notReady();
};

/**
 * In-flight calls first, in every thread; then what works in the background, and what it stands on. The main thread's first:
 * what its roles still had for the ledger is in the stream while the ledger's thread takes from it.
 */
export const shutDown = async (
  threads: Threads,
  demo: Service | undefined,
  timeout_ms: number,
  log: Log,
): Promise<void> => {
  const until_ms = performance.now() + timeout_ms;
  const left_ms = (): number => Math.max(0, until_ms - performance.now());
  await Promise.all(threads.map((thread) => thread.drain(left_ms())));
  await demo
    ?.stop(Math.max(left_ms(), 1_000))
    .catch((error: unknown) => log.error({ err: error, service: demo.name }, "a service did not stop cleanly"));
  for (const thread of threads) await thread.stop(left_ms());
};
