import assert from "node:assert/strict";
import { describe, it } from "node:test";
import fc from "fast-check";
import { documentId, documentOf } from "../../src/domain/audit-document.ts";
import {
  type InputEvent,
  type InputRecord,
  inputRecordOf,
  rebuiltInput,
} from "../../src/domain/policy-input-record.ts";
import type { PolicyFacts } from "../../src/domain/policy-input.ts";
import { policyInputText } from "../../src/domain/policy-input-text.ts";
import { isUuid, uuidv7, uuidv7Time_ms } from "../../src/kernel/ids.ts";

const text = fc.string({ unit: "binary", maxLength: 12 });
const texts = fc.array(text, { maxLength: 3 });
const maybe = <T>(some: fc.Arbitrary<T>) => fc.option(some, { nil: undefined });
const anyId = fc.oneof(fc.uuid(), text);
const anyClaims = fc.dictionary(text, fc.oneof(text, fc.integer(), texts), { maxKeys: 4 });

const anyFacts: fc.Arbitrary<PolicyFacts> = fc.record({
  zone_id: anyId,
  application: fc.record({ id: anyId, traits: texts }),
  credential_type: fc.constantFrom("client_secret", "private_key_jwt", "workload", "ambient_token"),
  resource: fc.record({ id: anyId, identifier: text, scopes: texts }),
  use: fc.constantFrom("ambient", "per_call"),
  requested_scopes: texts,
  now_ms: fc.integer({ min: 1_600_000_000_000, max: 2_000_000_000_000 }),
  method: maybe(text),
  path: maybe(text),
  session_id: maybe(anyId),
  agent_session_id: maybe(anyId),
  delegation_edge: maybe(
    fc.record({
      id: anyId,
      source_session_id: anyId,
      target_session_id: anyId,
      issuer_application_id: anyId,
      receiver_application_id: anyId,
      resource_id: fc.option(anyId),
      scopes: texts,
      edge_version: fc.nat(),
      path: texts,
      graph_epoch: fc.nat(),
      constraints_json: fc.jsonValue(),
    }),
  ),
  subject_claims: maybe(anyClaims),
  actor_claims: maybe(anyClaims),
  trace_id: maybe(text),
  challenge_resolved: maybe(fc.boolean()),
});

/** An event of these facts: some of it says what they say, some of it says otherwise, or nothing. */
const eventFor = (facts: PolicyFacts): fc.Arbitrary<InputEvent> =>
  fc.record({
    id: fc.constantFrom(undefined, uuidv7(), idAt(facts.now_ms)),
    event_type: fc.constantFrom("token.issue", "token.exchange"),
    session_id: fc.constantFrom(facts.session_id ?? null, null, uuidv7()),
    agent_session_id: fc.constantFrom(facts.agent_session_id ?? null, null, uuidv7()),
  });

/** A UUIDv7 of that time, whatever the clock of this process says. */
const idAt = (ms: number): string => {
  const hex = ms.toString(16).padStart(12, "0");
  return `${hex.slice(0, 8)}-${hex.slice(8)}${uuidv7().slice(13)}`;
};

/** What comes back from the ledger of it: ids that are no UUIDs are not in their columns. */
const asKept = (event: InputEvent): InputEvent => {
  const kept = (id: string | null): string | null => (id !== null && isUuid(id) ? id : null);
  return { ...event, session_id: kept(event.session_id), agent_session_id: kept(event.agent_session_id) };
};

const SET = { policy_set_id: uuidv7(), policy_set_version_id: uuidv7(), manifest_sha: "ab".repeat(32) };

const cases = anyFacts.chain((facts) => fc.tuple(fc.constant(facts), eventFor(facts)));

describe("what an event keeps of a policy's input", () => {
  it("gives the input back to the byte, whatever was asked", () => {
    fc.assert(
      fc.property(cases, ([facts, event]) => {
        const whole = policyInputText(facts);
        const { record_json, documents } = inputRecordOf(event, SET, facts, whole);
        const named = new Map(documents.map((one) => [one.name, one.text]));
        const record = JSON.parse(record_json) as InputRecord;
        assert.equal(
          rebuiltInput(asKept(event), record, (name) => named.get(name)),
          whole,
        );
      }),
      { numRuns: 500 },
    );
  });

  it("gives nothing back where a document is missing or another's, or the event says otherwise", () => {
    fc.assert(
      fc.property(cases, fc.nat(), fc.boolean(), ([facts, event], which, gone) => {
        const { record_json, documents } = inputRecordOf(event, SET, facts, policyInputText(facts));
        const record = JSON.parse(record_json) as InputRecord;
        const bad = documents[1 + (which % (documents.length - 1))]?.name; // the first one is no part of the input
        const named = new Map(documents.map((one) => [one.name, one.text]));
        const altered = (name: string) => {
          if (name !== bad) return named.get(name);
          return gone ? undefined : `${named.get(name) ?? ""} `;
        };
        assert.equal(rebuiltInput(asKept(event), record, altered), undefined);
        const other = { ...record, scopes: [...record.scopes, "more"] };
        assert.equal(
          rebuiltInput(asKept(event), other, (name) => named.get(name)),
          undefined,
        );
      }),
    );
  });

  it("says nothing that the event says by itself", () => {
    const now_ms = 1_800_000_000_000;
    const session_id = uuidv7();
    const facts: PolicyFacts = {
      zone_id: uuidv7(),
      application: { id: uuidv7(), traits: [] },
      credential_type: "ambient_token",
      resource: { id: uuidv7(), identifier: "resource://r", scopes: ["read"] },
      use: "per_call",
      requested_scopes: ["read"],
      now_ms,
      session_id,
      subject_claims: { sub: "s" },
    };
    const event = { id: idAt(now_ms), event_type: "token.exchange", session_id, agent_session_id: null };
    assert.equal(uuidv7Time_ms(event.id), now_ms);
    const { record_json, documents } = inputRecordOf(event, SET, facts, policyInputText(facts));
    const record = JSON.parse(record_json) as Record<string, unknown>;
    assert.deepEqual(Object.keys(record), ["sha256", "documents", "scopes"]);
    assert.deepEqual(
      record["documents"],
      documents.map(({ name }) => name),
    );
  });
});

describe("a document", () => {
  it("has one name for one text, and one id for one zone, month and name", () => {
    assert.deepEqual(documentOf("a"), documentOf("a"));
    assert.notEqual(documentOf("a").name, documentOf("b").name);
    const { name } = documentOf("a");
    const ids = [
      documentId("z1", "2026-01", name),
      documentId("z2", "2026-01", name),
      documentId("z1", "2026-02", name),
      documentId("z1", "2026-01", documentOf("b").name),
    ];
    assert.equal(new Set(ids).size, 4);
    assert.equal(documentId("z1", "2026-01", name), ids[0]);
    for (const id of ids) assert.match(id, /^[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
  });
});
