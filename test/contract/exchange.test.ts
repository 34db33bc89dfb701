import assert from "node:assert/strict";
import { describe, it } from "node:test";
import fc from "fast-check";
import {
  batchText,
  EXCHANGE,
  exchangeBytes,
  type GatewayExchange,
  lineText,
  MAX_EXCHANGES,
  readBatch,
  readLine,
} from "../../src/contracts/exchange.ts";

const text = fc.string({ minLength: 1, maxLength: 8 });
const exchange: fc.Arbitrary<GatewayExchange> = fc.record(
  {
    zone_id: text,
    subject_token: text,
    resource: text,
    scope: fc.string({ maxLength: 8 }),
    agent_session_id: text,
    delegation_edge_id: text,
    method: text,
    path: text,
    request_id: text,
    traceparent: text,
    challenge_id: text,
    challenge_response: text,
  },
  { requiredKeys: ["zone_id", "subject_token", "resource", "method", "path", "request_id", "traceparent"] },
);
const grant = fc.record(
  {
    access_token: text,
    token_type: fc.constant("Bearer" as const),
    expires_in: fc.integer(),
    scope: text,
    issued_token_type: fc.constant("urn:ietf:params:oauth:token-type:access_token" as const),
    target_resources: fc.array(text, { maxLength: 2 }),
    session_id: text,
    upstreams: fc.dictionary(
      fc.oneof(text, fc.constantFrom("constructor", "__proto__")),
      fc.record({ url: text, auth_mode: fc.constant("caracal_jwt" as const) }),
      { maxKeys: 2, noNullPrototype: true },
    ),
    decision_id: text,
    auth_exp: fc.integer(),
    agent_session_id: text,
    delegation_edge_id: text,
    grant_id: text,
    delegation_chain: fc.array(
      fc.record(
        { application_id: text, agent_session_id: text, delegation_edge_id: text },
        { requiredKeys: ["application_id", "agent_session_id"] },
      ),
      { maxLength: 2 },
    ),
  },
  {
    requiredKeys: [
      "access_token",
      "token_type",
      "expires_in",
      "scope",
      "issued_token_type",
      "target_resources",
      "session_id",
      "upstreams",
      "decision_id",
      "auth_exp",
    ],
  },
);
const OPTIONAL = new Set([
  "challenge_id",
  "challenge_response",
  "agent_session_id",
  "delegation_chain",
  "delegation_edge_id",
  "grant_id",
  "scope",
]);
const refusal = fc.record(
  { error: text, error_description: text, reason: text, requestId: text, diagnostics: fc.array(fc.jsonValue()) },
  { requiredKeys: ["error", "error_description", "reason", "requestId"] },
);
/** A value that is of no member's form. */
const NO_FORM = [null, true, {}, [[]]] as const;

/** Each way to spoil one member of an object: leave it out, or put in what is of no form. */
const spoilt = (whole: object): readonly (readonly [name: string, object])[] =>
  Object.keys(whole).flatMap((name) => [
    ...NO_FORM.filter((bad) => name !== "upstreams" || JSON.stringify(bad) !== "{}").map(
      (bad) => [name, { ...whole, [name]: bad }] as const,
    ),
    ...(OPTIONAL.has(name)
      ? []
      : [[name, Object.fromEntries(Object.entries(whole).filter(([other]) => other !== name))] as const]),
  ]);

