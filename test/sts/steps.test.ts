import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, it } from "node:test";
import * as fc from "fast-check";
import { isSubset } from "../../src/domain/scopes.ts";
import type { Claims } from "../../src/domain/token.ts";
import { packageRoot } from "../../src/kernel/package-root.ts";
import { Denial } from "../../src/kernel/pipeline.ts";
import { exchange, type PipelinePorts } from "../../src/sts/exchange.ts";
import type { Judged } from "../../src/sts/facts.ts";
import { introspect } from "../../src/sts/introspect.ts";
import { issue } from "../../src/sts/issue.ts";
import { problems } from "../../src/sts/problems.ts";
import { revoke } from "../../src/sts/revoke.ts";
import type { TokenRequest } from "../../src/sts/edge/request.ts";
import type { Application, Resource } from "../../src/sts/known/snapshot.ts";
import { call } from "../../src/sts/steps/call.ts";
import { tokenSize } from "../../src/sts/steps/claims.ts";
import { exchangeFields, issueFields, supportedFields } from "../../src/sts/steps/fields.ts";
import { ambientLifetime, mandateLifetime } from "../../src/sts/steps/lifetime.ts";
import { resourceInTarget } from "../../src/sts/steps/resource.ts";
import { exchangeScope, grantedScopes, issueScope, scopeLeft } from "../../src/sts/steps/scope.ts";
import { sessionActive, sessionMatches } from "../../src/sts/steps/session.ts";
import { subjectTokenClient, subjectTokenUse } from "../../src/sts/steps/subject-token.ts";
import type { Database } from "../../src/ports/database.ts";

const NOW_MS = 1_800_000_000_500;
const NOW_S = 1_800_000_000;
const EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange";
const ACCESS_TOKEN = "urn:ietf:params:oauth:token-type:access_token";

const request = (some: Partial<TokenRequest> = {}): TokenRequest => ({
  zone_id: "z",
  caller: { kind: "client", client_id: "app", proof: { by: "secret", secret: "s" }, address: "a" },
  grant_type: EXCHANGE,
  resources: [],
  scope: undefined,
  subject_token: undefined,
  subject_token_type: undefined,
  actor_token: undefined,
  actor_token_type: undefined,
  requested_token_type: undefined,
  session_id: undefined,
  agent_session_id: undefined,
  delegation_edge_id: undefined,
  ttl_seconds: undefined,
  method: undefined,
  path: undefined,
  challenge_id: undefined,
  challenge_response: undefined,
  unsupported: [],
  ...some,
});
const application = (scopes: readonly string[]): Application => ({
  id: "app",
  secrets: [],
  scopes,
  traits: [],
  rate_limit_per_minute: undefined,
  unbound_mandates: false,
  assertion_version: undefined,
});
const resource = (identifier: string, scopes: readonly string[]): Resource => ({
  id: identifier,
  identifier,
  upstream_url: "http://u",
  scopes,
  cost_units: 0,
  application_id: null,
  provider_id: null,
});
const claims = (some: Partial<Claims> = {}): Claims => ({
  iss: "i",
  sub: "app",
  aud: "i",
  exp: NOW_S + 100,
  iat: NOW_S,
  jti: "j",
  zone_id: "z",
  client_id: "app",
  scope: "",
  sid: "s",
  use: "ambient",
  sub_type: "application",
  target: [],
  ...some,
});
const GATEWAY = { kind: "gateway", nonce: undefined } as const;

const reasonOf = (result: unknown): string | undefined => (result instanceof Denial ? result.reason : undefined);

describe("the order of checks", () => {
  it("is the one that was reviewed", () => {
    const nothing = {} as unknown as PipelinePorts & { readonly db: Database };
    const policy = {} as PipelinePorts["policy"];
    const step_up = {} as PipelinePorts["step_up"];
    const spend = {} as PipelinePorts["spend"];
    const ports = { ...nothing, policy, step_up, spend };
    const golden: unknown = JSON.parse(readFileSync(join(packageRoot, "test/sts/steps.golden.json"), "utf8"));
    const found = {
      exchange: exchange(ports).steps,
      introspect: introspect(ports).steps,
      issue: issue(ports).steps,
      revoke: revoke({ ...ports, change: () => Promise.reject(new Error("no change is made here")) }).steps,
    };
    assert.deepEqual(found, golden);
  });

  it("has an answer for each reason, in printable ASCII, that tells an outage from a refusal", () => {
    for (const [reason, { status, error, description }] of Object.entries(problems)) {
      assert.match(description, /^[\x20-\x21\x23-\x5b\x5d-\x7e]+$/, reason);
      if (status === 503) assert.equal(error, "temporarily_unavailable", reason);
    }
  });
});

