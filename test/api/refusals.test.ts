import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, describe, it } from "node:test";
import type { ApiOperation } from "../../src/contracts/api.ts";
import { uuidv7 } from "../../src/kernel/ids.ts";
import { packageRoot } from "../../src/kernel/package-root.ts";
import { rawRequest } from "../support/raw-http.ts";
import { BOOTSTRAP_TOKEN, call, expectOk, makeZone, send, serveApi, type ServedApi } from "./serve.ts";

/** Every refusal of the control plane as the source has it, `STATUS code`: a new one needs a line below. */
const inTheSource = (): readonly string[] => {
  const below = (folder: string): readonly string[] =>
    readdirSync(join(packageRoot, folder), { recursive: true, encoding: "utf8" })
      .filter((file) => file.endsWith(".ts"))
      .map((file) => join(folder, file));
  const files = [...below("src/api"), ...below("src/http"), "src/kernel/problem.ts", "src/kernel/turns.ts"];
  const found = files.flatMap((file) => {
    const text = readFileSync(join(packageRoot, file), "utf8");
    const written = [...text.matchAll(/new Problem\(\s*(4\d\d),\s*"([a-z_]+)"/g)].map(
      ([, at, code]) => `${at} ${code}`,
    );
    const taken = [...text.matchAll(/taken\("([a-z_]+)"/g)].map(([, field]) => `409 ${field}_taken`);
    const registering = [...text.matchAll(/"(invalid_(?:client_metadata|redirect_uri))"/g)].map(
      ([, code]) => `400 ${code}`,
    );
    return [...written, ...taken, ...registering];
  });
  return [...new Set(found)].toSorted();
};

/** Those that no request to this server can provoke here, and why. */
const NOT_HERE: Readonly<Record<string, string>> = {
  "400 incomplete_request": "its reader is gone: a body breaks off with its connection",
  "408 request_aborted": "its reader is gone; the policies' tests see it in the metrics",
  "429 too_many_requests": "needs a row that is held meanwhile; the tests of shares have it",
  "408 request_timeout": "takes ten seconds; the server's tests have it on a clock of theirs",
};

type Said = { readonly status: number; readonly error: string };

describe("the refusals of the control plane", () => {
  let api: ServedApi;
  let zone_id: string;
  let token: string;
  before(async () => {
    api = await serveApi({ bootstrap_token: BOOTSTRAP_TOKEN });
    ({ zone_id, token } = await makeZone(api));
  });
  after(() => api.close());

  const ask = async (name: ApiOperation, body?: unknown, id: string = uuidv7(), by = token): Promise<Said> => {
    const params = { zone_id, id, name: "policies" };
    const answer = await call(api.url, by, name, { params, ...(body === undefined ? {} : { body }) });
    return { status: answer.status, error: answer.body.error };
  };
  const make = async (name: ApiOperation, body: unknown, id = ""): Promise<Record<string, string>> =>
    (await expectOk(api.url, token, name, { params: { zone_id, id }, body })) as unknown as Record<string, string>;
  const plain = async (request: Parameters<typeof send>[1]): Promise<Said> => {
    const answer = await send(api.url, { token, ...request });
    return { status: answer.status, error: answer.body.error };
  };
  const raw = async (head: string): Promise<Said> => {
    const answer = await rawRequest(api.url, `${head}\r\n\r\n`, { timeout_ms: 10_000 });
    return { status: answer?.status ?? 0, error: JSON.parse(answer?.body ?? "{}").error };
  };
  const twice = async (name: ApiOperation, body: unknown, by = token): Promise<Said> => {
    await ask(name, body, "", by);
    return ask(name, body, "", by);
  };

  let made = 0;
  const named = (): { name: string } => ({ name: `n${(made += 1)}` });
  const RESOURCE = { identifier: "resource://r", name: "R", upstream_url: "https://r.example.com" };
  const SOURCE = `package caracal.authz
default result := {"decision": "deny", "evaluation_status": "complete", "determining_policies": [], "diagnostics": []}`;

  /** A policy in a set, not active yet. */
  const policySet = async () => {
    const policy = await make("createPolicy", named());
    const version = await make("createPolicyVersion", { source: SOURCE }, policy["id"]);
    const set = await make("createPolicySet", named());
    const entries = [{ policy_version_id: version["id"] }];
    const set_version = await make("createPolicySetVersion", { entries }, set["id"]);
    return { policy: policy["id"], set: set["id"], version_id: set_version["id"] };
  };
  const active = async () => {
    const one = await policySet();
    await ask("activatePolicySet", { version_id: one.version_id }, one.set);
    return one;
  };
  const registering = async (): Promise<string> =>
    (await make("createRegistrationToken", { ...named(), expires_in_s: 60 }))["token"] ?? "";
  const brought = "mN3vQ8xYp2LrT6wZk9BsD4fGh7JcV1aEo5UiXqRtW0Y";

  /** One request for each. */
  const PROVOKED: Readonly<Record<string, () => Promise<Said>>> = {
    "400 invalid_body": () => ask("createApplication", {}),
    "400 invalid_client_metadata": async () => ask("registerClient", {}, "", await registering()),
    "400 invalid_idempotency_key": () =>
      plain({
        method: "POST",
        path: `/v1/zones/${zone_id}/policies`,
        body: named(),
        headers: { "idempotency-key": "with space" },
      }),
    "400 invalid_query": () => plain({ path: `/v1/zones/${zone_id}/policies?limit=0` }),
    "400 invalid_redirect_uri": async () =>
      ask("registerClient", { client_name: "a", redirect_uris: ["x"] }, "", await registering()),
    "400 invalid_request": () => raw("GET /v1/zones HTTP/1.1"),
    "401 invalid_token": () => ask("listPolicies", undefined, "", "x".repeat(43)),
    "403 admin_token_read_only": async () => {
      const body = { label: "r", zone_id, access: "read" };
      const { token: reader } = await expectOk(api.url, token, "createAdminToken", { body });
      return ask("createPolicy", named(), "", reader);
    },
    "403 admin_token_zone_mismatch": () => ask("createZone", { slug: "mine", name: "Mine" }),
    "404 not_found": () => ask("getPolicy"),
    "405 method_not_allowed": () => plain({ method: "PUT", path: "/v1/zones" }),
    "409 application_is_public": async () => {
      const { id } = await make("createApplication", { ...named(), kind: "public", credential_types: [] });
      return ask("replaceSecret", undefined, id);
    },
    "409 challenge_not_pending": async () => {
      const application = await make("createApplication", named());
      const id = uuidv7();
      await api.owner.sql`
        insert into step_up_challenges (zone_id, id, kind, secret_sha256, application_id, subject, scopes, expires_at)
        values (${zone_id}, ${id}, 'mfa', 'h', ${application["id"] ?? ""}, 'ann', '{}', now() + interval '5 minutes')`;
      await ask("rejectChallenge", undefined, id);
      return ask("satisfyChallenge", undefined, id);
    },
    "409 idempotency_key_reused": async () => {
      const one = () =>
        plain({
          method: "POST",
          path: `/v1/zones/${zone_id}/policies`,
          body: named(),
          headers: { "idempotency-key": "key" },
        });
      await one();
      return one();
    },
    "409 identifier_taken": () => twice("createResource", RESOURCE),
    "409 in_use": async () => {
      const { id } = await make("createApplication", named());
      await make("createResource", { ...RESOURCE, identifier: `resource://${id}`, application_id: id });
      return ask("archiveApplication", undefined, id);
    },
    "409 issuer_url_taken": () =>
      twice("createIssuer", { name: "i", issuer_url: "https://i.example.com", audience: "a" }),
    "409 name_taken": () => twice("createPolicy", { name: "same" }),
    "409 no_client_secret": async () => {
      const jwks = { keys: [{ kty: "EC", crv: "P-256", x: "x", y: "y" }] };
      const body = { ...named(), credential_types: ["private_key_jwt"], jwks };
      return ask("replaceSecret", undefined, (await make("createApplication", body))["id"]);
    },
    "409 policy_archived": async () => {
      const { policy, set, version_id } = await policySet();
      await ask("archivePolicy", undefined, policy);
      return ask("activatePolicySet", { version_id }, set);
    },
    "409 policy_is_active": async () => ask("archivePolicy", undefined, (await active()).policy),
    "409 policy_set_is_active": async () => ask("archivePolicySet", undefined, (await active()).set),
    "409 quota_exceeded": async () => {
      const other = await makeZone(api);
      const params = { zone_id: other.zone_id, name: "policies" };
      await expectOk(api.url, api.global_token, "setQuota", { params, body: { limit: 0 } });
      const { status, body } = await call(api.url, other.token, "createPolicy", { params, body: named() });
      return { status, error: body.error };
    },
    "409 rotation_too_soon": () => twice("rotateKeys", {}),
    "409 slug_taken": () => twice("createZone", { slug: "taken", name: "Taken" }, api.global_token),
    "409 subject_taken": async () => {
      const application_id = (await make("createApplication", named()))["id"];
      const resource_id = (await make("createResource", { ...RESOURCE, identifier: "resource://granted" }))["id"];
      return twice("createGrant", { application_id, resource_id, subject: "i|ann", scopes: [] });
    },
    "409 token_taken": () => twice("createAdminToken", { label: "l", zone_id, token: brought }),
    "410 bootstrap_used": () => twice("bootstrap", { slug: "boot", name: "Boot" }, BOOTSTRAP_TOKEN),
    "412 precondition_failed": async () => {
      const { id } = await make("createPolicy", named());
      const path = `/v1/zones/${zone_id}/policies/${id}`;
      return plain({ method: "PATCH", path, body: named(), headers: { "if-match": '"7"' } });
    },
    "413 request_too_large": () =>
      plain({ method: "POST", path: `/v1/zones/${zone_id}/policies`, body: { name: "x".repeat(1_100_000) } }),
    "415 unsupported_media_type": () =>
      plain({
        method: "POST",
        path: `/v1/zones/${zone_id}/policies`,
        body: "{}",
        headers: { "content-type": "text/plain" },
      }),
    "417 invalid_request": () => raw("GET /v1/zones HTTP/1.1\r\nHost: a\r\nExpect: wonders"),
    "422 invalid_rego": async () => {
      const { id } = await make("createPolicy", named());
      return ask("createPolicyVersion", { source: "nonsense" }, id);
    },
    "429 quota_exceeded": async () => {
      const { set, version_id } = await policySet();
      const body = { version_id, input: { principal: { id: "a" } } };
      // One token holds no more places than a zone's simulations have.
      const by = (at: number): string => (at % 2 === 0 ? token : api.global_token);
      const asked = Array.from({ length: 12 }, (_, at) => ask("simulatePolicySet", body, set, by(at)));
      const many = await Promise.all(asked);
      return many.find(({ status }) => status !== 200) ?? { status: 200, error: "" };
    },
    "429 too_many_registrations": async () => {
      const by = await registering();
      const body = { client_name: "a", token_endpoint_auth_method: "none" };
      const many = await Promise.all(Array.from({ length: 40 }, () => ask("registerClient", body, "", by)));
      return many.find(({ status }) => status === 429) ?? { status: 201, error: "" };
    },
    "431 invalid_request": () => raw(`GET /v1/zones HTTP/1.1\r\nHost: a\r\n${"x-a: b\r\n".repeat(300).trimEnd()}`),
  };

  it("are each provoked here once, or can't be", () => {
    assert.deepEqual([...Object.keys(PROVOKED), ...Object.keys(NOT_HERE)].toSorted(), inTheSource());
  });

  for (const [refusal, provoke] of Object.entries(PROVOKED)) {
    it(`say ${refusal} where that is so`, async () => {
      const { status, error } = await provoke();
      assert.equal(`${status} ${error}`, refusal);
    });
  }
});
