import assert from "node:assert/strict";
import { createHash, createHmac } from "node:crypto";
import type { LedgerEvent } from "../../src/contracts/api-ledger.ts";

/**
 * The ledger's chain, computed once more from the contract's words alone, so that a fault in the program's own encoding
 * can't hide in a check that shares it.
 */

const FIELDS = [
  "form",
  "id",
  "zone_id",
  "event_type",
  "request_id",
  "decision",
  "client_id",
  "subject",
  "session_id",
  "agent_session_id",
  "delegation_edge_id",
  "resource_id",
  "producer",
  "producer_seq",
  "policy_set_id",
  "policy_set_version_id",
  "manifest_sha",
  "evaluation_status",
  "determining_policies_json",
  "diagnostics_json",
  "metadata_json",
  "occurred_at",
] as const satisfies readonly (keyof LedgerEvent)[];

const uint32 = (value: number): Buffer => {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
};

const field = (value: string | number | null): Buffer => {
  if (value === null) return uint32(0xffffffff);
  const bytes = Buffer.from(String(value), "utf8");
  return Buffer.concat([uint32(bytes.byteLength), bytes]);
};

const contentOf = (row: LedgerEvent): Buffer =>
  createHash("sha256")
    .update(Buffer.concat(FIELDS.map((name) => field(row[name]))))
    .digest();

/** Asserts that a zone's rows, from the first one on, are a chain without a gap under this key (hex). */
export const assertChain = (rows: readonly LedgerEvent[], audit_hmac_key: string): void => {
  const key = Buffer.from(audit_hmac_key, "hex");
  let previous: Buffer = Buffer.alloc(32);
  rows.forEach((row, at) => {
    assert.equal(row.chain_seq, at + 1, "chain_seq has a gap");
    const content = contentOf(row);
    assert.equal(row.content_sha256, content.toString("hex"), `content_sha256 of row ${row.chain_seq}`);
    const seq = Buffer.alloc(8);
    seq.writeBigUInt64BE(BigInt(row.chain_seq));
    const chained = createHmac("sha256", key)
      .update(Buffer.concat([field(row.zone_id), seq, content, previous]))
      .digest();
    assert.equal(row.chain_hmac, chained.toString("hex"), `chain_hmac of row ${row.chain_seq}`);
    previous = chained;
  });
};

/** The parsed `metadata_json` of a row. */
export const metadataOf = (row: LedgerEvent): Readonly<Record<string, unknown>> =>
  JSON.parse(row.metadata_json ?? "{}") as Record<string, unknown>;

/** The policy's words in a row. */
export const diagnosticsOf = (row: LedgerEvent): readonly unknown[] =>
  JSON.parse(row.diagnostics_json ?? "[]") as unknown[];
