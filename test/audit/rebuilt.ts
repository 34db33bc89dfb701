import assert from "node:assert/strict";
import { documentOf } from "../../src/domain/audit-document.ts";
import type { AuditEvent } from "../../src/domain/audit-event.ts";
import { type InputRecord, rebuiltInput } from "../../src/domain/policy-input-record.ts";
import type { PolicyInput } from "../../src/domain/policy-input.ts";

type Said = { readonly evaluations?: readonly { readonly input: InputRecord }[] };

/** The inputs that policy saw for an event, to the byte, out of the ledger's own events: documents are found by their names. */
export const rebuiltTexts = (
  event: Pick<AuditEvent, "id" | "event_type" | "session_id" | "agent_session_id" | "metadata_json">,
  documentNamed: (name: string) => string | undefined,
): readonly string[] => {
  const { evaluations = [] } = JSON.parse(event.metadata_json ?? "{}") as Said;
  return evaluations.map(({ input }) => {
    const text = rebuiltInput(event, input, documentNamed);
    assert.ok(text !== undefined, "the input can't be rebuilt");
    return text;
  });
};

/** Finds documents among events of one zone. */
export const documentsAmong = (
  events: readonly Pick<AuditEvent, "event_type" | "metadata_json">[],
): ((name: string) => string | undefined) => {
  const texts = events.flatMap((one) => (one.event_type === "document" ? [one.metadata_json ?? ""] : []));
  const by_name = new Map(texts.map((text) => [documentOf(text).name, text]));
  return (name) => by_name.get(name);
};

/** The same, parsed. */
export const rebuiltInputs = (...given: Parameters<typeof rebuiltTexts>): readonly PolicyInput[] =>
  rebuiltTexts(...given).map((text) => JSON.parse(text) as PolicyInput);