describe("the lifetime of a token", () => {
  const ttl = (ttl_seconds: string | undefined) => ambientLifetime.run({ request: request({ ttl_seconds }) });

  it("is what was asked for, within its cap", () => {
    assert.deepEqual(ttl("1"), { ttl_s: 1 });
    assert.deepEqual(ttl("3600"), { ttl_s: 3_600 });
    assert.deepEqual(ttl(undefined), { ttl_s: 3_600 });
    assert.deepEqual(mandateLifetime.run({ request: request({ ttl_seconds: "900" }) }), { ttl_s: 900 });
    assert.equal(reasonOf(mandateLifetime.run({ request: request({ ttl_seconds: "901" }) })), "ttl_seconds_invalid");
  });

  it("is shorter for the Gateway's own hop than for a client that keeps it in hand", () => {
    assert.deepEqual(mandateLifetime.run({ request: request() }), { ttl_s: 300 });
    assert.deepEqual(mandateLifetime.run({ request: request({ caller: GATEWAY }) }), { ttl_s: 60 });
  });

  it("is no number that somebody else reads differently", () => {
    for (const text of [
      "0",
      "-1",
      "1.5",
      "1e3",
      "1e309",
      "0x10",
      "01",
      "+1",
      " 1",
      "1 ",
      "١",
      "Infinity",
      "NaN",
      "3601",
      "99999999999999999999",
      "true",
      "1\n",
    ]) {
      assert.equal(reasonOf(ttl(text)), "ttl_seconds_invalid", JSON.stringify(text));
    }
  });

  it("is refused or between one second and its cap, whatever the text", () => {
    fc.assert(
      fc.property(fc.oneof(fc.string(), fc.integer().map(String), fc.double().map(String)), (text) => {
        const result = ttl(text);
        assert.ok(!(result instanceof Promise));
        if (result instanceof Denial) return;
        assert.ok(Number.isInteger(result.ttl_s) && result.ttl_s >= 1 && result.ttl_s <= 3_600);
        assert.equal(String(result.ttl_s), text);
      }),
    );
  });
});

describe("the scopes of a mandate", () => {
  const of = (scope: string | undefined, limits: { resource: string[]; application: string[]; subject: string }) =>
    exchangeScope.run({
      request: request({ scope }),
      resource: resource("r", limits.resource),
      delegation: undefined,
      actor: undefined,
      scope_owner: application(limits.application),
      subject: claims({ scope: limits.subject }),
    });

  it("are by default all that resource, application and subject token have in common", () => {
    assert.deepEqual(of(undefined, { resource: ["a", "b", "c"], application: ["c", "a"], subject: "a b c" }), {
      scopes: ["a", "c"],
    });
    assert.deepEqual(of(undefined, { resource: [], application: ["b"], subject: "a b" }), { scopes: [] });
  });

  it("are refused where the resource declares some and nothing is left", () => {
    for (const limits of [
      { resource: ["a"], application: ["b"], subject: "a b" },
      { resource: ["a"], application: ["a"], subject: "" },
    ]) {
      assert.equal(reasonOf(of(undefined, limits)), "scope_nothing_left");
    }
  });

  it("are never wider than any of the three, whatever is asked for", () => {
    const list = fc.uniqueArray(fc.constantFrom("a", "b", "c", "d", "coordinator.admin"));
    fc.assert(
      fc.property(list, list, list, fc.option(list), (r, a, s, wanted) => {
        const scope = wanted === null || wanted.length === 0 ? undefined : wanted.join(" ");
        const result = of(scope, { resource: r, application: a, subject: s.join(" ") });
        assert.ok(!(result instanceof Promise));
        if (result instanceof Denial) {
          if (scope === undefined) {
            assert.ok(r.length > 0 && !r.some((one) => a.includes(one) && s.includes(one)));
            return;
          }
          assert.ok(!(wanted ?? []).every((one) => r.includes(one) && a.includes(one) && s.includes(one)));
          return;
        }
        for (const limit of [r, a, s]) assert.ok(isSubset(result.scopes, limit));
        if (scope !== undefined) assert.deepEqual(result.scopes, wanted);
      }),
    );
  });

  it("are refused where they are no scope tokens", () => {
    const limits = { resource: ["a"], application: ["a"], subject: "a" };
    for (const scope of ['a"', "a\\b", "é", "a\tb", "a\u0000"])
      assert.equal(reasonOf(of(scope, limits)), "scope_malformed");
    assert.equal(reasonOf(of(Array.from({ length: 257 }, (_, i) => `s${i}`).join(" "), limits)), "scope_malformed");
  });
});

