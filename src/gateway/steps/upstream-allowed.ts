import { type Denial, deny, load } from "../../kernel/pipeline.ts";
import type { Egress, EgressRefusal, EgressRefused, EgressTarget } from "../../ports/egress.ts";
import type { Claims, Passage } from "../facts.ts";

type Allowed = { readonly target: EgressTarget };
type Refusal = "upstream_refused" | "upstream_not_resolved" | "zone_lookups_full" | "lookups_full";
type Refused = Denial<Refusal>;
type Needs = Pick<Passage, "upstream"> & { readonly claims: Claims };

/** Those that are no judgement of the target. */
const NO_JUDGEMENT: Readonly<Partial<Record<EgressRefusal, Refusal>>> = {
  name_not_resolved: "upstream_not_resolved",
  zone_lookups_full: "zone_lookups_full",
  lookups_full: "lookups_full",
};

const judge = (result: EgressTarget | EgressRefused): Allowed | Refused => {
  if (!("refused" in result)) return { target: result };
  const reason = NO_JUDGEMENT[result.refused];
  return reason === undefined
    ? deny("upstream_refused", `${result.refused}: ${result.detail}`)
    : deny(reason, result.detail);
};

/** The SSRF guard. The addresses that it judged are in the decision, and the only ones that can be dialled for it. */
export const upstreamAllowed = (egress: Egress) =>
  load("upstream_allowed", ({ upstream, claims }: Needs): Allowed | Refused | Promise<Allowed | Refused> => {
    const result = egress.check(upstream, claims.zone_id);
    return result instanceof Promise ? result.then(judge) : judge(result);
  });
