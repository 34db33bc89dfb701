import type { Revocations } from "../domain/revocation.ts";
import type { Claims } from "../domain/token.ts";
import { authorityIds, revokedBy } from "./authority.ts";

/** A call that is under way, as far as its authority goes. */
export type RunningCall = { readonly claims: Claims; revoked(): void };

/**
 * Calls under way, by the ids that they depend on: an event costs what it affects, not what is running. A snapshot may
 * change anything: then each is asked.
 */
export type RunningCalls = {
  add(call: RunningCall): void;
  remove(call: RunningCall): void;
  readonly size: number;
  [Symbol.iterator](): Iterator<RunningCall>;
};

export const createRunningCalls = (revocations: Revocations): RunningCalls => {
  const calls = new Set<RunningCall>();
  /** By id alone: whether the kind and the zone are meant is asked of the state, which knows them. */
  const by_id = new Map<string, Set<RunningCall>>();

  const judge = (call: RunningCall): void => {
    if (revokedBy(revocations, call.claims) !== undefined) call.revoked();
  };
  revocations.onEvent((event) => {
    if (event.op !== "revoke") return;
    for (const call of [...(by_id.get(event.id) ?? [])]) judge(call);
  });
  revocations.onSnapshot(() => {
    for (const call of [...calls]) judge(call);
  });

  return {
    add(call) {
      calls.add(call);
      for (const id of authorityIds(call.claims)) {
        const others = by_id.get(id);
        if (others === undefined) by_id.set(id, new Set([call]));
        else others.add(call);
      }
    },
    remove(call) {
      if (!calls.delete(call)) return;
      for (const id of authorityIds(call.claims)) {
        const others = by_id.get(id);
        if (others === undefined) continue;
        others.delete(call);
        if (others.size === 0) by_id.delete(id);
      }
    },
    get size() {
      return calls.size;
    },
    [Symbol.iterator]: () => calls.values(),
  };
};
