import fc from "fast-check";
import {
  type AuditEvent,
  type AuditValues,
  MEMBER_NAMES,
  MEMBER_TABLE,
  unreserved,
  valuesOf,
} from "../../src/domain/audit-event.ts";
import type { Keyring } from "../../src/domain/keyring.ts";
import type { Ingest, IngestOptions, Ingested } from "../../src/audit/ingest.ts";
import { createIngest } from "../../src/audit/ingest.ts";
import { uuidv7 } from "../../src/kernel/ids.ts";
import { entriesOf, fittedText, type SentEvent, sentEvents, textOf } from "../../src/ledger/entry.ts";
import type { Fields } from "../../src/broadcast/envelope.ts";

/** Values → the event by name. */
export const eventOf = (values: AuditValues): AuditEvent =>
  Object.fromEntries(
    MEMBER_TABLE.slice(1).map(({ name, kind }, at) => [
      name,
      kind === "number" ? Number(values[at + 1]) : values[at + 1],
    ]),
  ) as AuditEvent;

const sentAs = (text: string): SentEvent => ({
  text,
  values: text.split("\u001f").map((value) => (value === "" ? null : value)),
});

/** The event as it travels, as its producer would have made it. */
export const sent = (event: AuditEvent): SentEvent => sentAs(fittedText(valuesOf(event)));

/** The same without the producer's care: as another build might have made it. */
export const sentUnfitted = (event: AuditEvent): SentEvent => sentAs(textOf(valuesOf(event)));

/** An ingest that is given events by name. */
export const ingestByName = (options: IngestOptions): { ingest(events: readonly AuditEvent[]): Promise<Ingested> } => {
  const ingest: Ingest = createIngest(options);
  return { ingest: (events) => ingest.ingest(events.map(sent)) };
};

/** The ids of what was rejected. */
export const rejectedIds = ({ rejected }: Ingested): readonly string[] =>
  rejected.map(({ event }) => eventOf(event.values).id);

/** The events of an entry, by name; undefined where it holds something else. */
export const readEvents = (fields: Fields): readonly AuditEvent[] | undefined =>
  sentEvents(fields)?.map(({ values }) => eventOf(values));

/** Events as signed entries. */
export const writeEvents = (ring: Keyring, events: readonly AuditEvent[]): Fields[] =>
  entriesOf(
    ring,
    events.map((event) => sent(event).text),
  );

/** What of an event is kept: an empty text is none, and what is reserved is spelt out. */
export const asKept = (event: AuditEvent): AuditEvent =>
  Object.fromEntries(
    MEMBER_NAMES.slice(1).map((name) => {
      const value = event[name as keyof AuditEvent];
      return [name, value === "" ? null : typeof value === "string" ? unreserved(value) : value];
    }),
  ) as AuditEvent;

const APP = uuidv7();

/** An event of zone `z1`, as a producer would make it. */
export const auditEvent = (some: Partial<AuditEvent> = {}): AuditEvent => ({
  id: uuidv7(),
  zone_id: "z1",
  event_type: "token.exchange",
  request_id: uuidv7(),
  decision: "deny",
  client_id: APP,
  subject: "app-1",
  session_id: uuidv7(),
  agent_session_id: null,
  delegation_edge_id: null,
  resource_id: uuidv7(),
  producer: "sts:1",
  producer_seq: 1,
  policy_set_id: uuidv7(),
  policy_set_version_id: uuidv7(),
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

const maybeUuid = fc.option(fc.uuid());
const maybeText = fc.option(fc.string({ unit: "binary", maxLength: 40 }));
const text = fc.string({ unit: "binary", minLength: 1, maxLength: 40 });

/** Any event that the schema allows, with text of every kind; some of it holds what is reserved. */
export const anyEvent: fc.Arbitrary<AuditEvent> = fc.record({
  id: fc.uuid(),
  zone_id: text,
  event_type: text,
  request_id: maybeText,
  decision: fc.constantFrom("allow", "deny", "none"),
  client_id: maybeUuid,
  subject: maybeText,
  session_id: maybeUuid,
  agent_session_id: maybeUuid,
  delegation_edge_id: maybeUuid,
  resource_id: maybeUuid,
  producer: text,
  producer_seq: fc.maxSafeNat().map((number) => Math.max(1, number)),
  policy_set_id: maybeUuid,
  policy_set_version_id: maybeUuid,
  manifest_sha: fc.option(fc.string({ unit: fc.constantFrom(..."0123456789abcdef"), minLength: 64, maxLength: 64 })),
  evaluation_status: maybeText,
  determining_policies_json: maybeText,
  diagnostics_json: maybeText,
  metadata_json: maybeText,
  occurred_at: fc
    .date({ min: new Date("2000-01-01"), max: new Date("2100-01-01"), noInvalidDate: true })
    .map((date) => date.toISOString()),
});
