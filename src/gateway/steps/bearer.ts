import { deny, load } from "../../kernel/pipeline.ts";
import type { Start } from "../facts.ts";

const BEARER = /^bearer +([^\s,]+)$/i;

/** Exactly one `Authorization: Bearer` (RFC 6750, 2.1): with two, we might verify one and an upstream believe the other. */
export const bearer = load("bearer", ({ inbound }: Start) => {
  const [value, another] = inbound.authorizations;
  if (value === undefined) return deny("authorization_missing");
  if (another !== undefined) return deny("authorization_repeated");
  const token = BEARER.exec(value)?.[1];
  return token === undefined ? deny("authorization_not_bearer") : { token };
});
