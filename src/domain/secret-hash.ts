import { createHmac, randomBytes, scrypt } from "node:crypto";
import { sameBytes } from "./keyring.ts";

/** N, r, p of RFC 7914: 16 MiB and about 30 ms. */
const COST = { N: 2 ** 14, r: 8, p: 1 } as const;
const SALT_BYTES = 16;
const HASH_BYTES = 32;
/** Of four billion wrong secrets one is hashed, so nobody finds one to fill the queue with. The table tells 32 bits of 256. */
const TAG_BYTES = 4;
/** Hashes at once. libuv has four threads for DNS, files and us: more of these and a look-up waits for hundreds of ms. */
const MAX_RUNNING = 2;
/** Hashes that may wait; beyond it somebody is refused, so that a flood of log-ins holds no memory. */
const MAX_WAITING = 256;
/** Hashes of one share that may wait. */
const MAX_WAITING_OF_SHARE = 32;

type Waiter = { readonly go: () => void; readonly refuse: (error: Error) => void };

let running = 0;
let waiting_in_all = 0;
/** By share, in the order in which their turns come. No share stands here without a waiter. */
const waiting = new Map<string, Waiter[]>();

/** Too many hashes are waiting; the caller answers 503 or 429. */
export class HashingBusy extends Error {}

const busy = (): HashingBusy => new HashingBusy("too many secrets are being hashed");

const removeNewestOf = (share: string, queue: Waiter[]): void => {
  waiting_in_all -= 1;
  const newest = queue.pop();
  if (queue.length === 0) waiting.delete(share);
  newest?.refuse(busy());
};

/** Where nobody else may wait, the share with the most waiters gives one up, so that a flood pushes out only itself. */
const makeRoom = (own: number): void => {
  if (waiting_in_all < MAX_WAITING) return;
  const [share, queue] = [...waiting].reduce((most, one) => (one[1].length > most[1].length ? one : most));
  if (queue.length <= own + 1) throw busy();
  removeNewestOf(share, queue);
};

const turn = async (share: string): Promise<void> => {
  if (running < MAX_RUNNING) {
    running += 1;
    return;
  }
  const own = waiting.get(share)?.length ?? 0;
  if (own >= MAX_WAITING_OF_SHARE) throw busy();
  makeRoom(own);
  await new Promise<void>((go, refuse) => {
    waiting_in_all += 1;
    const queue = waiting.get(share);
    if (queue === undefined) waiting.set(share, [{ go, refuse }]);
    else queue.push({ go, refuse });
  });
};

/** The next share in turn goes on, and then waits after all others: a flood of one delays another by one hash. */
const done = (): void => {
  const [first] = waiting;
  if (first === undefined) {
    running -= 1;
    return;
  }
  const [share, queue] = first;
  waiting.delete(share);
  waiting_in_all -= 1;
  const next = queue.shift();
  if (queue.length > 0) waiting.set(share, queue);
  next?.go(); // the place is handed on, so `running` stays
};

const derive = async (
  secret: string,
  salt: Uint8Array,
  cost: { N: number; r: number; p: number },
  share: string,
): Promise<Buffer> => {
  await turn(share);
  try {
    return await new Promise<Buffer>((resolve, reject) => {
      const maxmem = 256 * cost.N * cost.r; // twice what RFC 7914 needs; the default is too small for other costs
      scrypt(secret, salt, HASH_BYTES, { ...cost, maxmem }, (error, key) =>
        error === null ? resolve(key) : reject(error),
      );
    });
  } finally {
    done();
  }
};

/** Tells most wrong secrets without a hash, so that strangers take no turn of those who have the right one. */
const tagOf = (secret: string, salt: Uint8Array): Buffer =>
  createHmac("sha256", salt).update(secret).digest().subarray(0, TAG_BYTES);

/** `scrypt$N$r$p$salt$hash$tag` (base64url), for a zone's new secret. Throws `HashingBusy`. */
export const hashSecret = async (secret: string, zone_id: string): Promise<string> => {
  const salt = randomBytes(SALT_BYTES);
  const hash = await derive(secret, salt, COST, `new/${zone_id}`); // its log-ins take no turn of it
  const bytes = [salt, hash, tagOf(secret, salt)].map((one) => one.toString("base64url"));
  return ["scrypt", COST.N, COST.r, COST.p, ...bytes].join("$");
};

/**
 * Whether `stored` was made from `secret`. A wrong one is refused by its tag, unhashed. `share`: whose turn a hash takes, a
 * zone's by its id. Throws `HashingBusy` where that share, or all together, have too many waiting.
 */
export const verifySecret = async (secret: string, stored: string, share: string): Promise<boolean> => {
  const [name, N, r, p, salt_text, hash, tag] = stored.split("$");
  if (name !== "scrypt" || salt_text === undefined || hash === undefined || tag === undefined)
    throw new Error("a stored secret hash is malformed");
  const salt = Buffer.from(salt_text, "base64url");
  if (!sameBytes(tagOf(secret, salt), Buffer.from(tag, "base64url"))) return false;
  const actual = await derive(secret, salt, { N: Number(N), r: Number(r), p: Number(p) }, share);
  return sameBytes(actual, Buffer.from(hash, "base64url"));
};
