import {
  CALL_FIELDS,
  GRANT_CLIENT_CREDENTIALS,
  GRANT_TOKEN_EXCHANGE,
  TOKEN_TYPE_ACCESS_TOKEN,
} from "../../contracts/sts.ts";
import type { GatewayExchange } from "../../contracts/exchange.ts";
import { plainPath } from "../../domain/call.ts";
import { JWT_BEARER } from "../../domain/client-assertion.ts";
import { decodeJws, type Jws } from "../../domain/jws.ts";
import { decodeFormText, type Form } from "./form.ts";
import type { CallNonce } from "./gateway-calls.ts";

/** By what a client proves who it is. */
export type Proof =
  | { readonly by: "secret"; readonly secret: string }
  /** Whose it is, its signature and its claims are still to be asked. */
  | { readonly by: "assertion"; readonly assertion: Jws };

/** Who asks: a client with its proof, or the Gateway, which has proved itself already. */
export type Caller =
  | {
      readonly kind: "client";
      readonly client_id: string;
      readonly proof: Proof;
      /** Where it calls from; IPv6 by its /64. */
      readonly address: string;
    }
  | {
      readonly kind: "gateway";
      /** Absent within one process, where there is nothing that could be played again. */
      readonly nonce: CallNonce | undefined;
    };

/** A token request whose form was read; whether it may be granted is the pipeline's to say. */
export type TokenRequest = {
  readonly zone_id: string;
  readonly caller: Caller;
  readonly resources: readonly string[];
  readonly scope: string | undefined;
  readonly subject_token: string | undefined;
  readonly subject_token_type: string | undefined;
  readonly actor_token: string | undefined;
  readonly actor_token_type: string | undefined;
  readonly requested_token_type: string | undefined;
  readonly session_id: string | undefined;
  /** Who runs, and by whose authority it asks. A subject token that carries them has the word. */
  readonly agent_session_id: string | undefined;
  readonly delegation_edge_id: string | undefined;
  readonly ttl_seconds: string | undefined;
  readonly grant_type: string;
  /** The call that the mandate is for: as the Gateway saw it, or as the client names it. The path in its plain spelling. */
  readonly method: string | undefined;
  readonly path: string | undefined;
  /** The challenge that is answered, and its secret. */
  readonly challenge_id: string | undefined;
  readonly challenge_response: string | undefined;
  /** Fields of ours that this server does not serve: refused by name, since leaving one out would change the answer. */
  readonly unsupported: readonly string[];
};

/** What the Gateway asks for one call, as the request that it is. An empty scope counts as none (RFC 6749, 3.2). */
export const requestOfGateway = (exchange: GatewayExchange, nonce: CallNonce | undefined): TokenRequest => ({
  zone_id: exchange.zone_id,
  caller: { kind: "gateway", nonce },
  grant_type: GRANT_TOKEN_EXCHANGE,
  resources: [exchange.resource],
  scope: exchange.scope === "" ? undefined : exchange.scope,
  subject_token: exchange.subject_token,
  subject_token_type: TOKEN_TYPE_ACCESS_TOKEN,
  actor_token: undefined,
  actor_token_type: undefined,
  requested_token_type: undefined,
  session_id: undefined,
  agent_session_id: exchange.agent_session_id,
  delegation_edge_id: exchange.delegation_edge_id,
  ttl_seconds: undefined,
  method: exchange.method,
  path: exchange.path,
  challenge_id: exchange.challenge_id,
  challenge_response: exchange.challenge_response,
  unsupported: [],
});

/** A request that no pipeline can take. `error` is RFC 6749's code, `reason` ours. */
export type RequestFault = {
  readonly status: 400 | 401 | 408 | 413;
  readonly error: "invalid_request" | "invalid_client" | "unsupported_grant_type";
  readonly reason: string;
  readonly description: string;
};

export const fault = (reason: string, description: string): RequestFault => ({
  status: 400,
  error: "invalid_request",
  reason,
  description,
});

