import type { Quickstart } from "../support/program.ts";
import type { Vocabulary } from "./bad-input-random.ts";

/** What the sweep holds: credentials that are right, so that bad input comes further than to the door. */
export type Credentials = {
  readonly quickstart: Quickstart;
  /** Of the demo's application. */
  readonly ambient_token: string;
  /** A zone of the sweep's own, in which random requests may change what they like. */
  readonly zone_id: string;
  readonly admin_token: string;
  readonly application_id: string;
  readonly client_secret: string;
  /** Of that application. */
  readonly zone_token: string;
};

/** A resource of the sweep's own zone. */
export const RESOURCE = "resource://sweep";

export const PORTS = ["gateway", "sts", "api", "coordinator", "audit"] as const;

export const FORM = "application/x-www-form-urlencoded";
const JSON_TYPE = "application/json";

const API_FIELDS =
  "name slug scopes traits kind upstream_url identifier source entries version_id limit cursor label zone_id access rate_limit_per_minute expires_in_s from to decision session_id";
const TOKEN_FIELDS =
  "scope resource ttl_seconds session_id subject_token subject_token_type requested_token_type actor_token call_path call_method audience challenge_id agent_session_id";
const THINGS =
  "applications resources policies policy-sets sessions audit admin-audit keys/rotate sessions/x/revoke policies/x/versions policy-sets/x/activate";

/** The words of each port: its paths and fields, and what is right there. */
export const vocabularies = (own: Credentials): Readonly<Record<(typeof PORTS)[number], Vocabulary>> => {
  const { quickstart: q } = own;
  const zone = `/v1/zones/${own.zone_id}`;
  const client = `zone_id=${own.zone_id}&client_id=${own.application_id}&client_secret=${own.client_secret}`;
  const bearer = `Authorization: Bearer ${own.ambient_token}`;
  const admin = `Authorization: Bearer ${own.admin_token}`;
  const empty = {
    usual: [admin],
    headers: { Authorization: [`Bearer ${own.ambient_token}`] },
    bodies: ["{}"],
    fields: ["a"],
  };
  return {
    gateway: {
      paths: ["/", "/mcp", `/r/${q.zone_id}/${q.application_id}/x`, "/r/a/b/c", "/health", "/ready", "/metrics"],
      usual: [bearer, `X-Caracal-Resource: ${q.resource}`, `Content-Type: ${JSON_TYPE}`],
      headers: {
        "X-Caracal-Resource": [q.resource, q.denied_resource, "resource://nobody"],
        "X-Caracal-Scope": ["tools:call", "root"],
        "X-Caracal-Client-ID": [q.application_id],
        "X-Caracal-Agent-Session": ["a"],
        X_Caracal_Resource: [q.denied_resource],
      },
      bodies: [
        '{"jsonrpc":"2.0","id":1,"method":"tools/list"}',
        '{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"whoami"}}',
      ],
      fields: ["jsonrpc", "id", "method", "params"],
    },
    sts: {
      paths: [
        ...Array.from({ length: 5 }, () => "/oauth/2/token"),
        "/.well-known/jwks.json",
        `/.well-known/jwks.json?zone_id=${own.zone_id}`,
        "/internal/v1/bindings",
        "/internal/v1/revocations",
        "/internal/v1/exchanges",
      ],
      usual: [`Content-Type: ${FORM}`],
      headers: {
        "X-Caracal-Gateway-Signature": ["a".repeat(64)],
        "X-Caracal-Gateway-Timestamp": ["1", "now"],
        "X-Caracal-Gateway-Nonce": ["a"],
      },
      bodies: [
        `grant_type=client_credentials&${client}`,
        `grant_type=client_credentials&zone_id=${own.zone_id}&client_id=nobody&client_secret=x`,
        `${client}&grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Atoken-exchange&subject_token=a.b.c`,
        `${client}&grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Atoken-exchange&subject_token=${own.zone_token}&subject_token_type=urn%3Aietf%3Aparams%3Aoauth%3Atoken-type%3Aaccess_token&resource=${encodeURIComponent(RESOURCE)}`,
      ],
      fields: TOKEN_FIELDS.split(" "),
    },
    api: {
      paths: [
        "/v1/zones",
        zone,
        "/v1/bootstrap",
        "/v1/admin-tokens",
        ...THINGS.split(" ").map((thing) => `${zone}/${thing}`),
        `${zone}/applications/${own.application_id}`,
        `${zone}/audit/by-request/x`,
      ],
      usual: [admin, `Content-Type: ${JSON_TYPE}`],
      headers: { Authorization: [`Bearer ${own.ambient_token}`], "Content-Type": [JSON_TYPE] },
      bodies: [
        '{"name":"a"}',
        '{"identifier":"resource://a","name":"a","upstream_url":"http://127.0.0.1:1/"}',
        '{"source":"package caracal.authz"}',
      ],
      fields: API_FIELDS.split(" "),
    },
    coordinator: { ...empty, paths: ["/", "/v1/zones/a/agents", "/health", "/ready"] },
    audit: { ...empty, paths: ["/", "/audit", "/health", "/metrics"] },
  };
};

