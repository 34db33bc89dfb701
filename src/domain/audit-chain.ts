import { hash } from "node:crypto";
import { BYTES_PER_CHAR, createScratch, mostBytesOf, writeField, writePrefixed } from "../kernel/canonical.ts";
import type { AuditValues } from "./audit-event.ts";
import { hmacOf, type Keyring, keyNamed, type NamedKey } from "./keyring.ts";

const scratch = createScratch();

/**
 * SHA-256 in hex of an event's values: each with its length as uint32 big-endian, null as 0xFFFFFFFF, numbers in decimal.
 * The first of them is the version of the form.
 */
export const contentSha256 = (values: AuditValues): string => {
  const out = scratch(mostBytesOf(values));
  return hash("sha256", out.subarray(0, writePrefixed(out, 0, values)), "hex");
};

/** What the first event of a zone is chained to: 32 zero bytes, in hex. */
export const GENESIS = "0".repeat(64);

/**
 * An event's place: its number in the zone (from 1), its content's hash, and the `chain_hmac` of the event before it, both
 * in hex.
 */
export type Link = {
  readonly zone_id: string;
  readonly chain_seq: number;
  readonly content: string;
  readonly previous: string;
};

/**
 * HMAC-SHA256 over zone ‖ seq ‖ content ‖ previous, in hex. The zone comes with its length (uint32 big-endian, UTF-8),
 * seq is a uint64 big-endian, and the other two have 32 bytes each: no two links share their bytes.
 */
export const chainHmac = (key: NamedKey, link: Link): string => {
  const { zone_id, chain_seq, content, previous } = link;
  const most_bytes = 4 + BYTES_PER_CHAR * zone_id.length + 8 + content.length + previous.length;
  return hmacOf(key, most_bytes, (out, start) => {
    let at = writeField(out, start, zone_id);
    at = out.writeUInt32BE(Math.floor(chain_seq / 2 ** 32), at);
    at = out.writeUInt32BE(chain_seq % 2 ** 32, at);
    at += out.write(content, at, "hex");
    return at + out.write(previous, at, "hex");
  });
};

/** A row of the ledger as it is stored. `chain_seq` as text: whatever stands there is judged exactly. */
export type LedgerRow = {
  readonly values: AuditValues;
  readonly chain_seq: string;
  /** Hex. */
  readonly content_sha256: string;
  /** Hex. */
  readonly chain_hmac: string;
  readonly key_id: string;
};

/**
 * `chain_break`: rows are missing, foreign, or not where the head says; `hmac_mismatch`: a row is there and is not what was
 * written; `audit_gap`: events that a producer numbered never came.
 */
export type FindingKind = "chain_break" | "hmac_mismatch" | "audit_gap";

/** Where (`chain_seq`: the first row of it) and what, for a person. No field's content is told: it may be the attacker's. */
export type Finding = {
  readonly kind: FindingKind;
  readonly zone_id: string | null;
  readonly chain_seq: number | null;
  readonly detail: string;
};

/** A place in a chain: its number and its `chain_hmac` in hex. */
export type ChainPoint = { readonly chain_seq: number; readonly chain_hmac: string };

/** Walks a zone's rows in the order of `chain_seq`. `judge` returns what is certain by now; `end` what is left. */
export type ChainWalk = {
  judge(row: LedgerRow): readonly Finding[];
  end(): readonly Finding[];
};

export const HEX_32 = /^[0-9a-f]{64}$/;
const KEY_ID = /^[0-9a-f]{8}$/;

const rows = (first: number | bigint | string, last: number | bigint | string): string =>
  String(first) === String(last) ? `row ${first}` : `rows ${first} to ${last}`;

/**
 * A walk from the zone's first row. `seen`: a place that an earlier walk in this process verified; another row there now
 * was rewritten since, which the chain alone could not show where the key was stolen with the database.
 *
 * A finding covers a run of neighbouring rows with one fault, so that a zone whose key was lost is one line and not a
 * million. After a fault the walk goes on from the row as it stands: later rows are judged on their own.
 */
