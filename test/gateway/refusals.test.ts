import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";
import type { ExchangeAnswer, GatewayExchange } from "../../src/contracts/exchange.ts";
import type { Cancellation } from "../../src/kernel/cancel.ts";
import { signToken } from "../../src/domain/token.ts";
import { decide } from "../../src/gateway/decide.ts";
import { problems } from "../../src/sts/problems.ts";
import { StsTimeout } from "../../src/ports/sts.ts";
import { Unavailable } from "../../src/ports/streams.ts";
import { eventually } from "../support/eventually.ts";
import { createRig, keyPair, openRaw, requestText, RESOURCE, type Rig, ZONE } from "./rig.ts";
import { GATEWAY_STEPS } from "./steps.golden.ts";

type Refusal = { readonly status: number; readonly error: string; readonly reason?: string; readonly counter?: string };

const assertShape = (body: Record<string, unknown>, headers: Headers): void => {
  assert.equal(typeof body["error"], "string");
  assert.equal(typeof body["message"], "string");
  assert.equal(body["requestId"], headers.get("x-request-id"));
  assert.equal(headers.get("cache-control"), "no-store");
  assert.match(headers.get("content-type") ?? "", /^application\/json/);
};

describe("the order of the checks", () => {
  it("is the one that was agreed on", () => {
    const never = {} as never;
    const { steps } = decide({
      sts: never,
      revocations: never,
      marks: never,
      egress: never,
      upstreams: never,
      bindings: never,
      keys: never,
      tokens: never,
      ledger: never,
      shares: never,
      max_request_bytes: 0,
      sts_timeout_ms: 0,
      jti_fail_open: false,
      issuer_url: "",
      clock: never,
      log: never,
    });
    assert.deepEqual(steps, GATEWAY_STEPS);
  });
});