/** A request that is good, and the places of it that can be spoilt one at a time. */
export type Spoilable = {
  readonly method: string;
  readonly path: string;
  readonly headers: Readonly<Record<string, string>>;
  /** Good values; left out of a request where they are undefined. */
  readonly fields: Readonly<Record<string, unknown>>;
  readonly encode: "json" | "form" | "query";
};

const fieldsOf = (names: string): Readonly<Record<string, unknown>> =>
  Object.fromEntries(names.split(" ").map((name) => [name, undefined]));

/** Requests of the STS and the API that work, with every field that they could have. */
export const spoilables = (own: Credentials): Readonly<Record<"sts" | "api", readonly Spoilable[]>> => {
  const zone = `/v1/zones/${own.zone_id}`;
  const client = { zone_id: own.zone_id, client_id: own.application_id, client_secret: own.client_secret };
  const admin = { Authorization: `Bearer ${own.admin_token}` };
  const post = (path: string, fields: Readonly<Record<string, unknown>>): Spoilable => {
    return { method: "POST", path, headers: { ...admin, "Content-Type": JSON_TYPE }, fields, encode: "json" };
  };
  const get = (path: string, fields: string): Spoilable => {
    return { method: "GET", path, headers: admin, fields: fieldsOf(fields), encode: "query" };
  };
  const form = (fields: Readonly<Record<string, unknown>>): Spoilable => {
    return { method: "POST", path: "/oauth/2/token", headers: { "Content-Type": FORM }, fields, encode: "form" };
  };
  const exchange = {
    ...client,
    grant_type: "urn:ietf:params:oauth:grant-type:token-exchange",
    subject_token: own.zone_token,
    subject_token_type: "urn:ietf:params:oauth:token-type:access_token",
    call_method: "GET",
    call_path: "/",
    resource: RESOURCE,
  };
  return {
    sts: [
      form({ ...fieldsOf(TOKEN_FIELDS), ...client, grant_type: "client_credentials" }),
      form({ ...fieldsOf(TOKEN_FIELDS), ...exchange }),
      { ...get("/.well-known/jwks.json", "zone_id"), headers: {}, fields: { zone_id: own.zone_id } },
    ],
    api: [
      post(`${zone}/applications`, {
        name: "a",
        kind: "confidential",
        scopes: ["a"],
        traits: ["a"],
        rate_limit_per_minute: 1,
      }),
      post(`${zone}/resources`, {
        identifier: "resource://spoilt",
        name: "a",
        upstream_url: "https://example.com/",
        scopes: ["a"],
        application_id: own.application_id,
      }),
      post(`${zone}/policies`, { name: "a" }),
      post(`${zone}/policy-sets`, { name: "a" }),
      post("/v1/admin-tokens", {
        label: "a",
        zone_id: own.zone_id,
        access: "read",
        expires_in_s: 60,
        token: undefined,
      }),
      get(`${zone}/audit`, "limit cursor decision client_id session_id event_type request_id from to"),
      get(`${zone}/admin-audit`, "limit cursor from to"),
      get(`${zone}/applications`, "limit cursor"),
      get(`${zone}/sessions`, "limit cursor subject client_id active"),
      get("/v1/admin-tokens", "limit cursor"),
    ],
  };
};
