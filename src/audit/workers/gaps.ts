import type { Log } from "../../kernel/log.ts";
import { type Worker, worker } from "../../kernel/service.ts";
import type { Database } from "../../ports/database.ts";
import type { Findings } from "../findings.ts";
import { gapOf, toRanges } from "../numbers.ts";
import { addFindings, inTransaction, takeStandingHoles } from "../store.ts";

const LOOK_EVERY_MS = 30_000;
/** How long a number may be missing: batches overtake each other, and a journal takes a while to follow. */
const STANDS_AFTER_S = 300;
const HOLES_PER_ROUND = 10_000;

export type GapsOptions = {
  readonly db: Database;
  readonly findings: Findings;
  readonly log: Log;
  /** Seconds by the database's clock; 300 by default. */
  readonly stands_after_s?: number;
};

/** Tells of numbers that never came, once, as ranges per producer. Replicas may do it side by side. */
export const createGaps = ({ db, findings, log, stands_after_s = STANDS_AFTER_S }: GapsOptions): Worker =>
  worker({
    name: "audit-gaps",
    every_ms: LOOK_EVERY_MS,
    async tick() {
      const found = await inTransaction(db.sql, async (tx) => {
        const holes = await takeStandingHoles(tx, stands_after_s, HOLES_PER_ROUND);
        const by_producer = new Map<string, number[]>();
        for (const { producer, producer_seq } of holes) {
          const numbers = by_producer.get(producer);
          if (numbers === undefined) by_producer.set(producer, [producer_seq]);
          else numbers.push(producer_seq);
        }
        const gaps = [...by_producer].flatMap(([producer, numbers]) =>
          toRanges(numbers).map((range) => gapOf(producer, range.first, range.last)),
        );
        if (gaps.length > 0) await addFindings(tx, gaps);
        return gaps;
      });
      findings.tell(found);
    },
    onError: (error) => log.warn({ err: error }, "the producers' numbers could not be looked at; it is tried again"),
  });
