import type { Shares } from "../../kernel/shares.ts";
import { type Denial, deny, load } from "../../kernel/pipeline.ts";
import type { Claims, Start } from "../facts.ts";

const WORDS = {
  process: "This Gateway has as many calls under way as it may have.",
  zone: "The zone has as many calls under way as one zone may have.",
  client: "The client has as many calls under way as one client may have.",
} as const;

/**
 * A place among the running calls, held until the answer is closed, whoever closes it. After the signature, since only then
 * it is known whose it is; before everything that costs a question to others.
 */
export const admitted = (shares: Shares) =>
  load("admission", ({ claims, client }: Start & { readonly claims: Claims }): object | Denial<"too_many_calls"> => {
    const share = shares.take(claims.zone_id, claims.client_id);
    if (!share.ok) return deny("too_many_calls", share.bound, { description: WORDS[share.bound] });
    client.hold(share);
    return {};
  });