describe("a call that is refused", () => {
  let rig: Rig;
  before(async () => {
    rig = await createRig();
  });
  after(() => rig.close());

  /** Sends raw headers; checks answer, shape, counter, and that neither STS nor upstream were asked. */
  const refused = async (
    line: string,
    headers: Readonly<Record<string, string>> | string,
    expected: Refusal,
  ): Promise<Record<string, unknown>> => {
    const counter = expected.counter;
    const [before_count, denied, reached, asked] = [
      counter === undefined ? 0 : await rig.metric(counter),
      await rig.metric("requests_denied"),
      rig.seen.length,
      rig.sts.exchanges.length,
    ];
    const raw = await openRaw(rig.port);
    raw.write(typeof headers === "string" ? headers : requestText(line, headers));
    const text = await raw.until(/\r\n\r\n\{.*\}$/s);
    raw.destroy();
    const [head = "", json = ""] = text.split("\r\n\r\n");
    const lines = head
      .split("\r\n")
      .slice(1)
      .map((one) => one.split(": ") as [string, string]);
    const answer_headers = new Headers(lines);
    const body = JSON.parse(json) as Record<string, unknown>;
    assertShape(body, answer_headers);
    assert.equal(Number(/^HTTP\/1.1 (\d+)/.exec(head)?.[1]), expected.status, json);
    assert.equal(body["error"], expected.error, json);
    if (expected.reason !== undefined) assert.equal(body["reason"], expected.reason);
    if (expected.status === 401) assert.equal(answer_headers.get("www-authenticate"), 'Bearer error="invalid_token"');
    if (expected.status === 503) assert.match(answer_headers.get("retry-after") ?? "", /^\d+$/);
    assert.equal(rig.seen.length, reached, "nothing reached the upstream");
    assert.equal(rig.sts.exchanges.length, asked, "the STS was not asked");
    if (counter !== undefined) assert.equal((await rig.metric(counter)) - before_count, 1, `${counter} counts it once`);
    assert.equal((await rig.metric("requests_denied")) - denied, 1);
    return body;
  };
  const withToken = (token: string): Record<string, string> => ({
    Authorization: `Bearer ${token}`,
    "X-Caracal-Resource": RESOURCE,
  });

  const NO_BEARER = { status: 401, error: "InvalidToken", counter: "denials_missing_auth" };
  it("without exactly one bearer token is 401", async () => {
    const token = rig.ambient();
    await refused("GET /", { "X-Caracal-Resource": RESOURCE }, { ...NO_BEARER, reason: "authorization_missing" });
    await refused("GET /", { Authorization: "Basic abc", "X-Caracal-Resource": RESOURCE }, NO_BEARER);
    await refused("GET /", { Authorization: `Bearer ${token} ${token}`, "X-Caracal-Resource": RESOURCE }, NO_BEARER);
    await refused(
      "GET /",
      { Authorization: `Bearer ${token}, Bearer ${token}`, "X-Caracal-Resource": RESOURCE },
      NO_BEARER,
    );
    await refused(
      "GET /",
      { Authorization: `Bearer ${token}`, authorization: `Bearer ${token}`, "X-Caracal-Resource": RESOURCE },
      {
        ...NO_BEARER,
        reason: "authorization_repeated",
      },
    );
  });

  it("with what is no token of ours by form is 401", async () => {
    const part = (value: object): string => Buffer.from(JSON.stringify(value)).toString("base64url");
    const [head, payload, signature] = rig.ambient().split(".") as [string, string, string];
    const forms = [
      "x",
      "a.b.c",
      `${head}.${payload}`,
      `${head}.${payload}.`,
      `${part({ alg: "none", typ: "at+jwt", kid: "kid-1" })}.${payload}.${signature}`,
      `${part({ alg: "HS256", typ: "at+jwt", kid: "kid-1" })}.${payload}.${signature}`,
      `${part({ alg: "ES256", typ: "at+jwt", kid: "kid-1", jku: "https://evil.test" })}.${payload}.${signature}`,
      `${part({ alg: "ES256", typ: "at+jwt", kid: "kid-1", crit: ["x"] })}.${payload}.${signature}`,
      `${head}.${payload}.${signature}${"A".repeat(4096)}`,
    ];
    for (const form of forms) {
      await refused("GET /", withToken(form), {
        status: 401,
        error: "InvalidToken",
        reason: "token_malformed",
        counter: "denials_bad_bearer",
      });
    }
  });

  it("with a token that has 35 s or less to live is 401, before its signature is looked at", async () => {
    const now_s = Math.floor(Date.now() / 1000);
    const other = keyPair("kid-1");
    for (const token of [
      rig.ambient({ exp: now_s + 30, iat: now_s - 60 }),
      rig.ambient({ exp: now_s - 600, iat: now_s - 900 }),
      signToken(other.privateKey, "kid-1", rig.claims({ exp: now_s + 34, iat: now_s - 60 })),
    ]) {
      await refused("GET /", withToken(token), {
        status: 401,
        error: "CredentialExpired",
        counter: "denials_expiring",
      });
    }
  });

  it("that does not name one resource, or says what only a token may, is 400 and names it", async () => {
    const token = rig.ambient();
    const bad = { status: 400, error: "InvalidRequest", counter: "denials_bad_routing" };
    await refused("GET /", { Authorization: `Bearer ${token}` }, bad);
    await refused("GET /r/only-one/", { Authorization: `Bearer ${token}` }, bad);
    await refused("GET /", { ...withToken(token), "x-caracal-resource": RESOURCE }, bad);
    await refused("GET /", { ...withToken(token), "X-Caracal-Resource": "" }, bad);
    for (const name of ["X-Caracal-Client-ID", "X-Caracal-Challenge-Id", "X-Caracal-Challenge-Response"]) {
      const body = await refused("GET /", { ...withToken(token), [name]: "x" }, bad);
      assert.match(String(body["message"]), new RegExp(name));
    }
    for (const name of ["X-Caracal-Agent-Session", "X-Caracal-Delegation-Edge"]) {
      for (const value of ["", "two ids", "x".repeat(129)]) {
        const body = await refused("GET /", { ...withToken(token), [name]: value }, bad);
        assert.match(String(body["message"]), new RegExp(name));
      }
      await refused("GET /", { ...withToken(token), [name]: "a", [name.toLowerCase()]: "a" }, bad);
    }
    await refused("GET /", { ...withToken(token), "X-Caracal-Scope": 'bad"scope' }, bad);
    await refused("GET /", { ...withToken(token), "X-Caracal-Scope": "a", "x-caracal-scope": "b" }, bad);
    const upgrade = await refused("GET /", { ...withToken(token), Connection: "Upgrade", Upgrade: "websocket" }, bad);
    assert.match(String(upgrade["message"]), /websocket/);
    await refused("POST /", { ...withToken(token), "Transfer-Encoding": "gzip, chunked" }, { ...bad });
  });

  it("with a path that climbs, or a target that is no path, is 400", async () => {
    const bad = { status: 400, error: "InvalidRequest", reason: "path_refused", counter: "denials_path_traversal" };
    for (const target of [
      "/a/../b",
      "/..",
      "/%2e%2e/x",
      "/a/%252e%252e/b",
      "/..%2fx",
      "/a/..;x/b",
      "/a%5c..%5cb",
      "//evil.test/x",
      "http://evil.test/x",
      "/a%00",
      "/%c0%ae%c0%ae/",
    ]) {
      await refused(`GET ${target}`, withToken(rig.ambient()), bad);
    }
    await refused("OPTIONS *", withToken(rig.ambient()), bad);
    await refused(`GET /r/${ZONE}/res-1//evil.test`, { Authorization: `Bearer ${rig.ambient()}` }, bad);
  });

  it("with a signature, key, issuer or zone that does not fit is 401, and costs the STS nothing", async () => {
    const bad = { status: 401, error: "InvalidToken", reason: "token_invalid", counter: "denials_signature" };
    await (await rig.call("/")).text();
    const other = keyPair("kid-1");
    const asked = rig.sts.jwks_asked.length;
    await refused("GET /", withToken(signToken(other.privateKey, "kid-1", rig.claims())), bad);
    await refused("GET /", withToken(rig.ambient({ iss: "https://other.test/zones/zone-1" })), bad);
    for (let at = 0; at < 20; at += 1) await refused("GET /", withToken(rig.ambient({ zone_id: `random-${at}` })), bad);
    assert.equal(rig.sts.jwks_asked.length, asked, "zones that nobody has heard of are not asked about");
    await refused("GET /", withToken(signToken(other.privateKey, "kid-9", rig.claims())), bad);
    await refused("GET /", withToken(signToken(other.privateKey, "kid-8", rig.claims())), bad);
    assert.equal(rig.sts.jwks_asked.length, asked + 1, "unknown keys are asked about at a bounded rate");
  });

  it("of an unbound resource, or one that the token is not limited to, is 403", async () => {
    await refused(
      "GET /",
      { ...withToken(rig.ambient()), "X-Caracal-Resource": "resource://other" },
      { status: 403, error: "AccessDenied", counter: "denials_binding" },
    );
    await refused("GET /", withToken(rig.ambient({ target: ["resource://other"] })), {
      status: 403,
      error: "AccessDenied",
      counter: "denials_target",
    });
  });

  it("with a mandate that a Gateway obtained for its own hop is 401", async () => {
    await refused("GET /", withToken(rig.mandate({ via: "gateway" })), {
      status: 401,
      error: "InvalidToken",
      reason: "mandate_played_back",
    });
  });

  it("of a revoked session, agent session, edge or grant is 401", async () => {
    const bad = { status: 401, error: "InvalidToken", reason: "token_revoked", counter: "denials_revoked" };
    rig.revoke("session", "s-revoked");
    rig.revoke("agent_session", "a-revoked");
    rig.revoke("delegation_edge", "e-revoked");
    rig.revoke("grant", "g-revoked");
    await refused("GET /", withToken(rig.ambient({ sid: "s-revoked" })), bad);
    await refused("GET /", withToken(rig.mandate({ sid: "s-revoked" })), bad);
    await refused("GET /", withToken(rig.ambient({ agent_session_id: "a-revoked" })), bad);
    const delegation_chain = [
      { application_id: "app", agent_session_id: "a-revoked" },
      { application_id: "app", agent_session_id: "a-1", delegation_edge_id: "e-1" },
    ];
    await refused("GET /", withToken(rig.ambient({ agent_session_id: "a-1", delegation_chain })), bad);
    await refused("GET /", withToken(rig.ambient({ delegation_edge_id: "e-revoked" })), bad);
    await refused("GET /", withToken(rig.ambient({ grant_id: "g-revoked" })), bad);
    rig.revoke("session", "session-1", "another-zone");
    assert.equal((await rig.call("/")).status, 200, "a session of that name in another zone is another session");
  });

  it("on a revocation state older than 10 s is 503, and passes again when the state is fresh", async () => {
    rig.setAge(10_001);
    await refused("GET /", withToken(rig.ambient()), {
      status: 503,
      error: "TemporarilyUnavailable",
      counter: "denials_revocation_stale",
    });
    assert.notEqual(await rig.role.ready.find((one) => one.name === "revocations")?.fault(), undefined);
    rig.setAge(0);
    assert.equal((await rig.call("/")).status, 200);
  });

  it("with a body over the limit is 413 before a byte of it is read", async () => {
    await refused(
      "POST /",
      { ...withToken(rig.ambient()), "Content-Length": String(1024 * 1024 + 1) },
      {
        status: 413,
        error: "RequestTooLarge",
        counter: "denials_too_large",
      },
    );
  });

  it("by CONNECT or TRACE is 405", async () => {
    const answer = await openRaw(rig.port);
    answer.write(requestText("TRACE /", withToken(rig.ambient())));
    assert.match(await answer.until(/\}$/), /^HTTP\/1.1 405 [^]*Allow: GET/);
    answer.destroy();
  });

  it("is in the ledger where the caller is known, and only counted where it is not", async () => {
    const before_count = rig.drafts.length;
    await rig.call("/", { token: "nonsense" });
    await rig.call("/", {
      token: rig.ambient({ target: ["resource://other"] }),
      headers: { "x-request-id": "known-1" },
    });
    const added = rig.drafts.slice(before_count);
    assert.equal(added.length, 1);
    assert.equal(added[0]?.event_type, "gateway.call");
    assert.equal(added[0]?.decision, "deny");
    assert.equal(added[0]?.request_id, "known-1");
    assert.equal(JSON.parse(added[0]?.metadata_json ?? "{}").reason, "resource_not_targeted");
    const summary = rig.role.services.find((service) => service.name === "gateway-summary");
    await (summary as unknown as { tick(): Promise<void> }).tick();
    const summed = rig.drafts.at(-1);
    assert.equal(summed?.event_type, "unauthenticated.summary");
    assert.equal(summed?.zone_id, "system");
    assert.ok(JSON.parse(summed?.metadata_json ?? "{}").by_reason.token_malformed >= 1);
    assert.ok(
      rig.drafts.every((draft) => !JSON.stringify(draft).includes("eyJ")),
      "no token is in the ledger",
    );
  });
});

