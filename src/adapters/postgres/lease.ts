import type { Database } from "../../ports/database.ts";
import { type Held, type Lease, LeaseLost } from "../../ports/lease.ts";

/**
 * Leases as rows of `leases`, by the database's clock alone. `owner` is one process's own, and its `acquire` renews what
 * it holds; whoever else asks gets the lease when it has run out, and a `fence` that is higher by one.
 */
export const createLease = (db: Database, owner: string): Lease => ({
  async acquire(name, ttl_ms) {
    // `excluded` is ours. Of several that find it run out, the row's lock lets one through; the others see the new row.
    const [row] = await db.sql<{ fence: number }[]>`
      insert into leases as held (name, owner, fence, expires_at)
      values (${name}, ${owner}, 1, clock_timestamp() + ${ttl_ms}::float8 * interval '1 millisecond')
      on conflict (name) do update
        set owner = excluded.owner,
            expires_at = excluded.expires_at,
            fence = held.fence + case when held.owner = excluded.owner and held.expires_at > clock_timestamp() then 0 else 1 end
        where held.owner = excluded.owner or held.expires_at <= clock_timestamp()
      returning fence::float8 as fence`;
    return row === undefined ? undefined : { name, owner, fence: row.fence };
  },

  async hold(tx, held: Held) {
    // Shared: two transactions of one owner may go on at once, and nobody takes the lease until both are over.
    const rows = await tx`
      select 1 from leases
      where name = ${held.name} and owner = ${held.owner} and fence = ${held.fence} and expires_at > clock_timestamp()
      for share`;
    if (rows.length === 0) throw new LeaseLost(held.name);
  },

  async release(held) {
    await db.sql`
      update leases set expires_at = '-infinity'
      where name = ${held.name} and owner = ${held.owner} and fence = ${held.fence}`;
  },
});
