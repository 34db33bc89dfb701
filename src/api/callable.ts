import type { Egress, EgressRefusal } from "../ports/egress.ts";
import { unusable } from "./faults.ts";
import type { Fields } from "./store/things.ts";

/** No judgement of the address: there was none to judge, or the zone is looking up as many names as it may. */
const NOT_JUDGED: ReadonlySet<EgressRefusal> = new Set<EgressRefusal>([
  "name_not_resolved",
  "zone_lookups_full",
  "lookups_full",
]);

/**
 * Refuses addresses that the STS would not call anyway (the SSRF guard), so that who writes one is told at once. A name
 * that does not resolve now is no fault: each call asks again. Outside of transactions: names take their time.
 */
export const requireCallable = async (
  egress: Egress,
  zone_id: string,
  fields: Fields,
  names: readonly string[],
): Promise<void> => {
  for (const name of names) {
    const url = fields[name];
    if (typeof url !== "string") continue;
    const checked = await egress.check(new URL(url), zone_id);
    // why exactly stays inside: an address behind a name is nobody's business
    if ("refused" in checked && !NOT_JUDGED.has(checked.refused)) {
      throw unusable(name, "is no address that may be called");
    }
  }
};
