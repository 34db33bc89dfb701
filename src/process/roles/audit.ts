import { createAudit } from "../../audit/index.ts";
import { keyring } from "../../domain/keyring.ts";
import { createMetrics } from "../../kernel/metrics.ts";
import { databaseOf, required } from "../parts.ts";
import type { MakeRole } from "../make-role.ts";

/** The ledger. It runs in the main thread, or in one of its own. */
export const makeAudit: MakeRole<"audit"> = (parts) => {
  const { config } = parts;
  const role = createAudit({
    db: databaseOf(parts, "audit"),
    streams: parts.streams,
    stream_ring: parts.streams_ring,
    audit_ring: keyring(required(config.AUDIT_HMAC_KEY, "AUDIT_HMAC_KEY"), config.AUDIT_HMAC_KEY_PREVIOUS),
    max_deliveries: config.AUDIT_MAX_DELIVERIES,
    consumer: parts.instance_id,
    clock: parts.clock,
    log: parts.log.child({ role: "audit" }),
    metrics: createMetrics(parts.process_metrics),
  });
  return { role, services: [] };
};
