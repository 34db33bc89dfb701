import type { issuerEndpoints } from "../contracts/api-issuers.ts";
import { requireCallable } from "./callable.ts";
import { unusable } from "./faults.ts";
import type { ControlPlane, Parts } from "./parts.ts";
import type { Fields } from "./store/things.ts";
import { thingVerbs } from "./things.ts";

const URLS = ["issuer_url", "jwks_uri"];

/** Keys come from one place: of two, nobody could say which one is believed. */
export const requireOneKeySource = (all: Fields): void => {
  const both = [all["jwks"], all["jwks_uri"]].every((value) => value !== null && value !== undefined);
  if (both) throw unusable("jwks_uri", "can't be there beside jwks; set the other one to null");
};

export const issuerVerbs = (parts: Parts): Pick<ControlPlane, keyof typeof issuerEndpoints> => {
  const { egress } = parts;
  const issuers = thingVerbs(parts, "issuer", {
    write: async (_tx, { before, fields }) => {
      requireOneKeySource({ ...before, ...fields });
      return { columns: fields };
    },
  });
  return {
    listIssuers: issuers.list,
    createIssuer: async (call) => {
      await requireCallable(egress, call.params.zone_id, call.body, URLS);
      return issuers.create(call);
    },
    getIssuer: issuers.get,
    updateIssuer: async (call) => {
      await requireCallable(egress, call.params.zone_id, call.body, URLS);
      return issuers.update(call);
    },
    archiveIssuer: issuers.archive,
  };
};