describe("the scopes of an ambient token", () => {
  const of = (scope: string | undefined, held: string[], ...resources: Resource[]) =>
    issueScope.run({
      request: request({ scope }),
      resources,
      delegation: undefined,
      scope_owner: application(held),
    });

  it("are the application's whole list where nothing limits them, the platform's own included", () => {
    assert.deepEqual(of(undefined, ["a", "coordinator.admin"]), { scopes: ["a", "coordinator.admin"] });
    assert.deepEqual(of("coordinator.admin", ["a", "coordinator.admin"]), { scopes: ["coordinator.admin"] });
    assert.equal(reasonOf(of("coordinator.admin", ["a"])), "scope_not_allowed");
  });

  it("are what the named resources know of it where some are named; the platform's only where they are asked for", () => {
    const held = ["a", "b", "x", "coordinator.admin"];
    const named = [resource("r1", ["a"]), resource("r2", ["b", "c"])];
    assert.deepEqual(of(undefined, held, ...named), { scopes: ["a", "b"] });
    assert.deepEqual(of("b coordinator.admin", held, ...named), { scopes: ["b", "coordinator.admin"] });
    assert.equal(reasonOf(of("x", held, ...named)), "scope_not_allowed");
    assert.equal(reasonOf(of("c", held, ...named)), "scope_not_allowed");
  });

  it("are refused where resources are named that declare some, and nothing is left", () => {
    assert.equal(reasonOf(of(undefined, ["x"], resource("r1", ["a"]))), "scope_nothing_left");
    assert.equal(reasonOf(of(undefined, ["x"], resource("r1", []), resource("r2", ["a"]))), "scope_nothing_left");
    assert.deepEqual(of(undefined, ["x"], resource("r1", [])), { scopes: [] });
    assert.deepEqual(of(undefined, []), { scopes: [] });
  });

  it("are refused where policy left resources that declare some, and none of theirs", () => {
    const [r1, r2, bare] = [resource("r1", ["a"]), resource("r2", ["b"]), resource("bare", [])];
    const left = (scopes: string[], ...granted: Judged[]) =>
      reasonOf(scopeLeft.run({ scopes, resources: [r1, r2, bare], granted }));
    const of_one = (one: Resource, scopes: string[]) => ({ resource: one, scopes }) as unknown as Judged;
    assert.equal(left(["a"], of_one(r2, [])), "scope_nothing_left");
    assert.equal(left(["a"], of_one(r1, ["a"])), undefined);
    assert.equal(left(["a"], of_one(bare, [])), undefined);
    assert.equal(left(["coordinator.admin"], of_one(r2, [])), undefined);
    assert.equal(reasonOf(scopeLeft.run({ scopes: [], resources: [], granted: [] })), undefined);
  });

  it("shrink to those of the resources that policy allowed", () => {
    const [r1, r2] = [resource("r1", ["a"]), resource("r2", ["b"])];
    const granted = [{ resource: r1, scopes: ["a"] } as unknown as Judged];
    assert.deepEqual(grantedScopes({ scopes: ["a", "b", "coordinator.admin"], resources: [r1, r2], granted }), [
      "a",
      "coordinator.admin",
    ]);
    assert.deepEqual(grantedScopes({ scopes: ["a", "b"], resources: [], granted: [] }), ["a", "b"]);
  });
});

describe("the fields of a request", () => {
  it("are refused by name where they are not served", () => {
    const denial = supportedFields.run({ request: request({ unsupported: ["challenge_id"] }) });
    assert.equal(reasonOf(denial), "field_not_supported");
    assert.match(denial?.extra?.description ?? "", /challenge_id is not supported/);
    const id_token = "urn:ietf:params:oauth:token-type:id_token";
    assert.match(
      supportedFields.run({ request: request({ subject_token_type: id_token }) })?.extra?.description ?? "",
      /^subject_token_type/,
    );
    assert.match(
      supportedFields.run({ request: request({ requested_token_type: id_token }) })?.extra?.description ?? "",
      /^requested_token_type/,
    );
    assert.equal(supportedFields.run({ request: request({ requested_token_type: ACCESS_TOKEN }) }), undefined);
  });

  it("name a call with a subject token only", () => {
    for (const some of [{ method: "GET" }, { path: "/" }]) {
      assert.equal(reasonOf(issueFields.run({ request: request(some) })), "field_not_allowed");
    }
  });

  it("of an exchange are not taken for those of an ambient token", () => {
    assert.equal(
      reasonOf(issueFields.run({ request: request({ grant_type: "client_credentials", subject_token: "t" }) })),
      "field_not_allowed",
    );
    assert.equal(
      reasonOf(issueFields.run({ request: request({ subject_token_type: ACCESS_TOKEN }) })),
      "field_not_allowed",
    );
    assert.equal(reasonOf(issueFields.run({ request: request({ session_id: "s" }) })), "field_not_allowed");
    assert.equal(
      reasonOf(exchangeFields.run({ request: request({ subject_token: "t" }) })),
      "subject_token_type_missing",
    );
    assert.equal(
      reasonOf(exchangeFields.run({ request: request({ grant_type: "client_credentials", caller: GATEWAY }) })),
      "field_not_allowed",
    );
  });
});

