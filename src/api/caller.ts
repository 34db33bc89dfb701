import { uuidv7 } from "../kernel/ids.ts";

/** A request that makes something, as its `Idempotency-Key` names it. */
export type Once = {
  readonly key: string;
  /** HMACs of what is asked, the current key's first: one that was kept under a previous ZONE_KEK is still known. */
  readonly fingerprints: readonly [string, ...string[]];
  /** Fields of the answer that are not kept. */
  readonly shown_once: readonly string[];
};

/** Who asks for something, as far as an operation needs to know. */
export type Caller = {
  /** `admin_token:{id}`, `bootstrap`, `cli`, … as it stands in the admin audit. */
  readonly actor: string;
  /** The admin token that was shown; undefined where none stands for the caller. Each change asks again whether it is valid. */
  readonly admin_token_id?: string;
  /** The zone that bounds the caller; null: none does. */
  readonly zone_id: string | null;
  readonly access: "full" | "read";
  readonly request_id: string;
  /** The request's `Idempotency-Key`, where it has one and makes something. */
  readonly once?: Once | undefined;
};

/** How an admin token stands in the admin audit, and as the maker of other tokens. */
export const actorOfToken = (id: string): string => `admin_token:${id}`;

/** The same caller, for what must follow from a change that is committed and that ended its own token. */
export const afterOwnToken = ({ admin_token_id: _ended, ...caller }: Caller): Caller => caller;

/** A caller within the process that no token stands for: who holds the process or the database already. */
export const systemCaller = (actor: string, request_id: string = uuidv7()): Caller => ({
  actor,
  zone_id: null,
  access: "full",
  request_id,
});
