import type { RevocableKind } from "../domain/revocation.ts";

/** Marks by zone, kind and id: no key is glued together for a look-up that happens every 4 KiB of every answer. */
export type MarkSet = {
  has(zone_id: string, kind: RevocableKind, id: string): boolean;
  /** `expires_at`: seconds since the epoch. Of two for one id the later counts. */
  add(zone_id: string, kind: RevocableKind, id: string, expires_at: number): void;
  remove(zone_id: string, kind: RevocableKind, id: string): void;
  addAll(other: MarkSet): void;
  /** Forgets marks that no living token can have, looking at `count` at most; goes on from there the next time. */
  sweep(now_s: number, count: number): void;
  marks(): Generator<readonly [zone_id: string, kind: RevocableKind, id: string, expires_at: number]>;
  readonly size: number;
};

type Zone = Map<RevocableKind, Map<string, number>>;

export const createMarkSet = (): MarkSet => {
  const zones = new Map<string, Zone>();
  let size = 0;
  let sweeping: Generator<readonly [string, RevocableKind, string, number]> | undefined;

  function* marks(): Generator<readonly [string, RevocableKind, string, number]> {
    for (const [zone_id, kinds] of zones) {
      for (const [kind, ids] of kinds) {
        for (const [id, expires_at] of ids) yield [zone_id, kind, id, expires_at];
      }
    }
  }

  const remove = (zone_id: string, kind: RevocableKind, id: string): void => {
    const kinds = zones.get(zone_id);
    const ids = kinds?.get(kind);
    if (kinds === undefined || ids === undefined || !ids.delete(id)) return;
    size -= 1;
    if (ids.size === 0) kinds.delete(kind);
    if (kinds.size === 0) zones.delete(zone_id);
  };

  const add = (zone_id: string, kind: RevocableKind, id: string, expires_at: number): void => {
    let kinds = zones.get(zone_id);
    if (kinds === undefined) zones.set(zone_id, (kinds = new Map()));
    let ids = kinds.get(kind);
    if (ids === undefined) kinds.set(kind, (ids = new Map()));
    const known = ids.get(id);
    if (known === undefined) size += 1;
    ids.set(id, Math.max(expires_at, known ?? 0));
  };

  return {
    has: (zone_id, kind, id) => zones.get(zone_id)?.get(kind)?.has(id) ?? false,
    add,
    remove,
    addAll(other) {
      for (const [zone_id, kind, id, expires_at] of [...other.marks()]) add(zone_id, kind, id, expires_at);
    },
    sweep(now_s, count) {
      sweeping ??= marks();
      for (let i = 0; i < count; i += 1) {
        const next = sweeping.next();
        if (next.done === true) {
          sweeping = undefined;
          return;
        }
        const [zone_id, kind, id, expires_at] = next.value;
        if (expires_at <= now_s) remove(zone_id, kind, id); // a Map lets go of what was yielded while it is walked
      }
    },
    marks,
    get size() {
      return size;
    },
  };
};