const unauthenticated = (reason: string, description: string): RequestFault => ({
  status: 401,
  error: "invalid_client",
  reason,
  description,
});

const UNSUPPORTED = ["audience"] as const;

/** Ids are keys of what is remembered about callers that nobody knows yet. */
const MAX_ID = 128;

const BASIC = /^basic +([A-Za-z0-9+/]+={0,2}) *$/i;

type Credentials = { readonly client_id: string; readonly proof: Proof };

/** RFC 6749, 2.3.1: id and secret are form-encoded before they are joined and encoded. */
const readBasic = (authorization: string): Credentials | undefined => {
  const encoded = BASIC.exec(authorization)?.[1];
  if (encoded === undefined) return undefined;
  const joined = Buffer.from(encoded, "base64").toString("utf8");
  const colon = joined.indexOf(":");
  if (colon < 0) return undefined;
  const client_id = decodeFormText(joined.slice(0, colon));
  const secret = decodeFormText(joined.slice(colon + 1));
  return client_id === undefined || secret === undefined || client_id === ""
    ? undefined
    : { client_id, proof: { by: "secret", secret } };
};

const isFault = (value: object): value is RequestFault => "status" in value;

/** The form's own name of the client: `application_id`, or `client_id`, which is the same. */
const namedClient = (form: Form): string | RequestFault | undefined => {
  const application_id = form.one("application_id");
  const client_id = form.one("client_id");
  if (application_id !== undefined && client_id !== undefined && application_id !== client_id) {
    return fault("client_ambiguous", "application_id and client_id are one field under two names; send one.");
  }
  return application_id ?? client_id;
};

const NOBODY = unauthenticated("client_unauthenticated", "Client authentication failed.");

/**
 * RFC 7521, 4.2. A client's own assertion names it; a workload's has its own words for who it is, and the form says which
 * application that would be.
 */
const readAssertion = (form: Form, text: string, named: string | undefined): Credentials | RequestFault => {
  if (form.one("client_assertion_type") !== JWT_BEARER)
    return fault("client_assertion_type", `client_assertion_type must be ${JWT_BEARER}.`);
  const assertion = decodeJws(text);
  if (assertion === undefined) return NOBODY;
  const { iss, sub } = assertion.claims;
  const own = iss === sub && typeof sub === "string" ? sub : undefined;
  if (own !== undefined && named !== undefined && own !== named) {
    return fault("client_ambiguous", "The client of the assertion is not the one of application_id or client_id.");
  }
  const client_id = named ?? own;
  return client_id === undefined ? NOBODY : { client_id, proof: { by: "assertion", assertion } };
};

const readCredentials = (form: Form, authorization: readonly string[]): Credentials | RequestFault => {
  const named = namedClient(form);
  if (typeof named === "object") return named;
  const secret = form.one("client_secret");
  const [header, ...more] = authorization;
  if (more.length > 0) return fault("authorization_repeated", "There is more than one Authorization header.");
  const assertion = form.one("client_assertion");
  if ([header, secret, assertion].filter((one) => one !== undefined).length > 1) {
    return fault(
      "client_authenticates_twice",
      "Authenticate with one of client_secret, HTTP Basic and client_assertion.",
    );
  }
  if (assertion !== undefined) return readAssertion(form, assertion, named);
  if (form.one("client_assertion_type") !== undefined)
    return fault("client_assertion_missing", "client_assertion_type is sent with a client_assertion only.");
  if (header === undefined) {
    return named === undefined || secret === undefined ? NOBODY : { client_id: named, proof: { by: "secret", secret } };
  }
  const basic = readBasic(header);
  if (basic === undefined) return NOBODY;
  if (named !== undefined && named !== basic.client_id) {
    return fault(
      "client_ambiguous",
      "The client of the Authorization header is not the one of application_id or client_id.",
    );
  }
  return basic;
};

/** Where a form came from. */
export type From = {
  /** Every Authorization header. */
  readonly authorization: readonly string[];
  readonly address: string;
  /** The caller, where the request's signature is the Gateway's. */
  readonly gateway: Caller | undefined;
  /** The zone that the path names. */
  readonly zone_id: string | undefined;
};

