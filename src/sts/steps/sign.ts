import { signPayload } from "../../domain/token.ts";
import { commit } from "../../kernel/pipeline.ts";
import type { Facts } from "../facts.ts";

/** The one signature of a request. Nothing of it leaves before the ledger has it. */
export const sign = (onSignature: () => void) =>
  commit("sign", (f: Pick<Facts, "payload" | "signer">) => {
    onSignature();
    return { access_token: signPayload(f.signer.key, f.signer.kid, f.payload) };
  });
