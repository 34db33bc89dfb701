import { LedgerShare } from "../../domain/audit-event.ts";
import { commit, type Denial, deny } from "../../kernel/pipeline.ts";
import type { Binding, Claims, Passage, Route, Start } from "../facts.ts";
import type { Ledger } from "../ledger.ts";
import type { UsedMandates } from "./unused.ts";

type Needs = Start &
  Pick<Passage, "decision_id"> & { readonly claims: Claims; readonly binding: Binding; readonly route: Route };
type Refused = Denial<"mandate_used" | "ledger_unavailable" | "ledger_share">;

/**
 * No call passes that is not written down. For an exchanged token the STS has done it; that a presented mandate passes is
 * decided here. Before the mark, so that a ledger that is away burns no mandate. The mandate is claimed first: of calls that
 * come with it at the same time one writes its row. Crash state: written, and neither marked nor sent: the row has no
 * outcome, and the mandate still passes once. Where the mark then refuses it, that is a row of its own.
 */
export const written = ({ ledger, used }: { readonly ledger: Ledger; readonly used: UsedMandates }) =>
  commit(
    "written",
    ({ inbound, claims, binding, route, decision_id }: Needs): object | Refused | Promise<object | Refused> => {
      if (decision_id !== undefined) return {};
      if (!used.claim(claims)) return deny("mandate_used");
      return ledger.allowed(inbound, claims, binding, route.path).then(
        (id) => ({ decision_id: id }),
        (error: unknown) => {
          used.drop(claims);
          return error instanceof LedgerShare
            ? deny("ledger_share")
            : deny("ledger_unavailable", error instanceof Error ? error.message : String(error));
        },
      );
    },
  );
