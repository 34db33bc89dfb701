import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";
import type { ApiOperation } from "../../src/contracts/api.ts";
import { documentId } from "../../src/domain/audit-document.ts";
import { inputRecordOf } from "../../src/domain/policy-input-record.ts";
import type { PolicyFacts } from "../../src/domain/policy-input.ts";
import { policyInputText } from "../../src/domain/policy-input-text.ts";
import { uuidv7 } from "../../src/kernel/ids.ts";
import { call, expectOk, makeZone, serveApi, type ServedApi } from "./serve.ts";

const answers = (decision: string, when: string): string => `package caracal.authz
default result := {"decision": "deny", "evaluation_status": "complete", "determining_policies": [], "diagnostics": []}
result := {"decision": "${decision}", "evaluation_status": "complete", "determining_policies": ["p"], "diagnostics": []} if ${when}
`;
const READS = answers("allow", `input.action.method == "GET"`);
const WRITES = answers("allow", `input.action.method == "PUT"`);
const ALL = answers("allow", "true");
const SESSION = uuidv7();
const SET = { policy_set_id: "s", policy_set_version_id: "v", manifest_sha: "m" };

const factsOf = (method: string): PolicyFacts => ({
  zone_id: "z",
  application: { id: "a", traits: [] },
  credential_type: "client_secret",
  resource: { id: "r", identifier: "resource://r", scopes: ["s"] },
  use: "per_call",
  requested_scopes: ["s"],
  now_ms: 0,
  method,
  path: "/",
  session_id: SESSION,
});
const inputOf = (method: string): object => JSON.parse(policyInputText(factsOf(method))) as object;