describe("the STS's word", () => {
  let rig: Rig;
  before(async () => {
    rig = await createRig({ sts_timeout_ms: 150 });
  });
  after(() => rig.close());

  const CASES: readonly (readonly [string, number, string, string, number, string, readonly string[]])[] = [
    ["an agent session's end", 403, "access_denied", "agent_session_revoked", 403, "AccessDenied", ["denials_policy"]],
    ["a budget's end", 403, "access_denied", "delegation_budget_spent", 403, "AccessDenied", ["denials_policy"]],
    ["a policy's deny", 403, "access_denied", "policy_denied", 403, "AccessDenied", ["denials_policy"]],
    [
      "an evaluation that failed",
      403,
      "policy_eval_failed",
      "policy_budget_exceeded",
      403,
      "AccessDenied",
      ["denials_policy", "sts_exchange_errors"],
    ],
    ["a scope that is not allowed", 400, "invalid_scope", "scope_not_allowed", 403, "AccessDenied", ["denials_policy"]],
    ["a step-up", 401, "interaction_required", "step_up_required", 403, "InteractionRequired", ["denials_step_up"]],
    ["a revoked session", 403, "access_denied", "session_revoked", 401, "InvalidToken", ["denials_revoked"]],
    ["a session that is over", 403, "access_denied", "session_expired", 401, "InvalidToken", ["denials_policy"]],
    ["a rate limit", 429, "temporarily_unavailable", "rate_limited", 429, "RateLimited", ["denials_rate_limited"]],
    [
      "a part of it that is away",
      503,
      "temporarily_unavailable",
      "rate_limit_unavailable",
      503,
      "TemporarilyUnavailable",
      ["sts_exchange_errors"],
    ],
    [
      "a zone's policies that have used up their share",
      429,
      "temporarily_unavailable",
      "policy_units_exhausted",
      429,
      "RateLimited",
      ["denials_rate_limited"],
    ],
    [
      "a zone that has filled its share of the ledger",
      503,
      "temporarily_unavailable",
      "ledger_share",
      503,
      "TemporarilyUnavailable",
      [],
    ],
    ["its own failure", 500, "internal_error", "internal_error", 502, "BadGateway", ["sts_exchange_errors"]],
    [
      "a Gateway that it does not know",
      401,
      "invalid_client",
      "gateway_signature",
      502,
      "BadGateway",
      ["sts_exchange_errors"],
    ],
    ["a word that nobody knows", 418, "teapot", "teapot", 502, "BadGateway", ["sts_exchange_errors"]],
  ];
  it("on agent sessions and delegations is told from policy's, whatever of them it refuses", async () => {
    const about = Object.entries(problems).filter(
      ([reason, { error }]) =>
        (/^(?:agent_session|delegation)_/.test(reason) && error === "access_denied") ||
        reason === "resource_not_delegated",
    );
    assert.ok(about.length > 10);
    for (const [reason, { status, error }] of about) {
      const body = { error, error_description: "inside words", reason, requestId: "r" };
      rig.sts.answer = () => ({ ok: false, status, body });
      const answer = await rig.call("/");
      const said = (await answer.json()) as Record<string, unknown>;
      assert.deepEqual([answer.status, said["error"], said["reason"]], [403, "AccessDenied", reason]);
      assert.match(String(said["message"]), /agent session or the delegation/, reason);
    }
  });

  for (const [name, status, error, reason, expected_status, expected_error, counted] of CASES) {
    it(`${name} becomes ${expected_status} ${expected_error}`, async () => {
      const body = {
        error,
        error_description: "inside words",
        reason,
        requestId: "r",
        diagnostics: ["says the author"],
      };
      rig.sts.answer = () => ({ ok: false, status, body, ...(status === 429 ? { retry_after_s: 7 } : {}) });
      const names = [
        "denials_policy",
        "denials_step_up",
        "denials_rate_limited",
        "denials_revoked",
        "sts_exchange_errors",
      ];
      const before_counts = await Promise.all(names.map(rig.metric));
      const reached = rig.seen.length;
      const answer = await rig.call("/");
      const said = (await answer.json()) as Record<string, unknown>;
      assert.equal(answer.status, expected_status);
      assert.equal(said["error"], expected_error);
      assertShape(said, answer.headers);
      assert.ok(!JSON.stringify(said).includes("inside words"));
      if (expected_error === "BadGateway") assert.equal(said["diagnostics"], undefined);
      else assert.deepEqual([said["reason"], said["diagnostics"]], [reason, ["says the author"]]);
      if (status === 429) assert.equal(answer.headers.get("retry-after"), "7");
      const after_counts = await Promise.all(names.map(rig.metric));
      assert.deepEqual(
        names.filter((_, at) => (after_counts[at] ?? 0) > (before_counts[at] ?? 0)),
        counted,
      );
      assert.equal(rig.seen.length, reached);
    });
  }

  it("that does not come in time is 504, that can't be had 502, that lacks the directive 502", async () => {
    const errors = await rig.metric("sts_exchange_errors");
    let asked: Cancellation | undefined;
    rig.sts.answer = (_request, signal) => {
      asked = signal;
      return new Promise(() => undefined);
    };
    assert.equal((await rig.call("/")).status, 504);
    assert.equal(asked?.aborted, true, "who asks the STS over HTTP waits no longer, either");
    rig.sts.answer = () => Promise.reject(new StsTimeout());
    assert.equal((await rig.call("/")).status, 504);
    rig.sts.answer = () => Promise.reject(new Unavailable("sts"));
    assert.equal((await rig.call("/")).status, 502);
    rig.sts.answer = (request) => {
      const allowed = rig.allow(request);
      assert.ok(allowed.ok);
      return { ok: true, body: { ...allowed.body, upstreams: {} } };
    };
    assert.equal((await rig.call("/")).status, 502);
    assert.equal((await rig.metric("sts_exchange_errors")) - errors, 4);
  });

  it("is not waited for by a caller that has gone, and nothing reaches the upstream", async () => {
    let signal: Cancellation | undefined;
    rig.sts.answer = (_request, given) => {
      signal = given;
      return new Promise(() => undefined);
    };
    const reached = rig.seen.length;
    const raw = await openRaw(rig.port);
    raw.write(requestText("GET /", { Authorization: `Bearer ${rig.ambient()}`, "X-Caracal-Resource": RESOURCE }));
    await eventually(() => signal !== undefined);
    raw.destroy();
    await eventually(() => signal?.aborted === true, { timeout_ms: 140 });
    assert.equal(rig.seen.length, reached);
  });

  it("lets nothing through for a caller that has gone and whose answer waited behind another", async () => {
    const answers: ((answer: ExchangeAnswer) => void)[] = [];
    const refused = await rig.metric("requests_denied");
    rig.sts.answer = () => new Promise((resolve) => answers.push(resolve));
    rig.upstream(() => undefined);
    const reached = rig.seen.length;
    const raw = await openRaw(rig.port);
    const text = requestText("GET /", { Authorization: `Bearer ${rig.ambient()}`, "X-Caracal-Resource": RESOURCE });
    raw.write(text + text);
    await eventually(() => answers.length === 2);
    answers[0]?.(rig.allow({ resource: RESOURCE } as GatewayExchange));
    await eventually(() => rig.seen.length === reached + 1);
    raw.destroy();
    await eventually(() => rig.outcomes().some(({ cut }) => cut === "client"));
    answers[1]?.(rig.allow({ resource: RESOURCE } as GatewayExchange));
    await eventually(async () => (await rig.metric("requests_denied")) === refused + 1);
    assert.equal(rig.seen.length, reached + 1);
    rig.upstream((_request, response) => response.end("hello"));
  });

  it("is asked again about a token whose session was revoked while it spoke: the call is refused", async () => {
    rig.sts.answer = (request) => {
      rig.mark("session", "s-raced");
      return rig.allow(request);
    };
    const reached = rig.seen.length;
    const answer = await rig.call("/", { token: rig.ambient({ sid: "s-raced" }) });
    assert.equal(answer.status, 401);
    assert.equal(rig.seen.length, reached);
  });
});

