import * as v from "valibot";
import { documentId, documentOf, monthOf } from "../domain/audit-document.ts";
import { type InputRecord, rebuiltInput } from "../domain/policy-input-record.ts";
import type { Sql } from "../ports/database.ts";
import { documentTexts, type JudgedEvent } from "./store/simulations.ts";

/** What policy saw at an event, and what was decided on it. */
export type RecordedInput = { readonly input: object; readonly decision: string };

const text = v.string();
const RecordSchema: v.GenericSchema<unknown, InputRecord> = v.object({
  sha256: text,
  documents: v.array(v.nullable(text)),
  use: v.exactOptional(v.picklist(["ambient", "per_call"])),
  method: v.exactOptional(text),
  path: v.exactOptional(text),
  session_id: v.exactOptional(v.nullable(text)),
  agent_session_id: v.exactOptional(v.nullable(text)),
  trace_id: v.exactOptional(text),
  challenge_resolved: v.exactOptional(v.literal(true)),
  scopes: v.array(text),
  now_ms: v.exactOptional(v.number()),
});
const EvaluationsSchema = v.object({
  evaluations: v.array(v.object({ decision: v.optional(text), input: v.unknown() })),
});

type Recorded = { readonly record: InputRecord; readonly decision: string };

/** None where the event kept none (too large) or can't be read. `decision` is left out where it is the event's. */
const recordsOf = ({ metadata_json, decision: decided }: JudgedEvent): readonly Recorded[] => {
  let metadata: unknown;
  try {
    metadata = JSON.parse(metadata_json ?? "null");
  } catch {
    return [];
  }
  if (!v.is(EvaluationsSchema, metadata)) return [];
  return metadata.evaluations.flatMap(({ input, decision = decided }) => {
    const record = v.safeParse(RecordSchema, input);
    return record.success ? [{ record: record.output, decision }] : [];
  });
};

/**
 * The inputs that policy saw at each of these events of a zone, to the byte, in the events' order. One is left out whose
 * documents are gone or don't make the text that was hashed.
 */
export const recordedInputs = async (
  sql: Sql,
  zone_id: string,
  events: readonly JudgedEvent[],
): Promise<readonly { readonly event: JudgedEvent; readonly inputs: readonly RecordedInput[] }[]> => {
  const judged = events.map((event) => ({ event, records: recordsOf(event) }));
  const ids = new Set<string>();
  for (const { event, records } of judged)
    for (const name of records.flatMap(({ record }) => record.documents))
      if (name !== null) ids.add(documentId(zone_id, monthOf(event.occurred_at), name));
  const documents = await documentTexts(sql, zone_id, [...ids]);
  const by_name = new Map(documents.map((document) => [documentOf(document).name, document]));
  return judged.map(({ event, records }) => ({
    event,
    inputs: records.flatMap(({ record, decision }) => {
      const input = rebuiltInput(event, record, (name) => by_name.get(name));
      return input === undefined ? [] : [{ input: JSON.parse(input) as object, decision }];
    }),
  }));
};
