import {
  mostOf,
  type Quota,
  QUOTA_BOUNDS,
  QUOTA_LIMITS,
  type QuotaName,
  type quotaEndpoints,
} from "../contracts/api-quotas.ts";
import type { Queryable, Transaction } from "../ports/database.ts";
import type { Caller } from "./caller.ts";
import { quotaExceeded, unusable } from "./faults.ts";
import { requireHeldZone } from "./held-zone.ts";
import type { ControlPlane, Parts } from "./parts.ts";
import { lockQuota, readLimits, useOf, writeLimit } from "./store/quotas.ts";

type Bound = keyof typeof QUOTA_BOUNDS;

const NAMES = [...Object.keys(QUOTA_LIMITS), ...Object.keys(QUOTA_BOUNDS), "rate_limit_per_minute"] as QuotaName[];

/** What the product gives a zone of each of those. */
const BOUND_LIMITS = Object.fromEntries(
  Object.entries(QUOTA_BOUNDS).map(([name, { limit }]) => [name, limit]),
) as Readonly<Record<Bound, number>>;

const quotaOf = async (sql: Queryable, zone_id: string, name: QuotaName, rate_limit: number): Promise<Quota> => {
  const own = (await readLimits(sql, zone_id)).get(name);
  const figures: Readonly<Record<QuotaName, number>> = {
    ...QUOTA_LIMITS,
    ...BOUND_LIMITS,
    rate_limit_per_minute: rate_limit,
  };
  return { name, limit: own ?? figures[name], use: await useOf(sql, name, zone_id) };
};

/** 409 where the zone has as many as it may. Exact, whoever races: the next one counts after this one's commit. */
export const requireRoom = async (tx: Transaction, zone_id: string, name: keyof typeof QUOTA_LIMITS): Promise<void> => {
  await lockQuota(tx, name, zone_id);
  const limit = (await readLimits(tx, zone_id)).get(name) ?? QUOTA_LIMITS[name];
  const use = (await useOf(tx, name, zone_id)) ?? 0;
  if (use >= limit) throw quotaExceeded({ name, limit, use });
};

/** The zone's limit of what no row is counted for, as it is now. */
export const boundOf = async (sql: Queryable, zone_id: string, name: Bound): Promise<number> =>
  (await readLimits(sql, zone_id)).get(name) ?? BOUND_LIMITS[name];

/** 409 where `use` is more than the zone may have at once. */
export const requireWithin = async (tx: Transaction, zone_id: string, name: Bound, use: number): Promise<void> => {
  const limit = await boundOf(tx, zone_id, name);
  if (use > limit) throw quotaExceeded({ name, limit, use });
};

/**
 * A zone's own token stays within what the global admin gave the zone. `asked`: null is the deployment's limit, which can
 * be more than the zone's.
 */
export const requireRate = async (
  tx: Transaction,
  caller: Caller,
  zone_id: string,
  rate_limit_per_minute: number,
  asked: number | null,
): Promise<void> => {
  if (caller.zone_id === null) return;
  const name = "rate_limit_per_minute";
  const { limit } = await quotaOf(tx, zone_id, name, rate_limit_per_minute);
  const use = asked ?? rate_limit_per_minute;
  if (use > limit) throw quotaExceeded({ name, limit, use });
};

export const quotaVerbs = ({
  db,
  change,
  rate_limit_per_minute,
}: Parts): Pick<ControlPlane, keyof typeof quotaEndpoints> => ({
  listQuotas: async ({ params: { zone_id } }) => ({
    items: await Promise.all(NAMES.map((name) => quotaOf(db.sql, zone_id, name, rate_limit_per_minute))),
  }),

  setQuota: ({ caller, params: { zone_id, name }, body: { limit } }) => {
    const most = mostOf(name);
    if (limit !== null && limit > most) throw unusable("limit", `must be at most ${most}`);
    return change(caller, async (tx) => {
      await requireHeldZone(tx, zone_id);
      const before = await quotaOf(tx, zone_id, name, rate_limit_per_minute);
      await writeLimit(tx, zone_id, name, limit);
      const after = await quotaOf(tx, zone_id, name, rate_limit_per_minute);
      const detail = { before: { limit: before.limit }, after: { limit: after.limit } };
      return { result: after, entry: { action: "quota.set", zone_id, object_id: name, detail } };
    });
  },
});
