import { readFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as pause } from "node:timers/promises";
import { createPglite } from "../../src/adapters/pglite/index.ts";
import { verifyLedger } from "../../src/audit/index.ts";
import type { LedgerEvent } from "../../src/contracts/api-ledger.ts";
import type { Quickstart } from "../../src/demo/quickstart.ts";
import { type Finding, type LedgerRow, walkChain } from "../../src/domain/audit-chain.ts";
import { AT, valuesOf } from "../../src/domain/audit-event.ts";
import { type Keyring, keyring } from "../../src/domain/keyring.ts";
import { DATABASE_FOLDER } from "../../src/embedded/data-dir.ts";
import { askApi, parsed } from "./agent.ts";
import type { Instance } from "./instance.ts";
import { NotAsTold, type Stage, told } from "./stage.ts";

const PAGE = 200;
/** A zone with more rows is for `caracal audit verify`. */
const MAX_ROWS = 20_000;
/** Events wait 50 ms for company, and 50 ms in the ingestor. */
const LEDGER_WITHIN_MS = 10_000;
const POLL_MS = 50;
const KEY_FILE = "audit-hmac-key";

/** The newest rows first; undefined where there are more than `MAX_ROWS`. */
const rowsOf = async (q: Quickstart, filter: Readonly<Record<string, string>>): Promise<LedgerEvent[] | undefined> => {
  const rows: LedgerEvent[] = [];
  let cursor: string | undefined;
  do {
    const query = new URLSearchParams({ ...filter, limit: String(PAGE), ...(cursor === undefined ? {} : { cursor }) });
    const page = await askApi(q, "GET", `/audit?${query.toString()}`);
    rows.push(...(page["items"] as LedgerEvent[]));
    cursor = typeof page["next_cursor"] === "string" ? page["next_cursor"] : undefined;
    if (rows.length > MAX_ROWS) return undefined;
  } while (cursor !== undefined);
  return rows;
};

/** What the ledger must have of a row: `reason` stands in its metadata. */
export type Wanted = {
  readonly what: string;
  readonly event_type: string;
  readonly decision: string;
  readonly says?: Readonly<Record<string, unknown>>;
};

const fits = (row: LedgerEvent, wanted: Wanted): boolean => {
  const metadata = parsed(row.metadata_json ?? "{}");
  return (
    row.event_type === wanted.event_type &&
    row.decision === wanted.decision &&
    Object.entries(wanted.says ?? {}).every(([name, value]) => metadata[name] === value)
  );
};

/** Waits until the ledger has all that is wanted of a session, shows each, and gives back the session's rows in their order. */
export const sessionRows = async (
  stage: Stage,
  q: Quickstart,
  session_id: string,
  wanted: readonly Wanted[],
): Promise<readonly LedgerEvent[]> => {
  const until_ms = performance.now() + LEDGER_WITHIN_MS;
  for (;;) {
    const rows = ((await rowsOf(q, { session_id })) ?? []).toReversed();
    const missing = wanted.filter((one) => !rows.some((row) => fits(row, one)));
    if (missing.length === 0) {
      for (const one of wanted) {
        const row = rows.find((found) => fits(found, one));
        stage.says(
          `row ${String(row?.chain_seq).padStart(3)}  ${one.decision.padEnd(5)}  ${one.event_type.padEnd(15)}  ${one.what}`,
        );
      }
      return rows;
    }
    if (performance.now() > until_ms) {
      throw new NotAsTold(
        ...missing.map((one) => `the ledger has no row of: ${one.what} (${one.event_type}, ${one.decision})`),
      );
    }
    await pause(POLL_MS);
  }
};

/** The key that the ledger is chained under; undefined where the folder does not hold it. */
const auditRing = (data_dir: string): Keyring | undefined => {
  try {
    const hex = readFileSync(join(data_dir, KEY_FILE), "utf8").trim();
    return /^(?:[0-9a-f]{2}){32,}$/i.test(hex) ? keyring(Buffer.from(hex, "hex")) : undefined;
  } catch {
    return undefined;
  }
};

