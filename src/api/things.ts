import { type Announcement, type Changed, configChanged } from "../authority/change.ts";
import type { ApiEndpoint } from "../contracts/api-access.ts";
import type { PageQuery } from "../contracts/api-fields.ts";
import { isUuid, uuidv7 } from "../kernel/ids.ts";
import type { Transaction } from "../ports/database.ts";
import type { Caller } from "./caller.ts";
import { inUse, lostUpdate, missing, untagged, unusable } from "./faults.ts";
import type { Parts } from "./parts.ts";
import { requireRoom } from "./quotas.ts";
import {
  archiveThing,
  dependentsOf,
  type Fields,
  findThing,
  holdThing,
  insertThing,
  listThings,
  lockThing,
  type Noun,
  type Things,
  THINGS,
  updateThing,
  wordOf,
} from "./store/things.ts";
import { requireHeldZone } from "./held-zone.ts";

type InZone = { readonly zone_id: string };
type OfZone = InZone & { readonly id: string };
/** `If-Match`: the revisions that the caller has seen; undefined: whichever it is. */
type Seen = readonly string[] | undefined;

/** What is about to be written. `before` is undefined where the thing is being made. */
export type Writing<N extends Noun> = OfZone & {
  readonly caller: Caller;
  readonly before: Things[N] | undefined;
  /** What was asked for. */
  readonly fields: Fields;
};

/** `columns`: what is written instead of the fields, such as a sealed secret. `detail`: more for the audit. */
export type Written = {
  readonly columns: Fields;
  readonly announce?: readonly Announcement[];
  readonly detail?: Fields;
};

/** What is done beside, in the change's transaction, before the thing is written. Throws a `Problem` to refuse. */
export type ThingRules<N extends Noun> = {
  readonly write?: (tx: Transaction, writing: Writing<N>) => Promise<Written>;
  readonly checkArchive?: (tx: Transaction, of: OfZone) => Promise<void>;
};

/** Throws 412 where the caller saw another revision than the one that it would overwrite. */
export const requireSeen = (if_match: Seen, { revision }: { readonly revision: number | string }): void => {
  if (if_match !== undefined && !if_match.includes(`"${revision}"`)) throw lostUpdate(revision);
};

/** Throws 412 for a change that is to hold on a condition and has no revision that could meet it. */
export const requireTagged = ({ access, edits }: ApiEndpoint, if_match: Seen): void => {
  if (access === "write" && edits !== true && if_match !== undefined) throw untagged();
};

const announcementsOf = (noun: Noun, zone_id: string, id: string): readonly Announcement[] => {
  const { told_as } = THINGS[noun];
  return told_as === undefined ? [] : [configChanged(told_as, zone_id, id)];
};

/** Those of the fields that the audit may hold: what is shown anyway. */
const picked = (item: object, fields: Fields): Fields =>
  Object.fromEntries(Object.entries(item).filter(([name]) => Object.hasOwn(fields, name)));

/** The id that a text begins with, as `{id}|…`. */
const firstId = (value: unknown): string | undefined => {
  const [first = "", ...rest] = String(value).split("|");
  return rest.length > 0 && isUuid(first) ? first : undefined;
};

/** Every id among the fields names a live thing of this zone, which stays live until the commit. */
const requireReferred = async (tx: Transaction, noun: Noun, zone_id: string, fields: Fields): Promise<void> => {
  const { refers, begins_with = {} } = THINGS[noun];
  for (const [field, to] of Object.entries({ ...refers, ...begins_with })) {
    const id = field in begins_with ? firstId(fields[field]) : fields[field];
    if (typeof id === "string" && !(await holdThing(tx, to, zone_id, id))) {
      throw unusable(field, `names no ${wordOf(to)} of this zone`);
    }
  }
};

