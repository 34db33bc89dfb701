import type { Egress } from "../ports/egress.ts";
import { unusable } from "./faults.ts";
import type { Fields } from "./store/things.ts";

/**
 * Refuses addresses that the STS would not call anyway (the SSRF guard), so that who writes one is told at once. A name
 * that does not resolve now is no fault: each call asks again. Outside of transactions: names take their time.
 */
export const requireCallable = async (egress: Egress, fields: Fields, names: readonly string[]): Promise<void> => {
  for (const name of names) {
    const url = fields[name];
    if (typeof url !== "string") continue;
    const checked = await egress.check(new URL(url));
    // why exactly stays inside: an address behind a name is nobody's business
    if ("refused" in checked && checked.refused !== "name_not_resolved") {
      throw unusable(name, "is no address that may be called");
    }
  }
};