describe("policies before they decide", () => {
  let api: ServedApi;
  let zone_id: string;
  let token: string;
  before(async () => {
    api = await serveApi();
    ({ zone_id, token } = await makeZone(api));
  });
  after(() => api.close());

  const ask = (name: ApiOperation, body: unknown, id = uuidv7()) =>
    call(api.url, token, name, { params: { zone_id, id }, body });

  let names = 0;
  /** A set of one policy; its first version. */
  const setOf = async (...sources: readonly string[]): Promise<{ id: string; version_id: string }> => {
    names += 1;
    const params = { zone_id };
    const entries = [];
    for (const [n, source] of sources.entries()) {
      const policy = await expectOk(api.url, token, "createPolicy", { params, body: { name: `p${names}.${n}` } });
      const made = await expectOk(api.url, token, "createPolicyVersion", {
        params: { zone_id, id: policy.id },
        body: { source },
      });
      entries.push({ policy_version_id: made.id });
    }
    const set = await expectOk(api.url, token, "createPolicySet", { params, body: { name: `s${names}` } });
    const at = { zone_id, id: set.id };
    const version = await expectOk(api.url, token, "createPolicySetVersion", { params: at, body: { entries } });
    return { id: set.id, version_id: version.id };
  };
  const activate = ({ id, version_id }: { id: string; version_id: string }) =>
    expectOk(api.url, token, "activatePolicySet", { params: { zone_id, id }, body: { version_id } });

  it("come as templates that any admin can read and use as they are", async () => {
    const { items } = await expectOk(api.url, token, "listPolicyTemplates");
    assert.deepEqual(
      items.map(({ name }) => name),
      [
        "approval-for-writes",
        "argument-limits",
        "delegation-depth",
        "read-only-tools",
        "trait-and-scope",
        "working-hours",
      ],
    );
    assert.equal((await call(api.url, undefined, "listPolicyTemplates")).status, 401);
    const { id } = await expectOk(api.url, token, "createPolicy", { params: { zone_id }, body: { name: "template" } });
    const made = await expectOk(api.url, token, "createPolicyVersion", {
      params: { zone_id, id },
      body: { source: items[0]?.source },
    });
    assert.equal(made.source_sha256, items[0]?.source_sha256);
  });

  it("are tested by their own unit tests, each with its result", async () => {
    const tests = `package caracal.authz_test
import data.caracal.authz
test_reads if authz.result.decision == "allow" with input as {"action": {"method": "GET"}}
test_writes if authz.result.decision == "allow" with input as {"action": {"method": "PUT"}}
todo_test_later if false
`;
    const answer = await ask("testPolicy", { source: READS, tests });
    assert.equal(answer.status, 200, answer.text);
    const at = (name: string) => `data.caracal.authz_test.${name}`;
    assert.deepEqual(answer.body, {
      passed: 1,
      failed: 1,
      skipped: 1,
      tests: [
        { name: at("test_reads"), result: "pass", row: 3 },
        { name: at("test_writes"), result: "fail", row: 4 },
        { name: at("todo_test_later"), result: "skip", row: 5 },
      ],
    } as unknown);
  });

  it("are not tested by what reaches out, does not end, or is no Rego", async () => {
    const head = "package caracal.authz_test\n";
    const fetching = `${head}test_a if http.send({"method": "get", "url": "http://127.0.0.1:1"}).status == 1\n`;
    const annotated = `${head}# METADATA\n# schemas:\n#   - input: schema.x\ntest_a if true\n`;
    const endless = `${head}test_a if {
	some a in numbers.range(1, 9000)
	some b in numbers.range(1, 9000)
	a + b == 0
}
`;
    const said = async (source: string, tests: string) => {
      const { status, body } = await ask("testPolicy", { source, tests });
      return [status, body.error, body.issues?.[0]?.path, body.issues?.[0]?.message];
    };
    const refusals: readonly (readonly [string, RegExp])[] = [
      [fetching, /undefined function http.send/],
      [annotated, /annotations/],
      [endless, /can't be run within 5 s and 1024 MiB/],
      [`${head}test_a if {{`, /unexpected/],
      [head, /hold no test/],
    ];
    for (const [tests, words] of refusals) {
      const [status, error, path, message] = await said(READS, tests);
      assert.deepEqual([status, error, path], [422, "invalid_rego", "tests"], tests);
      assert.match(String(message), words);
    }
    const [status, error, path] = await said("package caracal.authz\nx := nonsense", `${head}test_a if true`);
    assert.deepEqual([status, error, path], [422, "invalid_rego", "source"]);
  });

  it("tell what they cost on inputs that come with their source", async () => {
    const { id } = await expectOk(api.url, token, "createPolicy", { params: { zone_id }, body: { name: "cost" } });
    const looping = answers("allow", "count([x | some x in numbers.range(1, 100000); x > 0]) > 0");
    const made = await expectOk(api.url, token, "createPolicyVersion", {
      params: { zone_id, id },
      body: { source: READS, test_inputs: [inputOf("GET"), inputOf("PUT")] },
    });
    assert.deepEqual(
      made.evaluations?.map(({ decision, evaluation_status }) => [decision, evaluation_status]),
      [
        ["allow", "complete"],
        ["deny", "complete"],
      ],
    );
    assert.ok(made.evaluations?.every(({ units }) => units > 100 && units < 60_000));
    const dear = await expectOk(api.url, token, "createPolicyVersion", {
      params: { zone_id, id },
      body: { source: looping, test_inputs: [inputOf("GET")] },
    });
    assert.equal(dear.evaluations?.[0]?.evaluation_status, "policy_budget_exceeded");
    const plain = await expectOk(api.url, token, "createPolicyVersion", {
      params: { zone_id, id },
      body: { source: READS },
    });
    assert.ok(!("evaluations" in plain));
    for (const test_inputs of [
      [{}],
      [{ principal: { id: "a" }, x: "y".repeat(70_000) }],
      Array(17).fill(inputOf("")),
    ]) {
      assert.equal((await ask("createPolicyVersion", { source: READS, test_inputs }, id)).status, 400);
    }
  });

  it("are simulated on one input, against what is active", async () => {
    const reads = await setOf(READS);
    const simulate = async (method: string) => {
      const body = { version_id: reads.version_id, input: inputOf(method) };
      const { results, examined } = await expectOk(api.url, token, "simulatePolicySet", {
        params: { zone_id, id: reads.id },
        body,
      });
      assert.equal(examined, 1);
      return [results[0]?.change, results[0]?.by_active.decision, results[0]?.by_version.decision];
    };
    const { active } = await expectOk(api.url, token, "getActivation", { params: { zone_id, id: reads.id } });
    assert.equal(active, null);
    assert.deepEqual(await simulate("GET"), ["deny_to_allow", "deny", "allow"]);
    await activate(await setOf(WRITES));
    assert.deepEqual(await simulate("GET"), ["deny_to_allow", "deny", "allow"]);
    assert.deepEqual(await simulate("PUT"), ["allow_to_deny", "allow", "deny"]);
    assert.deepEqual(await simulate("PATCH"), ["none", "deny", "deny"]);
    await activate(reads);
    assert.deepEqual(await simulate("GET"), ["none", "allow", "allow"]);
  });

  it("are simulated on the ledger's last decisions, of this zone alone", async () => {
    const theirs = await makeZone(api);
    const writes = await setOf(WRITES);
    await activate(await setOf(READS));
    let seq = 0;
    const keep = async (zone: string, event: Readonly<Record<string, string | null>>) => {
      seq += 1;
      const { id = null, event_type = null, evaluation_status = null, session_id = null, metadata_json = null } = event;
      await api.owner.sql`
        insert into audit_events (zone_id, chain_seq, form, id, event_type, decision, producer, producer_seq, evaluation_status,
          session_id, metadata_json, occurred_at, content_sha256, chain_hmac, key_id)
        values (${zone}, ${seq}, 1, ${id}::text::uuid, ${event_type}, 'allow', 'p', ${seq}, ${evaluation_status},
          ${session_id}::text::uuid, ${metadata_json}, '2026-01-31T23:59:59.999Z', '', '', 'k')`;
      await api.owner.sql`
        insert into audit_event_ids (id, zone_id, chain_seq) values (${id}::text::uuid, ${zone}, ${seq})`;
    };
    const event_type = "token.exchange";
    const say = (zone: string, metadata_json: string, evaluation_status: string | null = "complete") =>
      keep(zone, { id: uuidv7(), event_type, evaluation_status, metadata_json });
    const documents = new Set<string>();
    /** As an STS writes it: each document once in the zone, then the event that names it. */
    const judged = async (zone: string, method: string, evaluation_status: string | null = "complete") => {
      const event = { id: uuidv7(), event_type, session_id: SESSION, agent_session_id: null };
      const record = inputRecordOf(event, SET, factsOf(method), policyInputText(factsOf(method)));
      for (const { name, text } of record.documents) {
        const id = documentId(zone, "2026-01", name);
        if (!documents.has(id)) await keep(zone, { id, event_type: "document", metadata_json: text });
        documents.add(id);
      }
      const metadata_json = `{"evaluations":[{"units":1,"input":${record.record_json}}]}`;
      await keep(zone, { ...event, evaluation_status, metadata_json });
    };
    await judged(zone_id, "PUT");
    await judged(zone_id, "GET");
    await judged(theirs.zone_id, "PUT");
    await judged(zone_id, "DELETE");
    await say(zone_id, `{"evaluations":[{"decision":"deny","input":"too large to keep"}]}`);
    await say(zone_id, "{cut off");
    const lost = JSON.stringify({ sha256: "x", documents: ["gone", "gone", "gone"], scopes: [] });
    await say(zone_id, `{"evaluations":[{"input":${lost}}]}`);
    await judged(zone_id, "PUT", null);
    const simulate = (last: number) =>
      expectOk(api.url, token, "simulatePolicySet", {
        params: { zone_id, id: writes.id },
        body: { version_id: writes.version_id, last },
      });
    const all = await simulate(100);
    assert.deepEqual(
      [all.examined, all.without_input, all.complete, all.allow_to_deny, all.deny_to_allow],
      [3, 3, true, 1, 1],
    );
    assert.deepEqual(
      all.results.map(({ change, recorded }) => [change, recorded]),
      [
        ["allow_to_deny", "allow"],
        ["deny_to_allow", "allow"],
      ],
    );
    assert.equal((await simulate(4)).examined, 1);
  });

  it("are simulated within bounds, and only as what they are", async () => {
    const reads = await setOf(READS);
    const other = await setOf(READS);
    const input = inputOf("GET");
    const { version_id } = reads;
    for (const body of [
      { version_id },
      { version_id, input, last: 1 },
      { version_id, last: 0 },
      { version_id, last: 201 },
      { version_id: other.version_id, input },
      { version_id, input: {} },
    ]) {
      assert.equal((await ask("simulatePolicySet", body, reads.id)).status, 400, JSON.stringify(body).slice(0, 100));
    }
    const body = { version_id, input };
    const params = { zone_id, id: reads.id };
    // One token holds no more places than a zone's simulations have.
    const by = (at: number): string => (at % 2 === 0 ? token : api.global_token);
    const asked = Array.from({ length: 12 }, (_, at) => call(api.url, by(at), "simulatePolicySet", { params, body }));
    const many = await Promise.all(asked);
    const refused = many.filter(({ status }) => status !== 200);
    assert.ok(refused.length > 0 && refused.length < 12);
    for (const { status, body: said, text } of refused) {
      assert.deepEqual([status, said.error], [429, "quota_exceeded"]);
      assert.match(text, /waiting_simulations: limit 4/);
    }
  });

  it("that allow whatever comes are warned about when they are activated, and no others are", async () => {
    const everything = await activate(await setOf(ALL));
    assert.deepEqual(
      everything.warnings.map(({ code }) => code),
      ["allows_everything"],
    );
    const { items } = await expectOk(api.url, token, "listZoneAdminAudit", { params: { zone_id } });
    assert.match(JSON.stringify(items[0]), /allows_everything/);
    assert.deepEqual((await activate(await setOf(READS))).warnings, []);
    const guarded = answers("deny", `input.action.method == "DELETE"`);
    assert.deepEqual((await activate(await setOf(ALL, guarded))).warnings, [], "another member objects");
    const never = await activate(await setOf(answers("allow", "false")));
    assert.deepEqual(never.warnings, []);
  });

  it("are told by which STS they are run, as long as it lives", async () => {
    const reads = await setOf(READS);
    await activate(reads);
    const run = (replica: string, version_id: string) => api.owner.sql`
      insert into policy_activations (zone_id, replica, policy_set_id, policy_set_version_id, since)
      values (${zone_id}, ${replica}, ${reads.id}, ${version_id}, '2026-01-01T00:00:00Z')`;
    await api.owner.sql`insert into sts_replicas (replica) values ('one'), ('two'), ('dead')`;
    await api.owner.sql`update sts_replicas set seen_at = now() - interval '2 minutes' where replica = 'dead'`;
    await run("one", reads.version_id);
    await run("two", "older");
    await run("dead", reads.version_id);
    const { replicas } = await expectOk(api.url, token, "getActivation", { params: { zone_id, id: reads.id } });
    const since = "2026-01-01T00:00:00.000Z";
    assert.deepEqual(replicas, [
      { replica: "one", policy_set_id: reads.id, version_id: reads.version_id, since, current: true },
      { replica: "two", policy_set_id: reads.id, version_id: "older", since, current: false },
    ]);
  });
});
