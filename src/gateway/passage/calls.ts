import { type AuthorityIds, idsOf, type Revocations, revokedBy } from "../../domain/revocation.ts";
import { LinkedList, type Place } from "../../kernel/linked-list.ts";

/** A call that is under way, as far as its authority goes. */
export type RunningCall = {
  readonly zone_id: string;
  /** The ids under which it can be cut. */
  readonly cut_by: AuthorityIds;
  /** Where it stands in the index; the index's own, `undefined` outside of it. */
  places: Place<RunningCall> | undefined;
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

/** Ids without a call that are kept: the next call of the same session is likely to be near. */
const MAX_EMPTY = 1_024;

export const createRunningCalls = <C extends RunningCall>(revocations: Revocations): RunningCalls<C> => {
  const everything = new LinkedList<RunningCall>();
  let size = 0;
  /** By id alone: whether the kind and the zone are meant is asked of the state, which knows them. */
  const by_id = new Map<string, LinkedList<RunningCall>>();
  let empty = 0;

  const judge = (call: RunningCall): void => {
    if (revokedBy(revocations, call.zone_id, call.cut_by) !== undefined) call.revoked();
  };
  revocations.onEvent((event) => {
    if (event.op !== "revoke") return;
    const list = by_id.get(event.id);
    if (list !== undefined) for (const call of list.all()) judge(call);
  });
  revocations.onSnapshot(() => {
    for (const call of everything.all()) judge(call);
  });

  const listOf = (id: string): LinkedList<RunningCall> => {
    const known = by_id.get(id);
    if (known === undefined) {
      const made = new LinkedList<RunningCall>();
      by_id.set(id, made);
      return made;
    }
    if (known.empty) empty -= 1;
    return known;
  };
  /** Only where they are more than half of all, so that it costs a call no more than its own id. */
  const forgetEmpty = (): void => {
    if (empty <= MAX_EMPTY || empty * 2 <= by_id.size) return;
    for (const [id, list] of by_id) if (list.empty) by_id.delete(id);
    empty = 0;
  };

  return {
    add(call) {
      if (call.places !== undefined) return;
      let places = everything.put(call);
      for (const id of idsOf(call.cut_by)) places = listOf(id).put(call, places);
      call.places = places;
      size += 1;
    },
    remove(call) {
      if (call.places === undefined) return;
      for (let place: RunningCall["places"] = call.places; place !== undefined; place = place.other) {
        const { list } = place;
        list.take(place);
        if (list.empty && list !== everything) empty += 1;
      }
      call.places = undefined;
      size -= 1;
      forgetEmpty();
    },
    get size() {
      return size;
    },
    all: () => everything.all() as C[],
  };
};
