import type { Keyring } from "../domain/keyring.ts";
import { requestIdOf } from "../http/request-id.ts";
import { sendProblem } from "../http/problem.ts";
import type { Role } from "../http/role.ts";
import { deadLetterOf, STREAMS } from "../contracts/streams.ts";
import type { Clock } from "../kernel/clock.ts";
import type { Log } from "../kernel/log.ts";
import type { Metrics } from "../kernel/metrics.ts";
import { Problem } from "../kernel/problem.ts";
import { worker } from "../kernel/service.ts";
import type { Database } from "../ports/database.ts";
import type { Streams } from "../ports/streams.ts";
import { createFindings } from "./findings.ts";
import { createIngest } from "./ingest.ts";
import { createGaps } from "./workers/gaps.ts";
import { createIngestor } from "./workers/ingestor.ts";
import { createSweep } from "./workers/sweep.ts";

export { verifyLedger } from "./verify.ts";

const MEASURE_EVERY_MS = 2_000;

export type AuditDeps = {
  readonly db: Database;
  readonly streams: Streams;
  /** `STREAMS_HMAC_KEY`. */
  readonly stream_ring: Keyring;
  /** `AUDIT_HMAC_KEY`. */
  readonly audit_ring: Keyring;
  /** `AUDIT_MAX_DELIVERIES`. */
  readonly max_deliveries: number;
  /** This process among the group's consumers: the instance's id. */
  readonly consumer: string;
  readonly clock: Clock;
  readonly log: Log;
  readonly metrics: Metrics;
};

/** The ledger: takes events from the stream into the chains, and verifies the chains. Its port has no API of its own. */
export const createAudit = (deps: AuditDeps): Role => {
  const { db, clock, log, metrics } = deps;
  const chained = metrics.counter("audit_events_chained", "Events that were kept and chained");
  const duplicates = metrics.counter("audit_events_duplicate", "Events that came again and were known");
  const dead = metrics.counter("audit_dead_letters", "Entries and events that were put with the dead letters");
  const found = metrics.counterBy("audit_findings", "What is wrong with the ledger, by kind", "kind");
  const verified = metrics.counter("audit_rows_verified", "Rows that were verified");
  const backlog = metrics.gauge("audit_backlog", "Stream entries that are not chained yet");
  const lag = metrics.gauge("stream_lag_seconds", "How far the ledger is behind its producers");
  const dlq = metrics.gaugeBy("dlq_depth", "Entries among the dead letters", "stream");
  for (const kind of ["chain_break", "hmac_mismatch", "audit_gap"]) found.inc(kind, 0); // an alert needs the zero, too

  const findings = createFindings({ db, log, onFinding: (kind) => found.inc(kind) });
  const ingest = createIngest({
    db,
    ring: deps.audit_ring,
    onFindings: findings.tell,
    onFilled(holes) {
      const told = holes.filter((hole) => hole.reported);
      if (told.length === 0) return;
      const numbers = told.map((hole) => `${hole.producer} ${hole.producer_seq}`);
      log.warn({ count: told.length, numbers }, "events that were told of as missing have come");
    },
  });
  const ingestor = createIngestor({
    db,
    streams: deps.streams,
    ring: deps.stream_ring,
    ingest,
    consumer: deps.consumer,
    max_deliveries: deps.max_deliveries,
    clock,
    log,
    onIngested(result) {
      chained.inc(result.chained);
      duplicates.inc(result.duplicates);
    },
    onDead: () => dead.inc(),
  });
  const sweep = createSweep({
    db,
    ring: deps.audit_ring,
    findings,
    clock,
    log,
    onRows: (count) => verified.inc(count),
  });
  const measure = worker({
    name: "audit-gauges",
    every_ms: MEASURE_EVERY_MS,
    async tick() {
      const now = await ingestor.measure();
      backlog.set(now.backlog);
      lag.set(now.lag_s);
      dlq.set(deadLetterOf(STREAMS.audit), now.dlq_depth);
    },
    onError: (error) => log.warn({ err: error }, "the stream could not be measured"),
  });

  return {
    name: "audit",
    handle(request, response) {
      const problem = new Problem(
        404,
        "not_found",
        "The audit role has no such page; the ledger is read at the API, /v1/zones/{zone_id}/audit.",
      );
      sendProblem(response, problem, requestIdOf(request.headers["x-request-id"]));
    },
    services: [ingestor, sweep, createGaps({ db, findings, log }), measure],
    ready: [
      { name: "ledger", fault: ingestor.fault },
      { name: "ledger_heads", fault: sweep.fault },
    ],
    metrics,
  };
};
