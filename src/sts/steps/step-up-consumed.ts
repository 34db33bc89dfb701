import type { Log } from "../../kernel/log.ts";
import { commit, deny } from "../../kernel/pipeline.ts";
import type { Database } from "../../ports/database.ts";
import type { Facts } from "../facts.ts";
import type { ZoneSnapshot } from "../known/snapshot.ts";
import { consumeChallenge } from "../store/challenges.ts";

const NOTHING = {};

/**
 * Uses the approval up, after policy's last word, so that a later deny does not. Of many retries at the same time, at however many
 * replicas, one changes the row. Crash after this line: the approval is gone and no mandate left us; the caller asks for another.
 */
export const stepUpConsumed = (ports: {
  readonly db: Database;
  readonly log: Log;
  readonly onStepUp: (event: "consumed") => void;
}) =>
  commit("step_up_consumed", (f: Pick<Facts, "approval"> & { readonly zone: ZoneSnapshot }) => {
    const { approval, zone } = f;
    if (approval === undefined) return NOTHING;
    return consumeChallenge(ports.db.sql, zone.zone_id, approval.id).then(
      (consumed) => {
        if (!consumed) return deny("challenge_consumed", approval.id);
        ports.onStepUp("consumed");
        return NOTHING;
      },
      (error: unknown) => {
        ports.log.error({ err: error, zone_id: zone.zone_id }, "a challenge can't be consumed");
        return deny("challenge_unavailable");
      },
    );
  });
