import { setImmediate as nextTurn, setTimeout as pause } from "node:timers/promises";
import { type ChainEnd, type ChainPoint, type Finding, judgeEnd, walkChain } from "../domain/audit-chain.ts";
import type { Keyring } from "../domain/keyring.ts";
import type { Database } from "../ports/database.ts";
import { chainEnd, chainEnds, ledgerRows } from "./store.ts";

/** Rows read and hashed between two turns of the event loop: about two milliseconds. */
const ROWS_PER_BATCH = 128;
const ZONES_PER_PAGE = 256;
/** Findings of one zone in one walk. A zone with more is lost as it is; the walk of it ends there. */
const MAX_FINDINGS_PER_ZONE = 100;
/** Findings that are held for the caller; every one goes to `onFindings`. */
const MAX_FINDINGS_HELD = 1_000;
const LOWEST = -(2n ** 63n);

export type VerifyOptions = {
  /** Only this zone. */
  readonly zone_id?: string;
  /** The share of the time to work in, 0 to 1: beside other work, 0.25. 1 by default. */
  readonly share?: number;
  /** Ends the verification between two batches; it rejects then. */
  readonly signal?: AbortSignal;
  /** Places that an earlier call verified, by zone; this call compares with them and replaces them. */
  readonly seen?: Map<string, ChainPoint>;
  readonly onRows?: (count: number) => void;
  readonly onFindings?: (findings: readonly Finding[]) => Promise<void>;
};

/** `findings`: the first 1 000 of `findings_total`. */
export type Verification = {
  readonly zones: number;
  readonly rows: number;
  readonly findings: readonly Finding[];
  readonly findings_total: number;
};

/**
 * Every zone's head against its last row, without reading the chains: what was cut off since the heads were written.
 * A fraction of a second for thousands of zones.
 */
export const verifyHeads = async (db: Database, signal?: AbortSignal): Promise<readonly Finding[]> => {
  const findings: Finding[] = [];
  for await (const end of allEnds(db, signal)) {
    const fault = judgeEnd(end);
    if (fault !== undefined && findings.length < MAX_FINDINGS_HELD) findings.push(fault);
  }
  return findings;
};

/**
 * Every row of every zone: fields against their hash, hashes against their chain, numbers without a gap, the end against
 * the head. Reads only, beside ingestors that go on: rows of a zone are committed in their order, so whatever snapshot a
 * batch is read in is a beginning of the chain.
 */
export const verifyLedger = async (db: Database, ring: Keyring, options: VerifyOptions = {}): Promise<Verification> => {
  const held: Finding[] = [];
  let findings_total = 0;
  let row_count = 0;
  let zones = 0;

  const report = async (findings: readonly Finding[]): Promise<void> => {
    if (findings.length === 0) return;
    findings_total += findings.length;
    held.push(...findings.slice(0, MAX_FINDINGS_HELD - held.length));
    await options.onFindings?.(findings);
  };

  const rest = async (began_ms: number): Promise<void> => {
    options.signal?.throwIfAborted();
    const share = options.share ?? 1;
    if (share >= 1) await nextTurn();
    else await pause(((performance.now() - began_ms) * (1 - share)) / share, undefined, { signal: options.signal });
  };

  const verifyZone = async (end: ChainEnd): Promise<void> => {
    const seen = options.seen?.get(end.zone_id);
    const at_end = judgeEnd(end, seen);
    await report(at_end === undefined ? [] : [at_end]);
    const walk = walkChain(ring, end.zone_id, seen);
    const to = Math.min(Math.max(end.head?.chain_seq ?? 0, end.last?.chain_seq ?? 0), Number.MAX_SAFE_INTEGER);
    let from = LOWEST;
    let found = at_end === undefined ? 0 : 1;
    for (;;) {
      const began_ms = performance.now();
      const rows = await ledgerRows(db.sql, end.zone_id, from, to, ROWS_PER_BATCH);
      const findings = rows.flatMap((row) => walk.judge(row));
      row_count += rows.length;
      found += findings.length;
      options.onRows?.(rows.length);
      await report(findings);
      const last = rows.at(-1);
      if (last === undefined || rows.length < ROWS_PER_BATCH) break;
      if (found > MAX_FINDINGS_PER_ZONE) break;
      from = BigInt(last.chain_seq) + 1n;
      await rest(began_ms);
    }
    await report(walk.end());
    if (end.last !== undefined && at_end === undefined) options.seen?.set(end.zone_id, end.last);
  };

  const ends = options.zone_id === undefined ? allEnds(db, options.signal) : [await chainEnd(db.sql, options.zone_id)];
  const met = new Set<string>();
  for await (const end of ends) {
    if (end.head === undefined && end.last === undefined) continue;
    met.add(end.zone_id);
    zones += 1;
    await verifyZone(end);
  }
  // A zone that was here before and has neither head nor rows now was taken out whole.
  for (const [zone_id, seen] of options.seen ?? []) {
    if (met.has(zone_id) || (options.zone_id !== undefined && options.zone_id !== zone_id)) continue;
    const gone = judgeEnd({ zone_id, head: undefined, last: undefined }, seen);
    if (gone !== undefined) await report([gone]);
  }
  return { zones, rows: row_count, findings: held, findings_total };
};

async function* allEnds(db: Database, signal: AbortSignal | undefined): AsyncGenerator<ChainEnd> {
  let after: string | undefined;
  for (;;) {
    signal?.throwIfAborted();
    const page = await chainEnds(db.sql, after, ZONES_PER_PAGE);
    yield* page;
    if (page.length < ZONES_PER_PAGE) return;
    after = page.at(-1)?.zone_id;
  }
}
