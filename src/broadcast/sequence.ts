import type { Keyring } from "../domain/keyring.ts";
import { type Fields, verifyEntry } from "./envelope.ts";

/** A signed message in its place. `seq` is its number within the zone and the stream. */
export type Message = {
  readonly stream: string;
  readonly zone_id: string;
  readonly seq: number;
  readonly fields: Fields;
};

/**
 * What an entry means to a reader. `message`: new; `hole` where numbers before it are missing. `old`: known, or from
 * before the reader's beginning. `head`: `match` where nothing is missing, `behind` where something is, `ahead` where the
 * head is older than what the reader knows. `refused`: not ours.
 */
export type Verdict =
  | { readonly kind: "message"; readonly message: Message; readonly hole: boolean }
  | { readonly kind: "old" }
  /** `at_ms`: when the database was asked, by its clock; signed, as the place in the stream is not. */
  | { readonly kind: "head"; readonly relation: "match" | "behind" | "ahead"; readonly at_ms: number }
  | { readonly kind: "refused"; readonly reason: "bad_signature" | "malformed" };

/** One reader's account of one stream. Pure: no time, no I/O. */
export type Sequence = {
  /** Begins anew: with each zone's last number, or, undefined, with what the next head says. */
  restart(seqs: ReadonlyMap<string, number> | undefined): void;
  accept(fields: Fields): Verdict;
};

/** No transaction is open for longer. So a row that is older than a head by more was counted in that head. */
const LONGEST_TRANSACTION_MS = 60_000;
const WHOLE = /^(0|[1-9][0-9]{0,15})$/;

const whole = (text: string | undefined): number | undefined => {
  if (text === undefined || !WHOLE.test(text)) return undefined;
  const number = Number(text);
  return Number.isSafeInteger(number) ? number : undefined;
};

/** How the dispatcher writes a head: the sum of the numbers of `zones` zones, as the database had committed them. */
export const headFields = (head: {
  readonly total: number;
  readonly zones: number;
  readonly at_ms: number;
}): Fields => ({
  head: "1",
  total: String(head.total),
  zones: String(head.zones),
  at: String(head.at_ms),
});

/** How the dispatcher writes a message: the row's own fields, then these. `at`: when the row was made. */
export const messageFields = (
  fields: Fields,
  row: { readonly zone_id: string; readonly seq: number; readonly outbox_id: number; readonly at_ms: number },
): Fields => ({
  ...fields,
  zone_id: row.zone_id,
  seq: String(row.seq),
  outbox_id: String(row.outbox_id),
  at: String(row.at_ms),
});

/**
 * Why a match proves that nothing is missing: a zone's number here is never above the database's. A gap spoils the account
 * until it begins anew. So the sums are equal only where every zone's number is.
 */
export const createSequence = (ring: Keyring, stream: string): Sequence => {
  /** By zone, the last number that came. */
  let seqs = new Map<string, number>();
  /** The sum of all zones' numbers; undefined until a reader that began without numbers has its first head. */
  let total: number | undefined;
  /** Whether the account began with each zone's number. */
  let numbered = false;
  /** The time of that first head. */
  let began_at_ms = 0;
  /** No gap since the account began. */
  let intact = true;

  const acceptHead = (fields: Fields): Verdict => {
    const head_total = whole(fields["total"]);
    const zones = whole(fields["zones"]);
    const at_ms = whole(fields["at"]);
    if (head_total === undefined || zones === undefined || at_ms === undefined)
      return { kind: "refused", reason: "malformed" };
    if (total === undefined) {
      total = head_total;
      began_at_ms = at_ms;
      return { kind: "head", relation: "match", at_ms };
    }
    if (!intact || total < head_total) return { kind: "head", relation: "behind", at_ms };
    if (total > head_total) return { kind: "head", relation: "ahead", at_ms };
    return { kind: "head", relation: !numbered || seqs.size === zones ? "match" : "behind", at_ms };
  };

  return {
    restart(given) {
      numbered = given !== undefined;
      seqs = new Map([...(given ?? [])].filter(([, seq]) => seq > 0));
      total = given === undefined ? undefined : [...seqs.values()].reduce((sum, seq) => sum + seq, 0);
      intact = true;
    },
    accept(fields) {
      if (!verifyEntry(ring, stream, fields)) return { kind: "refused", reason: "bad_signature" };
      if (fields["head"] === "1") return acceptHead(fields);
      const zone_id = fields["zone_id"];
      const seq = whole(fields["seq"]);
      const at_ms = whole(fields["at"]);
      if (zone_id === undefined || seq === undefined || seq < 1 || at_ms === undefined)
        return { kind: "refused", reason: "malformed" };
      const message = { stream, zone_id, seq, fields };
      const known = seqs.get(zone_id) ?? (numbered ? 0 : undefined);
      if (known === undefined) {
        // The first of its zone to a reader that began without numbers.
        if (total !== undefined) {
          if (at_ms < began_at_ms - LONGEST_TRANSACTION_MS) return { kind: "old" }; // counted in the head: played again
          total += 1;
        }
        seqs.set(zone_id, seq);
        return { kind: "message", message, hole: false };
      }
      if (seq <= known) return { kind: "old" };
      const hole = seq > known + 1;
      if (hole) intact = false;
      if (total !== undefined) total += seq - known;
      seqs.set(zone_id, seq);
      return { kind: "message", message, hole };
    },
  };
};