export const walkChain = (ring: Keyring, zone_id: string, seen?: ChainPoint): ChainWalk => {
  let expected = 1;
  // What the next row may be chained to: the `chain_hmac` that the last row has, and the one that it should have. Both,
  // because a row whose `chain_hmac` alone was altered is still what its successor was chained to. None: not known.
  let previous: readonly string[] = [GENESIS];
  let run: { readonly kind: FindingKind; readonly why: string; readonly first: number; last: number } | undefined;

  const closeRun = (): readonly Finding[] => {
    if (run === undefined) return [];
    const { kind, why, first, last } = run;
    run = undefined;
    return [{ kind, zone_id, chain_seq: first, detail: `${rows(first, last)}: ${why}` }];
  };

  const misplaced = (row: LedgerRow): Finding | undefined => {
    const found = BigInt(row.chain_seq);
    if (found === BigInt(expected)) return undefined;
    const at = { kind: "chain_break", zone_id, chain_seq: expected } as const;
    if (found < BigInt(expected) || found > BigInt(Number.MAX_SAFE_INTEGER)) {
      return { ...at, detail: `a row numbered ${found} is none of the chain's` };
    }
    const detail = `${rows(expected, found - 1n)} missing; nothing vouches for row ${found} but the rows behind it`;
    expected = Number(found);
    previous = [];
    return { ...at, detail };
  };

  /** Judges the row at `expected` and moves on. Returns what is wrong with it. */
  const faultOf = (row: LedgerRow): { readonly kind: FindingKind; readonly why: string } | undefined => {
    const content = contentSha256(row.values);
    const key = keyNamed(ring, row.key_id);
    const should = (before: string): string | undefined =>
      key === undefined ? undefined : chainHmac(key, { zone_id, chain_seq: expected, content, previous: before });
    const candidates = previous.map(should);
    const linked = candidates.length === 0 || candidates.includes(row.chain_hmac);
    const first = candidates[0];
    previous = [row.chain_hmac, ...(linked || first === undefined ? [] : [first])].filter((text) => HEX_32.test(text));

    if (row.content_sha256 !== content) {
      return { kind: "hmac_mismatch", why: "the fields are not those that were hashed" };
    }
    if (key === undefined) {
      const name = KEY_ID.test(row.key_id) ? `key ${row.key_id}` : "a key of no known form";
      return {
        kind: "hmac_mismatch",
        why: `chained under ${name}, which AUDIT_HMAC_KEY and its _PREVIOUS do not have`,
      };
    }
    if (!linked)
      return { kind: "hmac_mismatch", why: "the chain_hmac is not that of these fields behind the row before" };
    if (seen?.chain_seq === expected && seen.chain_hmac !== row.chain_hmac) {
      return { kind: "chain_break", why: "another row stood here when it was verified last" };
    }
    return undefined;
  };

  return {
    judge(row) {
      const gap = misplaced(row);
      if (gap !== undefined && BigInt(row.chain_seq) !== BigInt(expected)) return [...closeRun(), gap];
      const before = gap === undefined ? [] : [...closeRun(), gap];
      const at = expected;
      const fault = faultOf(row);
      expected += 1;
      if (fault === undefined) return [...before, ...closeRun()];
      if (run !== undefined && run.kind === fault.kind && run.why === fault.why) {
        run.last = at;
        return before;
      }
      const closed = closeRun();
      run = { ...fault, first: at, last: at };
      return [...before, ...closed];
    },
    end: closeRun,
  };
};

/** What a zone says of its end: the head, and the last row that there is; both read in one snapshot. */
export type ChainEnd = {
  readonly zone_id: string;
  readonly head: ChainPoint | undefined;
  readonly last: ChainPoint | undefined;
};

/** Whether head and last row agree. `seen`: how far the chain went when it was verified last. */
export const judgeEnd = ({ zone_id, head, last }: ChainEnd, seen?: ChainPoint): Finding | undefined => {
  const at_head = head ?? { chain_seq: 0, chain_hmac: GENESIS };
  const at_last = last ?? { chain_seq: 0, chain_hmac: GENESIS };
  // Where rows are missing, the place is the first of them: the same that a later walk over the gap names. Where there are
  // too many, it is the last, which stays where it is while the chain grows.
  const broken = (chain_seq: number, detail: string): Finding => ({ kind: "chain_break", zone_id, chain_seq, detail });
  if (at_head.chain_seq > at_last.chain_seq) {
    return broken(
      at_last.chain_seq + 1,
      `${rows(at_last.chain_seq + 1, at_head.chain_seq)} missing: the head says that the chain ends there`,
    );
  }
  if (at_head.chain_seq < at_last.chain_seq) {
    const what = head === undefined ? "the zone has no head" : `the head stands at ${at_head.chain_seq}`;
    const place = Math.min(at_last.chain_seq, Number.MAX_SAFE_INTEGER);
    return broken(place, `${what}, and rows go on to ${at_last.chain_seq}`);
  }
  if (at_head.chain_hmac !== at_last.chain_hmac) {
    return broken(at_head.chain_seq, `the head's chain_hmac is not that of row ${at_last.chain_seq}`);
  }
  if (seen !== undefined && at_last.chain_seq < seen.chain_seq) {
    return broken(
      at_last.chain_seq + 1,
      `the chain ended at ${seen.chain_seq} when it was verified last, and ends at ${at_last.chain_seq} now`,
    );
  }
  return undefined;
};
