import * as v from "valibot";
import type { BindingsPage, JwksResponse, RevocationPage } from "../../contracts/sts.ts";
import { STREAMS } from "../../contracts/streams.ts";
import { REVOCABLE_KINDS, type RevocationMark } from "../../domain/revocation.ts";
import { Problem } from "../../kernel/problem.ts";
import type { Database } from "../../ports/database.ts";
import type { Streams } from "../../ports/streams.ts";
import type { BindingsQuery } from "../../ports/sts.ts";
import type { Snapshots } from "../known/snapshots.ts";
import {
  type BindingLimits,
  type BindingsRead,
  readBindings,
  readBindingsVersion,
  readRevocations,
  readTime_ms,
  type RevocationsAfter,
  type RevokedZone,
} from "../store/zones.ts";

/** Of one page: zones, marks of one zone, and marks of all of them, after which a page ends. */
const LIMITS = { zones: 200, marks: 2_000, page_marks: 10_000 } as const;
/**
 * A thousand resources, the quota of a zone, have at most 2.6 MB of ids, identifiers and addresses. A page, with its last
 * zone and JSON around it, stays far below what the Gateway reads as one answer.
 */
const BINDING_LIMITS: BindingLimits = { zones: 500, page_bytes: 1024 * 1024, zone_bytes: 4 * 1024 * 1024 };
const MAX_CURSOR_CHARS = 1_024;

/** What the STS tells of itself: keys and which zones there are to everybody, bindings and revocations to the Gateway. */
export type PublicState = {
  jwks(zone_id: string): Promise<JwksResponse | undefined>;
  hasZone(zone_id: string): Promise<boolean>;
  bindings(query: BindingsQuery): Promise<BindingsPage | undefined>;
  revocations(cursor: string | undefined): Promise<RevocationPage>;
};

const CursorSchema = v.strictObject({
  position: v.string(),
  zone_id: v.string(),
  within: v.optional(v.strictObject({ kind: v.picklist(REVOCABLE_KINDS), id: v.string(), seq: v.number() })),
});
const BindingsCursorSchema = v.strictObject({ version: v.string(), zone_id: v.string() });

const formatCursor = <S extends typeof CursorSchema | typeof BindingsCursorSchema>(
  _of: S,
  cursor: v.InferOutput<S>,
): string => Buffer.from(JSON.stringify(cursor)).toString("base64url");

const parseCursor = <S extends typeof CursorSchema | typeof BindingsCursorSchema>(
  schema: S,
  text: string,
): v.InferOutput<S> => {
  try {
    if (text.length > MAX_CURSOR_CHARS) throw new RangeError("too long");
    return v.parse(schema, JSON.parse(Buffer.from(text, "base64url").toString("utf8")));
  } catch (cause) {
    throw new Problem(400, "invalid_request", "cursor is not one that this server made; begin without it.", { cause });
  }
};

const zonesOf = ({ rows, too_large }: BindingsRead): BindingsPage["zones"] => {
  const zones = new Map<string, BindingsPage["zones"][number]>();
  for (const { zone_id, ...resource } of rows) {
    const zone = zones.get(zone_id) ?? {
      zone_id,
      ...(too_large.has(zone_id) ? { too_large: true as const } : {}),
      resources: [],
    };
    zones.set(zone_id, zone);
    if (resource.id !== null) zone.resources.push(resource);
  }
  return [...zones.values()];
};

const markOf = ([kind, id, expires_at]: RevokedZone["marks"][number]): RevocationMark => ({ kind, id, expires_at });

export const createPublicState = (options: {
  readonly db: Database;
  readonly streams: Streams;
  readonly snapshots: Snapshots;
}): PublicState => {
  const { db, streams, snapshots } = options;
  return {
    async jwks(zone_id) {
      const zone = await snapshots.get(zone_id);
      return zone === undefined || zone.keys.jwks.length === 0 ? undefined : { keys: [...zone.keys.jwks] };
    },

    hasZone: async (zone_id) => (await snapshots.get(zone_id)) !== undefined,

    /**
     * Each zone is read by one statement, so that no half of a change is told. A change between the version and the last
     * page is in some pages and not in the version: whoever asks again hears of another version.
     */
    async bindings(query) {
      if ("zone_id" in query) return { zones: zonesOf(await readBindings(db.sql, query, BINDING_LIMITS)) };
      const cursor = "cursor" in query ? parseCursor(BindingsCursorSchema, query.cursor) : undefined;
      const version = cursor?.version ?? (await readBindingsVersion(db.sql));
      if ("since" in query && query.since === version) return undefined;
      const read = await readBindings(db.sql, { after: cursor?.zone_id ?? "" }, BINDING_LIMITS);
      const { last_zone_id: zone_id } = read;
      const more = zone_id === undefined ? {} : { cursor: formatCursor(BindingsCursorSchema, { version, zone_id }) };
      return { version, zones: zonesOf(read), ...more };
    },

    /**
     * The position comes before the first read and travels in the cursor: whatever is appended while pages are read lies
     * behind it, and is read again from the stream. A zone with more marks than a page takes keeps the number of its first
     * part, so that nothing between the parts is skipped.
     */
    async revocations(text) {
      const cursor = text === undefined ? undefined : parseCursor(CursorSchema, text);
      const position = cursor?.position ?? (await streams.position(STREAMS.revoke));
      const after: RevocationsAfter | undefined =
        cursor === undefined ? undefined : { zone_id: cursor.zone_id, within: cursor.within };
      const first = cursor === undefined ? { at_ms: await readTime_ms(db.sql) } : {};
      const rows = await readRevocations(db.sql, after, LIMITS);
      const zones: RevocationPage["zones"] = [];
      let marks = 0;
      for (const { zone_id, seq, marks: found } of rows) {
        zones.push({ zone_id, seq, marks: found.map(markOf) });
        marks += found.length;
        const last = found.at(-1);
        if (found.length >= LIMITS.marks && last !== undefined) {
          return {
            position,
            ...first,
            zones,
            cursor: formatCursor(CursorSchema, { position, zone_id, within: { kind: last[0], id: last[1], seq } }),
          };
        }
        if (marks >= LIMITS.page_marks)
          return { position, ...first, zones, cursor: formatCursor(CursorSchema, { position, zone_id }) };
      }
      const last_zone = rows.at(-1)?.zone_id;
      return rows.length < LIMITS.zones || last_zone === undefined
        ? { position, ...first, zones }
        : { position, ...first, zones, cursor: formatCursor(CursorSchema, { position, zone_id: last_zone }) };
    },
  };
};