describe("a mandate that an agent got itself", () => {
  it("passes once, as it is, without an exchange, and is kept in the ledger", async () => {
    const rig = await createRig();
    try {
      const token = rig.mandate({ jti: rig.claims().jti });
      const answers = await Promise.all(Array.from({ length: 5 }, () => rig.call("/", { token })));
      assert.deepEqual(answers.map((answer) => answer.status).sort(), [200, 401, 401, 401, 401]);
      assert.equal(rig.sts.exchanges.length, 0);
      assert.equal(rig.seen.length, 1);
      const sent = rig.seen[0]?.headers ?? [];
      assert.equal(sent[sent.findIndex((name) => name.toLowerCase() === "authorization") + 1], `Bearer ${token}`);
      assert.equal(await rig.metric("denials_jti_replay"), 4);
      const allowed = rig.drafts.find((draft) => draft.event_type === "gateway.call" && draft.decision === "allow");
      await eventually(() => rig.outcomes().length === 1);
      assert.equal(rig.outcomes()[0]?.decision_id, allowed?.id);
    } finally {
      await rig.close();
    }
  });

  it("that was issued before the memory of marks, or has no time in its jti, is refused", async () => {
    const rig = await createRig();
    try {
      const old = rig.mandate({ jti: "01900000-0000-7000-8000-000000000000" });
      const odd = rig.mandate({ jti: "not-a-uuid" });
      for (const token of [old, odd]) {
        const answer = await rig.call("/", { token });
        assert.equal(answer.status, 401);
        assert.equal(((await answer.json()) as { reason: string }).reason, "mandate_may_be_used");
      }
    } finally {
      await rig.close();
    }
  });

  it("reaches no upstream when its caller went away while it was marked", async () => {
    let marked = (): void => undefined;
    const marks = {
      prime: async () => undefined,
      once: () => new Promise<"marked">((resolve) => (marked = () => resolve("marked"))),
    };
    const rig = await createRig({ marks });
    try {
      const raw = await openRaw(rig.port);
      const before = marked;
      raw.write(requestText("GET /", { Authorization: `Bearer ${rig.mandate()}`, "X-Caracal-Resource": RESOURCE }));
      await eventually(() => marked !== before);
      raw.destroy();
      await eventually(() => new Promise((done) => rig.connections((count) => done(count === 0))));
      marked();
      await eventually(() => rig.outcomes().length === 1);
      assert.equal(rig.outcomes()[0]?.cut, "client");
      assert.equal(rig.seen.length, 0);
      assert.equal(await rig.metric("calls_running"), 0);
    } finally {
      await rig.close();
    }
  });

  it("is refused with 503 while marks can't be made, and is not used up by that", async () => {
    let down = true;
    const seen = new Set<string>();
    const marks = {
      prime: async () => undefined,
      async once(_kind: string, id: string) {
        if (down) throw new Unavailable("redis");
        return seen.has(id) ? ("seen" as const) : (seen.add(id), "marked" as const);
      },
    };
    const rig = await createRig({ marks });
    try {
      const token = rig.mandate();
      const answer = await rig.call("/", { token });
      assert.equal(answer.status, 503);
      assert.match(answer.headers.get("retry-after") ?? "", /^\d+$/);
      down = false;
      assert.equal((await rig.call("/", { token })).status, 200);
    } finally {
      await rig.close();
    }
  });

  it("is not used up by a refusal that came before the mark", async () => {
    const rig = await createRig({ upstream_url: "http://10.0.0.1:1/" });
    try {
      const token = rig.mandate();
      for (let at = 0; at < 2; at += 1) {
        const answer = await rig.call("/", { token });
        assert.equal(answer.status, 403);
        assert.equal(((await answer.json()) as { reason: string }).reason, "upstream_refused");
      }
      assert.equal(await rig.metric("denials_ssrf"), 2);
    } finally {
      await rig.close();
    }
  });
});
