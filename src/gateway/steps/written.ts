import { LedgerShare } from "../../domain/audit-event.ts";
import { commit, type Denial, deny } from "../../kernel/pipeline.ts";
import type { Binding, Claims, Passage, Route, Start } from "../facts.ts";
import type { Ledger } from "../ledger.ts";

type Needs = Start &
  Pick<Passage, "decision_id"> & { readonly claims: Claims; readonly binding: Binding; readonly route: Route };

/**
 * No call passes that is not written down. For an exchanged token the STS has done it; that a presented mandate passes is
 * decided here. Before the mark, so that a ledger that is away burns no mandate. Crash state: written, and neither marked nor
 * sent: the row has no outcome, and the mandate still passes once. Where the mark then refuses it, that is a row of its own.
 */
export const written = (ledger: Ledger) =>
  commit(
    "written",
    ({
      inbound,
      claims,
      binding,
      route,
      decision_id,
    }: Needs): object | Promise<object | Denial<"ledger_unavailable" | "ledger_share">> => {
      if (decision_id !== undefined) return {};
      return ledger.allowed(inbound, claims, binding, route.path).then(
        (id) => ({ decision_id: id }),
        (error: unknown) =>
          error instanceof LedgerShare
            ? deny("ledger_share")
            : deny("ledger_unavailable", error instanceof Error ? error.message : String(error)),
      );
    },
  );
