import type { Keyring } from "../domain/keyring.ts";
import { seal } from "../domain/sealing.ts";
import type { Fields } from "./store/things.ts";

type Place = { readonly table: string; readonly zone_id: string; readonly row: string };

/**
 * Fields with those that are `secret` sealed for the very column that they go to: `api_key` → `sealed_api_key`. null
 * clears the column; a field that was left out leaves it as it is.
 */
export const withSealed = (kek: Keyring, place: Place, fields: Fields, secret: readonly string[]): Fields =>
  Object.fromEntries(
    Object.entries(fields).map(([name, value]) => {
      if (!secret.includes(name)) return [name, value];
      const column = `sealed_${name}`;
      return [column, typeof value === "string" ? seal(kek, { ...place, column }, Buffer.from(value)) : value];
    }),
  );
