import { createAudit } from "../../audit/index.ts";
import { keyring } from "../../domain/keyring.ts";
import type { Role } from "../../http/role.ts";
import { createMetrics } from "../../kernel/metrics.ts";
import { databaseOf, type Parts, required } from "../parts.ts";

/** The ledger from its thread's parts, whichever thread that is. */
export const auditOf = (parts: Parts): Role => {
  const { config } = parts;
  return createAudit({
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
};
