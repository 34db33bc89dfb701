import type { Revocations } from "../../domain/revocation.ts";
import type { Claims } from "../../domain/token.ts";
import { uuidv7Time_ms } from "../../kernel/ids.ts";
import type { Log } from "../../kernel/log.ts";
import { commit, type Denial, deny } from "../../kernel/pipeline.ts";
import type { Marks } from "../../ports/marks.ts";
import type { Client } from "../facts.ts";
import { authorityOf, revocationFresh } from "./revocation.ts";
import type { UsedMandates } from "./unused.ts";

type Marked = { readonly marked: boolean };
type Needs = { readonly claims: Claims; readonly client: Client };
type Refused = Denial<
  "mandate_used" | "mandate_may_be_used" | "marks_unavailable" | "client_gone" | "revocation_stale"
>;

/**
 * A mandate passes once, at any Gateway. Last, just before the upstream is called and after the ledger's row, so that no
 * other refusal burns it; what is consumed here stays consumed, whatever the upstream does. Crash states: marked, and never
 * sent: the mandate is lost, its row has no outcome. Not marked, though its row is there: it can be presented again.
 */
export const singleUse = (deps: {
  readonly revocations: Revocations;
  readonly marks: Marks;
  readonly used: UsedMandates;
  readonly jti_fail_open: boolean;
  readonly log: Log;
}) => {
  const { revocations, marks, used, jti_fail_open, log } = deps;
  const mark = async (claims: Claims): Promise<Marked | Refused> => {
    const issued_ms = uuidv7Time_ms(claims.jti);
    if (issued_ms === undefined) return deny("mandate_may_be_used", "its jti is no UUIDv7");
    try {
      // By zone as well: a jti is unique where it was made, and nothing else is to be believed of it.
      const result = await marks.once("jti", `${claims.zone_id}:${claims.jti}`, issued_ms, claims.exp * 1000);
      if (result === "marked") return { marked: true };
      return result === "seen"
        ? deny("mandate_used")
        : deny("mandate_may_be_used", "issued before the memory of marks was whole");
    } catch (error) {
      used.drop(claims);
      if (!jti_fail_open) return deny("marks_unavailable", error instanceof Error ? error.message : String(error));
      log.warn({ err: error }, "JTI_FAIL_OPEN: a mandate passes unmarked");
      return { marked: false };
    }
  };
  return commit("single_use", ({ claims, client }: Needs): Marked | Refused | Promise<Marked | Refused> => {
    const mandate = claims.use === "per_call";
    // What would stop the call in the moment after the mark stops it here, where it burns no mandate.
    const denial = client.gone()
      ? deny("client_gone")
      : revocationFresh.run(authorityOf(revocations, claims.zone_id, claims));
    if (denial !== undefined && mandate) used.drop(claims);
    return denial ?? (mandate ? mark(claims) : { marked: false });
  });
};
