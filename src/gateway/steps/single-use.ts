import type { Claims } from "../../domain/token.ts";
import { uuidv7Time_ms } from "../../kernel/ids.ts";
import type { Log } from "../../kernel/log.ts";
import { commit, type Denial, deny } from "../../kernel/pipeline.ts";
import type { Marks } from "../../ports/marks.ts";
import type { Client } from "../facts.ts";
import type { UsedMandates } from "./unused.ts";

type Marked = { readonly marked: boolean };
type Refused = Denial<"mandate_used" | "mandate_may_be_used" | "marks_unavailable" | "client_gone">;

/**
 * A mandate passes once, at any Gateway. Last, just before the upstream is called and after the ledger's row, so that no
 * other refusal burns it; what is consumed here stays consumed, whatever the upstream does. Crash states: marked, and never
 * sent: the mandate is lost, its row has no outcome. Not marked, though its row is there: it can be presented again.
 */
export const singleUse = (deps: {
  readonly marks: Marks;
  readonly used: UsedMandates;
  readonly jti_fail_open: boolean;
  readonly log: Log;
}) => {
  const { marks, used, jti_fail_open, log } = deps;
  const mark = async (claims: Claims): Promise<Marked | Refused> => {
    const issued_ms = uuidv7Time_ms(claims.jti);
    if (issued_ms === undefined) return deny("mandate_may_be_used", "its jti is no UUIDv7");
    try {
      // By zone as well: a jti is unique where it was made, and nothing else is to be believed of it.
      const result = await marks.once("jti", `${claims.zone_id}:${claims.jti}`, issued_ms, claims.exp * 1000);
      if (result !== "lost") used.add(claims);
      if (result === "marked") return { marked: true };
      return result === "seen"
        ? deny("mandate_used")
        : deny("mandate_may_be_used", "issued before the memory of marks was whole");
    } catch (error) {
      if (!jti_fail_open) return deny("marks_unavailable", error instanceof Error ? error.message : String(error));
      log.warn({ err: error }, "JTI_FAIL_OPEN: a mandate passes unmarked");
      return { marked: false };
    }
  };
  return commit(
    "single_use",
    ({
      claims,
      client,
    }: {
      readonly claims: Claims;
      readonly client: Client;
    }): Marked | Refused | Promise<Marked | Refused> => {
      if (client.gone()) return deny("client_gone");
      return claims.use === "per_call" ? mark(claims) : { marked: false };
    },
  );
};