describe("the call of a mandate", () => {
  const of = (some: Partial<TokenRequest>, unbound_mandates = false) =>
    reasonOf(call.run({ request: request(some), application: { ...application([]), unbound_mandates } }));

  it("is named by method and path, unless the application may have mandates for any call", () => {
    assert.equal(of({ method: "GET", path: "/" }), undefined);
    assert.equal(of({}), "call_missing");
    assert.equal(of({}, true), undefined);
    for (const unbound of [true, false]) {
      assert.equal(of({ method: "GET" }, unbound), "call_incomplete");
      assert.equal(of({ path: "/" }, unbound), "call_incomplete");
    }
  });

  it("is the one that the Gateway is in the middle of, on its own hop", () => {
    assert.equal(of({ caller: GATEWAY }), undefined);
    assert.equal(of({ caller: GATEWAY, method: "GET", path: `/${"a".repeat(5_000)}` }), undefined);
  });

  it("is of a bounded length, and nothing that the Gateway could not see as method and path", () => {
    const longest = `/${"a".repeat(2_047)}`;
    for (const path of ["/", "/a/b;c=d", "/%C3%A9", longest]) assert.equal(of({ method: "M-SEARCH", path }), undefined);
    for (const path of ["a", "*", "http://h/", "/a?b", "/a#b", "/a b", "/é", "/a\\b", "/a\n", `${longest}a`]) {
      assert.equal(of({ method: "GET", path }), "call_malformed", JSON.stringify(path));
    }
    for (const method of ["GET ", "G\nT", "GÉT", "G/T", "a".repeat(65)]) {
      assert.equal(of({ method, path: "/" }), "call_malformed", JSON.stringify(method));
    }
  });
});

describe("a subject token", () => {
  it("is ambient, bound to no grant, and the caller's own", () => {
    assert.equal(subjectTokenUse.run({ subject: claims() }), undefined);
    assert.equal(reasonOf(subjectTokenUse.run({ subject: claims({ use: "per_call" }) })), "subject_token_not_ambient");
    assert.equal(reasonOf(subjectTokenUse.run({ subject: claims({ grant_id: "x" }) })), "subject_token_bound");
    assert.equal(subjectTokenClient.run({ subject: claims(), application: application([]) }), undefined);
    assert.equal(
      reasonOf(subjectTokenClient.run({ subject: claims({ client_id: "other" }), application: application([]) })),
      "subject_token_client",
    );
  });

  it("is good for the resources that it names, or for any where it names none", () => {
    const at = (target: string[]) =>
      resourceInTarget.run({ subject: claims({ target }), actor: undefined, resource: resource("r", []) });
    assert.equal(at([]), undefined);
    assert.equal(at(["q", "r"]), undefined);
    assert.equal(reasonOf(at(["q", "r2"])), "resource_not_in_target");
  });
});

describe("a session", () => {
  const row = {
    id: "s",
    client_id: "app",
    subject: "app",
    sub_type: "application",
    expires_at_s: NOW_S + 10,
    revoked: false,
  } as const;

  it("mints while it is neither expired nor revoked, by its row or by a mark", () => {
    const active = (some: object, session_marked = false) =>
      reasonOf(sessionActive.run({ session: { ...row, ...some }, session_marked, now_ms: NOW_MS }));
    assert.equal(active({}), undefined);
    assert.equal(active({ expires_at_s: NOW_S + 1 }), undefined);
    assert.equal(active({ expires_at_s: NOW_S }), "session_expired");
    assert.equal(active({ revoked: true }), "session_revoked");
    assert.equal(active({}, true), "session_revoked");
  });

  it("is the subject token's, and the one that the caller means", () => {
    const matches = (some: Partial<Claims>, session_id?: string) =>
      reasonOf(sessionMatches.run({ session: row, subject: claims(some), request: request({ session_id }) }));
    assert.equal(matches({}), undefined);
    assert.equal(matches({}, "s"), undefined);
    assert.equal(matches({}, "other"), "session_id_mismatch");
    assert.equal(matches({ sub: "other" }), "session_mismatch");
    assert.equal(matches({ client_id: "other" }), "session_mismatch");
    assert.equal(matches({ sub_type: "user" }), "session_mismatch");
  });
});

describe("the size of a token", () => {
  it("is judged before anything is written, and never too low", () => {
    const payload = (scope: string): string => JSON.stringify(claims({ scope }));
    assert.equal(tokenSize.run({ payload: payload("x".repeat(2_000)) }), undefined);
    assert.equal(reasonOf(tokenSize.run({ payload: payload("x".repeat(2_900)) })), "token_too_long");
    assert.equal(reasonOf(tokenSize.run({ payload: payload("é".repeat(1_450)) })), "token_too_long");
  });
});
