import type { Transaction } from "../../ports/database.ts";
import { isoOrNull } from "./rows.ts";

/** The present secret opens for `keep_old_s` seconds more, beside the new one; a still older one ends now. */
export const replaceSecret = async (
  tx: Transaction,
  zone_id: string,
  id: string,
  { secret_hash, keep_old_s }: { readonly secret_hash: string; readonly keep_old_s: number },
): Promise<{ readonly previous_secret_expires_at: string | null }> => {
  const keeps = keep_old_s > 0;
  const rows = await tx<[{ previous_secret_expires_at: Date | null }]>`
    update applications set
      previous_secret_hash = case when ${keeps} then secret_hash end,
      previous_secret_expires_at =
        case when ${keeps} and secret_hash is not null then now() + make_interval(secs => ${keep_old_s}::integer) end,
      secret_hash = ${secret_hash}, revision = revision + 1, updated_at = now()
    where zone_id = ${zone_id} and id = ${id}
    returning previous_secret_expires_at`;
  return { previous_secret_expires_at: isoOrNull(rows[0].previous_secret_expires_at) };
};
