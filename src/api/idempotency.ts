import type { Changed } from "../authority/change.ts";
import type { ApiEndpoint } from "../contracts/api-access.ts";
import { hmacOfFields, type Keyring } from "../domain/keyring.ts";
import type { Asked } from "../http/contract-routes.ts";
import { Problem } from "../kernel/problem.ts";
import type { Transaction } from "../ports/database.ts";
import type { Caller, Once } from "./caller.ts";
import { claimKey, keepAnswer } from "./store/idempotency.ts";

const KEY = /^[\x21-\x7e]{1,255}$/;

/**
 * What `Idempotency-Key` stands for: undefined where the request has none, or makes nothing. The body is one that passed
 * its contract, so its fields are in the contract's order. An HMAC, since a body can hold a secret that is easily guessed.
 */
export const onceOf = (kek: Keyring, endpoint: ApiEndpoint, asked: Asked): Once | undefined => {
  const { idempotency_key: key } = asked;
  if (key === undefined || endpoint.status !== 201 || endpoint.reach === "bootstrap") return undefined;
  if (!KEY.test(key)) {
    throw new Problem(400, "invalid_idempotency_key", "An Idempotency-Key is 1 to 255 visible ASCII characters.");
  }
  const { method, path, shown_once = [] } = endpoint;
  const fields = [
    "caracal idempotency",
    method,
    path,
    JSON.stringify(asked.params),
    JSON.stringify(asked.body ?? null),
  ];
  const [current, ...previous] = [kek.current, ...kek.all].map((named) => hmacOfFields(named, fields));
  return { key, fingerprints: [current as string, ...previous], shown_once };
};

const kept = (answer: unknown, shown_once: readonly string[]): string =>
  JSON.stringify(answer, (name, value: unknown) => (shown_once.includes(name) ? undefined : value));

/**
 * Runs a change once for each key of a caller: the same request again is answered as the first was, without what is shown
 * once, and makes nothing; another request under the key is 409. Of two that race, the second waits for the first's commit.
 * Key and change are one transaction, so a change that is refused or rolled back leaves its key free.
 */
export const onceOnly = async <T>(
  tx: Transaction,
  { actor, once }: Caller,
  run: (tx: Transaction) => Promise<Changed<T>>,
): Promise<Changed<T>> => {
  if (once === undefined) return run(tx);
  const first = await claimKey(tx, actor, once.key, once.fingerprints[0]);
  if (first !== undefined) {
    if (!once.fingerprints.includes(first.fingerprint)) {
      throw new Problem(
        409,
        "idempotency_key_reused",
        "This Idempotency-Key was used for another request; make a new one.",
      );
    }
    return { result: JSON.parse(first.answer_json) as T };
  }
  const changed = await run(tx);
  await keepAnswer(tx, actor, once.key, kept(changed.result, once.shown_once));
  return changed;
};
