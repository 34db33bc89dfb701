import { randomBytes, scrypt, timingSafeEqual } from "node:crypto";

/** N, r, p of RFC 7914: 16 MiB and about 30 ms. Secrets are 32 random bytes; the cost is for those that people bring. */
const COST = { N: 2 ** 14, r: 8, p: 1 } as const;
const SALT_BYTES = 16;
const HASH_BYTES = 32;
/** Hashes at once. libuv has four threads for DNS, files and us: more of these and a look-up waits for hundreds of ms. */
const MAX_RUNNING = 2;
/** Hashes that may wait; beyond it the caller is refused, so that a flood of log-ins holds no memory. */
const MAX_WAITING = 256;

let running = 0;
const waiting: (() => void)[] = [];

/** Too many hashes are waiting; the caller answers 503 or 429. */
export class HashingBusy extends Error {}

const turn = async (): Promise<void> => {
  if (running < MAX_RUNNING) {
    running += 1;
    return;
  }
  if (waiting.length >= MAX_WAITING) throw new HashingBusy("too many secrets are being hashed");
  await new Promise<void>((resolve) => waiting.push(resolve));
};

const done = (): void => {
  const next = waiting.shift();
  if (next === undefined) running -= 1;
  else next(); // the place is handed on, so `running` stays
};

const derive = async (secret: string, salt: Uint8Array, cost: { N: number; r: number; p: number }): Promise<Buffer> => {
  await turn();
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

/** `scrypt$N$r$p$salt$hash` (base64url). */
export const hashSecret = async (secret: string): Promise<string> => {
  const salt = randomBytes(SALT_BYTES);
  const hash = await derive(secret, salt, COST);
  return ["scrypt", COST.N, COST.r, COST.p, salt.toString("base64url"), hash.toString("base64url")].join("$");
};

/** A hash that no secret has, to spend the same time on a client that does not exist. */
export const NO_SECRET = ["scrypt", COST.N, COST.r, COST.p, Buffer.alloc(SALT_BYTES).toString("base64url"), ""].join(
  "$",
);

/** Whether `stored` was made from `secret`. Takes the same time for `NO_SECRET`. Throws `HashingBusy`. */
export const verifySecret = async (secret: string, stored: string): Promise<boolean> => {
  const [name, N, r, p, salt, hash] = stored.split("$");
  if (name !== "scrypt" || salt === undefined || hash === undefined)
    throw new Error("a stored secret hash is malformed");
  const expected = Buffer.alloc(HASH_BYTES);
  Buffer.from(hash, "base64url").copy(expected);
  const actual = await derive(secret, Buffer.from(salt, "base64url"), { N: Number(N), r: Number(r), p: Number(p) });
  return timingSafeEqual(actual, expected) && hash !== "";
};