describe("the hop from the Gateway to the STS", () => {
  it("reads a batch as it was written", () => {
    fc.assert(
      fc.property(fc.array(exchange, { minLength: 1, maxLength: 4 }), (exchanges) => {
        const read: unknown = readBatch(JSON.parse(batchText(exchanges)));
        assert.deepEqual(read, JSON.parse(JSON.stringify(exchanges)));
      }),
    );
  });

  it("names the member of an exchange that is missing, of another form, too long or unknown", () => {
    fc.assert(
      fc.property(exchange, exchange, (good, other) => {
        for (const [name, bad] of spoilt(other)) {
          assert.deepEqual(pathOf(readBatch({ exchanges: [good, bad] })), `exchanges.1.${name}`);
        }
        assert.equal(pathOf(readBatch({ exchanges: [{ ...good, more: 1 }] })), "exchanges.0.more");
        assert.equal(pathOf(readBatch({ exchanges: [{ ...good, zone_id: "z".repeat(129) }] })), "exchanges.0.zone_id");
        assert.equal(pathOf(readBatch({ exchanges: [{ ...good, path: "" }] })), "exchanges.0.path");
      }),
      { numRuns: 50 },
    );
  });

  it("takes a batch whole or not at all", () => {
    const one = fc.sample(exchange, 1)[0];
    for (const bad of [{}, { exchanges: {} }, { exchanges: [] }, { exchanges: Array(MAX_EXCHANGES + 1).fill(one) }])
      assert.equal(pathOf(readBatch(bad)), "exchanges");
    for (const bad of [null, [], 7, "x"]) assert.equal(pathOf(readBatch(bad)), "");
    assert.equal(pathOf(readBatch({ exchanges: [one], more: 1 })), "more");
    assert.equal(pathOf(readBatch({ exchanges: [one, 7] })), "exchanges.1");
  });

  it("never takes an exchange for smaller than it is", () => {
    const odd = fc.record(
      Object.fromEntries(Object.keys(EXCHANGE).map((name) => [name, fc.string({ unit: "binary", minLength: 1 })])),
    ) as fc.Arbitrary<GatewayExchange>;
    fc.assert(
      fc.property(odd, (value) => {
        assert.ok(exchangeBytes(value) >= Buffer.byteLength(JSON.stringify(value)));
      }),
    );
    const long = { ...(fc.sample(exchange, 1)[0] as GatewayExchange), path: "p".repeat(60_000) };
    assert.equal(exchangeBytes(long), Buffer.byteLength(JSON.stringify(long)), "measured where it could be too much");
  });

  it("reads a line as it was written, and passes over members that were not agreed on", () => {
    fc.assert(
      fc.property(grant, fc.integer({ min: 0, max: 3 }), (body, place) => {
        const line = lineText(place, { ok: true, body });
        const plain: unknown = JSON.parse(JSON.stringify(body));
        assert.deepEqual(readLine(line, 4), { exchange: place, answer: { ok: true, body: plain } });
        assert.ok(readLine(line.replace('"body":{', '"body":{"more":[1],'), 4)?.answer?.ok);
        assert.equal(readLine(line, place), undefined, "an exchange that was not asked for");
      }),
    );
    fc.assert(
      fc.property(
        refusal,
        fc.integer({ min: 400, max: 599 }),
        fc.option(fc.nat(999_999), { nil: undefined }),
        (body, status, wait) => {
          const read = readLine(lineText(0, { ok: false, status, body, retry_after_s: wait }), 1);
          const plain: unknown = JSON.parse(JSON.stringify(body));
          assert.deepEqual(read, { exchange: 0, answer: { ok: false, status, body: plain, retry_after_s: wait } });
        },
      ),
    );
  });

  it("takes no answer that lacks what was agreed on", () => {
    const line = (exchange_at: unknown, status: unknown, body: unknown, more: object = {}) =>
      readLine(JSON.stringify({ exchange: exchange_at, status, body, ...more }), 4);
    const good = { ...(fc.sample(grant, 1)[0] as object), upstreams: { r: { url: "u", auth_mode: "caracal_jwt" } } };
    const no = fc.sample(refusal, 1)[0] as object;
    for (const [name, bad] of spoilt(good))
      assert.deepEqual(line(0, 200, bad), { exchange: 0, answer: undefined }, name);
    for (const [name, bad] of spoilt(no)) {
      if (name !== "diagnostics") assert.deepEqual(line(0, 403, bad), { exchange: 0, answer: undefined }, name);
    }
    for (const directive of [1, {}, { url: 1, auth_mode: "caracal_jwt" }, { url: "u", auth_mode: "other" }])
      assert.equal(line(0, 200, { ...good, upstreams: { r: directive } })?.answer, undefined);
    for (const status of [0, 201, 399, 600, "200", 200.5]) assert.equal(line(0, status, good)?.answer, undefined);
    assert.equal(line(0, 429, no, { retry_after_s: 1_000_000 })?.answer, undefined);
    for (const place of [-1, 4, 0.5, "0", undefined]) assert.equal(line(place, 200, good), undefined);
    assert.equal(readLine("{", 4), undefined);
    assert.equal(readLine("[]", 4), undefined);
  });
});

const pathOf = (read: ReturnType<typeof readBatch>): string | undefined => ("path" in read ? read.path : undefined);
