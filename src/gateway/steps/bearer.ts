import { deny, load } from "../../kernel/pipeline.ts";
import type { Start } from "../facts.ts";

const BEARER = /^bearer +([^\s,]+)$/i;
const PLAIN = "Bearer ";
/** What `BEARER` takes for the end of a token, of all that a header's value can hold: looking for each is the cheaper way. */
const ENDS = [" ", ",", "\t", "\xa0"] as const;

/** The token where the header is written as nearly every client writes it. */
const plainToken = (value: string): string | undefined => {
  if (!value.startsWith(PLAIN) || value.length === PLAIN.length) return undefined;
  for (const end of ENDS) if (value.includes(end, PLAIN.length)) return undefined;
  return value.slice(PLAIN.length);
};

/** Exactly one `Authorization: Bearer` (RFC 6750, 2.1): with two, we might verify one and an upstream believe the other. */
export const bearer = load("bearer", ({ inbound }: Start) => {
  const [value, another] = inbound.authorizations;
  if (value === undefined) return deny("authorization_missing");
  if (another !== undefined) return deny("authorization_repeated");
  const token = plainToken(value) ?? BEARER.exec(value)?.[1];
  return token === undefined ? deny("authorization_not_bearer") : { token };
});
