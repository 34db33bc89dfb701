import fc from "fast-check";
import type { AuditEvent } from "../../src/domain/audit-event.ts";
import { uuidv7 } from "../../src/kernel/ids.ts";

/** An event of zone `z1`, as a producer would make it. */
export const auditEvent = (some: Partial<AuditEvent> = {}): AuditEvent => ({
  id: uuidv7(),
  zone_id: "z1",
  event_type: "token.exchange",
  request_id: uuidv7(),
  decision: "deny",
  client_id: "app-1",
  subject: "app-1",
  session_id: uuidv7(),
  agent_session_id: null,
  delegation_edge_id: null,
  resource_id: "res-1",
  producer: "sts:1",
  producer_seq: 1,
  policy_set_id: "ps-1",
  policy_set_version_id: "psv-1",
  manifest_sha: "ab".repeat(32),
  evaluation_status: "complete",
  determining_policies_json: '["pol-1"]',
  diagnostics_json: "[]",
  metadata_json: '{"input":{"action":{"id":"TokenExchange","path":"/ünï","method":"POST"}}}',
  occurred_at: new Date().toISOString(),
  ...some,
});

/** `count` events of one producer, numbered from `first`. */
export const auditEvents = (count: number, some: Partial<AuditEvent> = {}, first = 1): readonly AuditEvent[] =>
  Array.from({ length: count }, (_, index) => auditEvent({ producer_seq: first + index, ...some }));

const text = fc.string({ unit: "binary", maxLength: 40 });
const maybeText = fc.option(text);

/** Any event that the schema allows, with text of every kind; some of it can't be kept. */
export const anyEvent: fc.Arbitrary<AuditEvent> = fc.record({
  id: text,
  zone_id: text,
  event_type: text,
  request_id: maybeText,
  decision: fc.constantFrom("allow", "deny", "none"),
  client_id: maybeText,
  subject: maybeText,
  session_id: maybeText,
  agent_session_id: maybeText,
  delegation_edge_id: maybeText,
  resource_id: maybeText,
  producer: text,
  producer_seq: fc.maxSafeNat().map((number) => Math.max(1, number)),
  policy_set_id: maybeText,
  policy_set_version_id: maybeText,
  manifest_sha: maybeText,
  evaluation_status: maybeText,
  determining_policies_json: maybeText,
  diagnostics_json: maybeText,
  metadata_json: maybeText,
  occurred_at: text,
});
