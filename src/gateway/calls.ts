import type { Revocations } from "../domain/revocation.ts";
import type { Claims } from "../domain/token.ts";
import { authorityIds, revokedBy } from "./authority.ts";

/** A call that is under way, as far as its authority goes. */
export type RunningCall = {
  readonly claims: Claims;
  /** Where it stands in the index; the index's own, `undefined` outside of it. */
  places: Place | undefined;
  revoked(): void;
};

/**
 * Calls under way, by the ids that they depend on: an event costs what it affects, not what is running. A snapshot may
 * change anything: then each is asked.
 */
export type RunningCalls<C extends RunningCall> = {
  add(call: C): void;
  remove(call: C): void;
  readonly size: number;
  /** Those that are under way now; what ends or begins meanwhile does not change it. */
  all(): readonly C[];
};

/** One call in one list. `other`: the same call in another list. */
type Place = {
  readonly call: RunningCall;
  readonly list: List;
  before: Place | undefined;
  after: Place | undefined;
  readonly other: Place | undefined;
};
type List = { first: Place | undefined };

/** Ids without a call that are kept: the next call of the same session is likely to be near. */
const MAX_EMPTY = 1_024;

const put = (list: List, call: RunningCall, other: Place | undefined): Place => {
  const after = list.first;
  const place: Place = { call, list, before: undefined, after, other };
  if (after !== undefined) after.before = place;
  list.first = place;
  return place;
};

/** Links are cleared: a place that the collector has moved to the old generation would keep those behind it alive. */
const take = (place: Place): void => {
  const { before, after } = place;
  if (before === undefined) place.list.first = after;
  else before.after = after;
  if (after !== undefined) after.before = before;
  place.before = undefined;
  place.after = undefined;
};

const callsIn = (list: List): RunningCall[] => {
  const calls: RunningCall[] = [];
  for (let place = list.first; place !== undefined; place = place.after) calls.push(place.call);
  return calls;
};

/**
 * Linked lists and not sets: a set that calls enter and leave a thousand times a second makes a new table for every few of
 * them, the old table holds the new one, and once one of them is in the old generation, so are all calls of the process
 * until the next full collection.
 */
export const createRunningCalls = <C extends RunningCall>(revocations: Revocations): RunningCalls<C> => {
  const everything: List = { first: undefined };
  let size = 0;
  /** By id alone: whether the kind and the zone are meant is asked of the state, which knows them. */
  const by_id = new Map<string, List>();
  let empty = 0;

  const judge = (call: RunningCall): void => {
    if (revokedBy(revocations, call.claims) !== undefined) call.revoked();
  };
  revocations.onEvent((event) => {
    if (event.op !== "revoke") return;
    const list = by_id.get(event.id);
    if (list !== undefined) for (const call of callsIn(list)) judge(call);
  });
  revocations.onSnapshot(() => {
    for (const call of callsIn(everything)) judge(call);
  });

  const listOf = (id: string): List => {
    const known = by_id.get(id);
    if (known === undefined) {
      const made: List = { first: undefined };
      by_id.set(id, made);
      return made;
    }
    if (known.first === undefined) empty -= 1;
    return known;
  };
  /** Only where they are more than half of all, so that it costs a call no more than its own id. */
  const forgetEmpty = (): void => {
    if (empty <= MAX_EMPTY || empty * 2 <= by_id.size) return;
    for (const [id, list] of by_id) if (list.first === undefined) by_id.delete(id);
    empty = 0;
  };

  return {
    add(call) {
      if (call.places !== undefined) return;
      let places = put(everything, call, undefined);
      const { sid, agent_session_id, delegation_edge_id, grant_id } = call.claims;
      places = put(listOf(sid), call, places);
      if (agent_session_id !== undefined || delegation_edge_id !== undefined || grant_id !== undefined) {
        for (const id of authorityIds(call.claims)) if (id !== sid) places = put(listOf(id), call, places);
      }
      call.places = places;
      size += 1;
    },
    remove(call) {
      if (call.places === undefined) return;
      for (let place: Place | undefined = call.places; place !== undefined; place = place.other) {
        take(place);
        if (place.list.first === undefined && place.list !== everything) empty += 1;
      }
      call.places = undefined;
      size -= 1;
      forgetEmpty();
    },
    get size() {
      return size;
    },
    all: () => callsIn(everything) as C[],
  };
};
