import { type Denial, deny, load } from "../../kernel/pipeline.ts";
import type { Egress, EgressRefused, EgressTarget } from "../../ports/egress.ts";
import type { Passage } from "../facts.ts";

type Allowed = { readonly target: EgressTarget };
type Refused = Denial<"upstream_refused" | "upstream_not_resolved">;

const judge = (result: EgressTarget | EgressRefused): Allowed | Refused => {
  if (!("refused" in result)) return { target: result };
  return result.refused === "name_not_resolved"
    ? deny("upstream_not_resolved", result.detail)
    : deny("upstream_refused", `${result.refused}: ${result.detail}`);
};

/** The SSRF guard. The address that it judged is in the decision, and is the only one that can be dialled for it. */
export const upstreamAllowed = (egress: Egress) =>
  load("upstream_allowed", ({ upstream }: Passage): Allowed | Refused | Promise<Allowed | Refused> => {
    const result = egress.check(upstream);
    return result instanceof Promise ? result.then(judge) : judge(result);
  });