/** Makes one in the caller's transaction. */
export const makeThing = async <N extends Noun>(
  tx: Transaction,
  noun: N,
  rules: ThingRules<N>,
  { caller, zone_id }: InZone & { readonly caller: Caller },
  fields: Fields,
): Promise<Changed<Things[N]> & { readonly entry: object }> => {
  const id = uuidv7();
  const { quota } = THINGS[noun];
  await requireHeldZone(tx, zone_id);
  if (quota !== undefined) await requireRoom(tx, zone_id, quota);
  await requireReferred(tx, noun, zone_id, fields);
  const written = await rules.write?.(tx, { zone_id, id, caller, before: undefined, fields });
  const item = await insertThing(tx, noun, { ...(written?.columns ?? fields), zone_id, id });
  return {
    result: item,
    entry: { action: `${noun}.create`, zone_id, object_id: id, detail: { after: item, ...written?.detail } },
    announce: [...announcementsOf(noun, zone_id, id), ...(written?.announce ?? [])],
  };
};

/** Changes one in the caller's transaction; 404 where there is none, 412 where it is not the one that was seen. */
export const changeThing = async <N extends Noun>(
  tx: Transaction,
  noun: N,
  rules: ThingRules<N>,
  { caller, zone_id, id, if_match }: OfZone & { readonly caller: Caller; readonly if_match: Seen },
  fields: Fields,
): Promise<Changed<Things[N]> & { readonly entry: object }> => {
  const before = await lockThing(tx, noun, zone_id, id);
  if (before === undefined) throw missing(wordOf(noun));
  requireSeen(if_match, before);
  await requireReferred(tx, noun, zone_id, fields);
  const written = await rules.write?.(tx, { zone_id, id, caller, before, fields });
  const after = await updateThing(tx, noun, zone_id, id, written?.columns ?? fields);
  const detail = { before: picked(before, fields), after: picked(after, fields), ...written?.detail };
  return {
    result: after,
    entry: { action: `${noun}.update`, zone_id, object_id: id, detail },
    announce: [...announcementsOf(noun, zone_id, id), ...(written?.announce ?? [])],
  };
};

/**
 * Archives one in the caller's transaction, unless something lives that refers to it: 409 `in_use`. Whoever refers to it
 * holds its row until the commit, so of two that race one sees the other.
 */
export const retireThing = async <N extends Noun>(
  tx: Transaction,
  noun: N,
  rules: ThingRules<N>,
  { zone_id, id, if_match }: OfZone & { readonly if_match: Seen },
): Promise<Changed<undefined> & { readonly entry: object }> => {
  const before = await lockThing(tx, noun, zone_id, id);
  if (before === undefined) throw missing(wordOf(noun));
  requireSeen(if_match, before);
  const dependents = await dependentsOf(tx, noun, zone_id, id);
  if (dependents.length > 0) throw inUse(wordOf(noun), dependents);
  await rules.checkArchive?.(tx, { zone_id, id });
  await archiveThing(tx, noun, zone_id, id);
  return {
    result: undefined,
    entry: { action: `${noun}.archive`, zone_id, object_id: id, detail: { before } },
    announce: announcementsOf(noun, zone_id, id),
  };
};

type ItemCall = { readonly caller: Caller; readonly params: OfZone; readonly if_match?: Seen };

/** The five verbs of a thing of a zone. */
export const thingVerbs = <N extends Noun>({ db, change }: Parts, noun: N, rules: ThingRules<N> = {}) => ({
  list: ({ params, query }: { readonly params: InZone; readonly query: PageQuery }) =>
    listThings(db.sql, noun, params.zone_id, query),

  create: ({ caller, params, body }: { readonly caller: Caller; readonly params: InZone; readonly body: Fields }) =>
    change(caller, (tx) => makeThing(tx, noun, rules, { caller, ...params }, body)),

  get: async ({ params }: { readonly params: OfZone }): Promise<Things[N]> => {
    const item = await findThing(db.sql, noun, params.zone_id, params.id);
    if (item === undefined) throw missing(wordOf(noun));
    return item;
  },

  update: ({ caller, params, if_match, body }: ItemCall & { readonly body: Fields }) =>
    change(caller, (tx) => changeThing(tx, noun, rules, { caller, ...params, if_match }, body)),

  archive: ({ caller, params, if_match }: ItemCall) =>
    change(caller, (tx) => retireThing(tx, noun, rules, { ...params, if_match })),
});
