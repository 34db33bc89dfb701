import { isUtf8 } from "node:buffer";
import { MAX_EXCHANGE_BYTES, MAX_EXCHANGES } from "../contracts/sts.ts";
import type { Issue } from "../kernel/problem.ts";
import type { GatewayExchange } from "../ports/sts.ts";

/** The most characters that a member may have; `scope` alone may be left out or empty. `ExchangeSchema`, by hand. */
const MEMBERS: Readonly<Record<keyof GatewayExchange, number>> = {
  zone_id: 128,
  subject_token: MAX_EXCHANGE_BYTES,
  resource: MAX_EXCHANGE_BYTES,
  scope: MAX_EXCHANGE_BYTES,
  method: 64,
  path: MAX_EXCHANGE_BYTES,
  request_id: 128,
  traceparent: 128,
};
const NAMES = Object.keys(MEMBERS) as readonly (keyof GatewayExchange)[];

const isMember = (name: string): name is keyof GatewayExchange => Object.hasOwn(MEMBERS, name);
const isObject = (value: unknown): value is Readonly<Record<string, unknown>> =>
  typeof value === "object" && value !== null && !Array.isArray(value);
const printable = (name: string): string => (/^[\x21-\x7e]{1,64}$/.test(name) ? name : "a member");

const faultOf = (name: keyof GatewayExchange, value: unknown): string | undefined => {
  if (value === undefined) return name === "scope" ? undefined : "is missing";
  if (typeof value !== "string") return "must be a string";
  if (value === "" && name !== "scope") return "must not be empty";
  return value.length > MEMBERS[name] ? `is longer than ${MEMBERS[name]} characters` : undefined;
};

const issueIn = (exchange: unknown, path: string): Issue | undefined => {
  if (!isObject(exchange)) return { path, message: "must be an object" };
  for (const name of NAMES) {
    const message = faultOf(name, Object.hasOwn(exchange, name) ? exchange[name] : undefined);
    if (message !== undefined) return { path: `${path}.${name}`, message };
  }
  // Last, since a name that is not ours says the least about what is wrong.
  for (const name of Object.keys(exchange)) {
    if (!isMember(name)) return { path: `${path}.${printable(name)}`, message: "is no member of an exchange" };
  }
  return undefined;
};

/** The body of a batch → its exchanges, or the one thing that is wrong with it: it is taken whole or not at all. */
export const readExchangeBatch = (body: Buffer): readonly GatewayExchange[] | Issue => {
  if (!isUtf8(body)) return { path: "", message: "is not UTF-8" };
  let batch: unknown;
  try {
    batch = JSON.parse(body.toString("utf8"));
  } catch {
    return { path: "", message: "is not well-formed JSON" };
  }
  if (!isObject(batch)) return { path: "", message: "must be an object" };
  const exchanges = Object.hasOwn(batch, "exchanges") ? batch["exchanges"] : undefined;
  if (!Array.isArray(exchanges)) return { path: "exchanges", message: "must be a list" };
  if (exchanges.length < 1 || exchanges.length > MAX_EXCHANGES)
    return { path: "exchanges", message: `must have 1 to ${MAX_EXCHANGES} members` };
  for (const name of Object.keys(batch)) {
    if (name !== "exchanges") return { path: printable(name), message: "is no member of a batch" };
  }
  for (const [i, exchange] of exchanges.entries()) {
    const issue = issueIn(exchange, `exchanges.${i}`);
    if (issue !== undefined) return issue;
  }
  return exchanges as readonly GatewayExchange[];
};