const showFindings = (stage: Stage, findings: readonly Finding[]): void => {
  for (const finding of findings) stage.says(`${finding.kind}: ${finding.detail}`);
};

const toldFound = (findings: readonly Finding[], chain_seq: number): string => {
  const found = findings.some((one) => one.kind === "hmac_mismatch" && one.chain_seq === chain_seq);
  told(found, `hmac_mismatch at row ${chain_seq}`, findings);
  return `one altered word is found: the chain names row ${chain_seq}`;
};

/** Of an instance of our own: it is ended, and what a thief of its database would do is done to the database itself. */
const tamperWithDatabase = async (stage: Stage, instance: Instance, row: LedgerEvent): Promise<string> => {
  await instance.stop?.();
  const ring = auditRing(instance.data_dir);
  told(ring !== undefined, `a key in ${KEY_FILE}`, "none");
  const server = await createPglite({ dir: join(instance.data_dir, DATABASE_FOLDER) });
  try {
    const db = server.database("demo");
    const before = await verifyLedger(db, ring);
    told(before.findings_total === 0 && before.rows >= row.chain_seq, "a ledger without a finding", before);
    stage.says(`the instance is stopped; all ${before.rows} rows verified: no finding`);
    stage.says(`UPDATE audit_events SET decision = 'allow' … row ${row.chain_seq}, past every privilege`);
    await db.sql`
      update audit_events set decision = 'allow' where zone_id = ${row.zone_id} and chain_seq = ${row.chain_seq}::bigint`;
    const { findings } = await verifyLedger(db, ring);
    showFindings(stage, findings);
    return toldFound(findings, row.chain_seq);
  } finally {
    await server.close();
  }
};

const allowed = (row: LedgerRow): LedgerRow => ({
  ...row,
  values: row.values.map((value, at) => (at === AT.decision ? "allow" : value)),
});

const verifyCopy = (ring: Keyring, zone_id: string, rows: readonly LedgerRow[]): readonly Finding[] => {
  const walk = walkChain(ring, zone_id);
  return [...rows.flatMap((row) => walk.judge(row)), ...walk.end()];
};

/** Of a running instance: its ledger stays as it is; the same is shown on a copy. undefined where that can't be. */
const tamperWithCopy = async (
  stage: Stage,
  { quickstart: q, data_dir }: Instance,
  row: LedgerEvent,
): Promise<string> => {
  const ring = auditRing(data_dir);
  if (ring === undefined) {
    stage.skips(`left out: the ledger's key is not in ${data_dir}, so its chain can't be computed here`);
    return "the rest of the story went as told";
  }
  const rows = await rowsOf(q, {});
  if (rows === undefined) {
    stage.skips(`left out: the zone has more than ${MAX_ROWS} rows; caracal audit verify reads them all`);
    return "the rest of the story went as told";
  }
  const copy: readonly LedgerRow[] = rows
    .toSorted((a, b) => a.chain_seq - b.chain_seq)
    .map((kept) => ({ ...kept, values: valuesOf(kept), chain_seq: String(kept.chain_seq) }));
  const before = verifyCopy(ring, q.zone_id, copy);
  told(before.length === 0, "a chain without a finding", before);
  stage.says(`a copy of the zone's ${copy.length} rows was verified: no finding`);
  stage.says(`in the copy, row ${row.chain_seq} now says allow; the running ledger is left as it is`);
  const altered = copy.map((one) => (one.chain_seq === String(row.chain_seq) ? allowed(one) : one));
  const findings = verifyCopy(ring, q.zone_id, altered);
  showFindings(stage, findings);
  return toldFound(findings, row.chain_seq);
};

/** Verifies the ledger, turns the deny of `row` into an allow, and verifies again. Returns what that proved. */
export const tamper = (stage: Stage, instance: Instance, row: LedgerEvent): Promise<string> =>
  instance.stop === undefined ? tamperWithCopy(stage, instance, row) : tamperWithDatabase(stage, instance, row);
