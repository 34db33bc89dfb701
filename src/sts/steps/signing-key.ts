import type { Log } from "../../kernel/log.ts";
import { deny, load } from "../../kernel/pipeline.ts";
import type { SigningKeys } from "../known/signing-keys.ts";
import type { ZoneSnapshot } from "../known/snapshot.ts";

/** Asked before anything is written: a session whose token can't be signed helps nobody. */
export const signingKey = (keys: SigningKeys, log: Log) =>
  load("signing_key", (f: { readonly zone: ZoneSnapshot }) => {
    const { signing } = f.zone.keys;
    if (signing === undefined) return deny("signing_key_missing");
    try {
      return { signer: { kid: signing.kid, key: keys.open(f.zone.zone_id, signing.kid, signing.sealed_private) } };
    } catch (error) {
      log.error({ err: error, zone_id: f.zone.zone_id, kid: signing.kid }, "a zone's signing key can't be opened");
      return deny("signing_key_unavailable");
    }
  });
