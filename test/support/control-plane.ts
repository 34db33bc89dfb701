import type { Bootstrapped } from "../../src/contracts/api-admin.ts";
import type { CreatedApplication } from "../../src/contracts/api-applications.ts";
import type { LedgerEvent } from "../../src/contracts/api-ledger.ts";
import type { Activation, Named, PolicySetVersion, PolicyVersion } from "../../src/contracts/api-policies.ts";
import type { Resource } from "../../src/contracts/api-resources.ts";
import type { Revoked, Session } from "../../src/contracts/api-sessions.ts";

/** The control plane over HTTP, as an operator's script would call it. */

export type ApiAnswer = { readonly status: number; readonly headers: Headers; readonly body: unknown };

type Page<T> = { readonly items: readonly T[]; readonly next_cursor?: string };

const TIMEOUT_MS = 20_000;
const PAGE = 200;
/** A ledger that goes on for longer than this in a test is a cursor that leads nowhere. */
const MAX_PAGES = 500;

/** One request to the API; `body` goes as JSON. */
export const callApi = async (
  api_url: string,
  token: string | undefined,
  method: string,
  path: string,
  body?: object,
): Promise<ApiAnswer> => {
  const answer = await fetch(`${api_url}${path}`, {
    method,
    headers: {
      ...(token === undefined ? {} : { authorization: `Bearer ${token}` }),
      ...(body === undefined ? {} : { "content-type": "application/json" }),
    },
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    signal: AbortSignal.timeout(TIMEOUT_MS),
  });
  const text = await answer.text();
  return { status: answer.status, headers: answer.headers, body: text === "" ? undefined : JSON.parse(text) };
};

export type LedgerFilter = {
  readonly decision?: string;
  readonly client_id?: string;
  readonly session_id?: string;
  readonly event_type?: string;
};

/** The verbs of one zone, with a token for it. Each rejects where the answer is another than it should be. */
export type ControlPlane = {
  readonly zone_id: string;
  createApplication(fields: {
    name: string;
    scopes?: readonly string[];
    traits?: readonly string[];
  }): Promise<CreatedApplication>;
  createResource(fields: {
    identifier: string;
    name: string;
    upstream_url: string;
    scopes?: readonly string[];
  }): Promise<Resource>;
  /** A policy with one version. */
  createPolicy(name: string, source: string): Promise<PolicyVersion>;
  /** A set with one version of these members, made the active one. */
  activate(name: string, policy_version_ids: readonly string[]): Promise<Activation>;
  listSessions(): Promise<readonly Session[]>;
  revokeSession(id: string): Promise<Revoked>;
  /** Every row that fits, in the order of the chain. */
  ledger(filter?: LedgerFilter): Promise<readonly LedgerEvent[]>;
  ledgerOf(request_id: string): Promise<readonly LedgerEvent[]>;
};

/** `api_url` is asked at each call: addresses change when the program is started again. */
export const createControlPlane = (api_url: () => string, zone_id: string, token: string): ControlPlane => {
  const zone = `/v1/zones/${zone_id}`;

  const call = async <T>(expected: number, method: string, path: string, body?: object): Promise<T> => {
    const answer = await callApi(api_url(), token, method, path, body);
    if (answer.status !== expected) {
      throw new Error(
        `${method} ${path} answered ${answer.status} instead of ${expected}: ${JSON.stringify(answer.body)}`,
      );
    }
    return answer.body as T;
  };

  const all = async <T>(path: string, filter: Readonly<Record<string, string>> = {}): Promise<readonly T[]> => {
    const items: T[] = [];
    let cursor: string | undefined;
    for (let page = 0; page < MAX_PAGES; page += 1) {
      const query = new URLSearchParams({
        ...filter,
        limit: String(PAGE),
        ...(cursor === undefined ? {} : { cursor }),
      });
      const answer = await call<Page<T>>(200, "GET", `${path}?${query.toString()}`);
      items.push(...answer.items);
      cursor = answer.next_cursor;
      if (cursor === undefined) return items;
    }
    throw new Error(`${path} has more than ${MAX_PAGES} pages`);
  };

  return {
    zone_id,
    createApplication: (fields) => call(201, "POST", `${zone}/applications`, fields),
    createResource: (fields) => call(201, "POST", `${zone}/resources`, fields),
    async createPolicy(name, source) {
      const policy = await call<Named>(201, "POST", `${zone}/policies`, { name });
      return call(201, "POST", `${zone}/policies/${policy.id}/versions`, { source });
    },
    async activate(name, policy_version_ids) {
      const set = await call<Named>(201, "POST", `${zone}/policy-sets`, { name });
      const entries = policy_version_ids.map((policy_version_id) => ({ policy_version_id }));
      const version = await call<PolicySetVersion>(201, "POST", `${zone}/policy-sets/${set.id}/versions`, { entries });
      return call(202, "POST", `${zone}/policy-sets/${set.id}/activate`, { version_id: version.id });
    },
    listSessions: () => all(`${zone}/sessions`),
    revokeSession: (id) => call(200, "POST", `${zone}/sessions/${id}/revoke`),
    async ledger(filter = {}) {
      const newest_first = await all<LedgerEvent>(`${zone}/audit`, filter);
      return newest_first.toReversed();
    },
    ledgerOf: (request_id) => all(`${zone}/audit/by-request/${request_id}`),
  };
};

/** `POST /v1/bootstrap`: the zone's id and its operational token. */
export const bootstrapZone = async (
  api_url: string,
  bootstrap_token: string,
  fields: { readonly slug: string; readonly name: string },
): Promise<{ readonly zone_id: string; readonly admin_token: string }> => {
  const answer = await callApi(api_url, bootstrap_token, "POST", "/v1/bootstrap", fields);
  if (answer.status !== 201) throw new Error(`bootstrap answered ${answer.status}: ${JSON.stringify(answer.body)}`);
  const { zone, admin_token } = answer.body as Bootstrapped;
  return { zone_id: zone.id, admin_token: admin_token.token ?? "" };
};
