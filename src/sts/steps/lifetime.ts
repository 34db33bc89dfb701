import { AMBIENT_TTL_MAX_S, MANDATE_TTL_MAX_S } from "../../domain/token.ts";
import { deny, load } from "../../kernel/pipeline.ts";
import type { Facts } from "../facts.ts";

/** A mandate that a client keeps in hand until it makes its call. */
const MANDATE_TTL_S = 300;
/** A mandate for the Gateway's own hop: it is presented within the `UPSTREAM_TIMEOUT`, and clocks may differ. */
const HOP_TTL_S = 60;

/** Digits only: `1e3`, `0x10`, `1.5`, `+5` and `٣` are all a number to somebody, and another one to somebody else. */
const SECONDS = /^[1-9][0-9]{0,6}$/;

const read = (text: string | undefined, default_s: number, max_s: number): number | undefined => {
  if (text === undefined) return default_s;
  const ttl_s = SECONDS.test(text) ? Number(text) : undefined;
  return ttl_s === undefined || ttl_s > max_s ? undefined : ttl_s;
};

const lifetime = (defaultFor: (f: Pick<Facts, "request">) => number, max_s: number) =>
  load("lifetime", (f: Pick<Facts, "request">) => {
    const ttl_s = read(f.request.ttl_seconds, defaultFor(f), max_s);
    return ttl_s === undefined
      ? deny("ttl_seconds_invalid", undefined, {
          description: `ttl_seconds must be a whole number from 1 to ${max_s}.`,
        })
      : { ttl_s };
  });

export const ambientLifetime = lifetime(() => AMBIENT_TTL_MAX_S, AMBIENT_TTL_MAX_S);

export const mandateLifetime = lifetime(
  (f) => (f.request.caller.kind === "gateway" ? HOP_TTL_S : MANDATE_TTL_S),
  MANDATE_TTL_MAX_S,
);