/** The zone, by the path or the form's `zone_id`. Two that differ are refused: two readers could take each another. */
export const readZone = (form: Form, in_path: string | undefined): string | RequestFault => {
  const in_form = form.one("zone_id");
  if (in_path !== undefined && in_form !== undefined && in_path !== in_form)
    return fault("zone_id_ambiguous", "zone_id is not the zone that the path names; leave it out.");
  const zone_id = in_path ?? in_form;
  if (zone_id === undefined)
    return fault("zone_id_missing", "zone_id is missing: name the zone that issues the token.");
  return zone_id.length > MAX_ID ? fault("zone_id_malformed", "zone_id is no zone's id: it is too long.") : zone_id;
};

/** Who asks, by all that the form and its headers say of it. */
export const readCaller = (form: Form, from: From): Caller | RequestFault => {
  if (from.gateway === undefined) {
    const credentials = readCredentials(form, from.authorization);
    if (isFault(credentials)) return credentials;
    if (credentials.client_id.length > MAX_ID)
      return fault("client_id_malformed", "The client's id is no application's id: it is too long.");
    return { kind: "client", ...credentials, address: from.address };
  }
  if (
    from.authorization.length > 0 ||
    form.one("client_secret") !== undefined ||
    form.one("client_assertion") !== undefined
  ) {
    return fault("client_authenticates_twice", "The Gateway authenticates by its signature alone.");
  }
  return from.gateway;
};

/** Whose request it is: all that authentication and the rate limit look at. */
export type Asker = Pick<TokenRequest, "zone_id" | "caller">;

/** Which pipeline a request belongs to. A client that asks without a subject token asks for an ambient token; the Gateway never does. */
export const kindOf = (request: TokenRequest): "issue" | "exchange" => {
  if (request.caller.kind === "gateway") return "exchange";
  return request.grant_type === GRANT_TOKEN_EXCHANGE && request.subject_token !== undefined ? "exchange" : "issue";
};

/** A form and where it came from → the request. */
export const readTokenRequest = (form: Form, from: From): TokenRequest | RequestFault => {
  const zone_id = readZone(form, from.zone_id);
  if (typeof zone_id === "object") return zone_id;
  const grant_type = form.one("grant_type");
  if (grant_type === undefined) {
    return fault(
      "grant_type_missing",
      `grant_type is missing: send ${GRANT_CLIENT_CREDENTIALS} or ${GRANT_TOKEN_EXCHANGE}.`,
    );
  }
  if (grant_type !== GRANT_CLIENT_CREDENTIALS && grant_type !== GRANT_TOKEN_EXCHANGE) {
    return {
      status: 400,
      error: "unsupported_grant_type",
      reason: "grant_type_unsupported",
      description: `grant_type must be ${GRANT_CLIENT_CREDENTIALS} or ${GRANT_TOKEN_EXCHANGE}.`,
    };
  }
  const caller = readCaller(form, from);
  if ("status" in caller) return caller;
  const path = form.one(CALL_FIELDS.path);
  return {
    zone_id,
    caller,
    grant_type,
    resources: form.all("resource"),
    scope: form.one("scope"),
    subject_token: form.one("subject_token"),
    subject_token_type: form.one("subject_token_type"),
    actor_token: form.one("actor_token"),
    actor_token_type: form.one("actor_token_type"),
    requested_token_type: form.one("requested_token_type"),
    session_id: form.one("session_id"),
    agent_session_id: form.one("agent_session_id"),
    delegation_edge_id: form.one("delegation_edge_id"),
    ttl_seconds: form.one("ttl_seconds"),
    method: form.one(CALL_FIELDS.method),
    path: path === undefined ? undefined : plainPath(path),
    challenge_id: form.one("challenge_id"),
    challenge_response: form.one("challenge_response"),
    unsupported: UNSUPPORTED.filter((name) => form.one(name) !== undefined),
  };
};
