import { uuidv7 } from "../kernel/ids.ts";

const REQUEST_ID = /^[A-Za-z0-9.:-]{1,128}$/;

/** A caller's `X-Request-Id` where it is 1 to 128 of `[A-Za-z0-9.:-]` (it goes into logs and the ledger), else a UUIDv7. */
export const requestIdOf = (header: string | readonly string[] | undefined): string =>
  typeof header === "string" && REQUEST_ID.test(header) ? header : uuidv7();
