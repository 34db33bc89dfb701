import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { after, before, describe, it } from "node:test";
import { STREAMS } from "../../src/contracts/streams.ts";
import { uuidv7 } from "../../src/kernel/ids.ts";
import type { PolicyCompiler } from "../../src/ports/policy.ts";
import { eventually } from "../support/eventually.ts";
import { call, expectOk, makeZone, send, serveApi, type ServedApi } from "./serve.ts";

const ALLOW = `package caracal.authz
import rego.v1
default result := {"decision": "deny", "evaluation_status": "complete", "determining_policies": [], "diagnostics": []}
result := {"decision": "allow", "evaluation_status": "complete", "determining_policies": ["team"], "diagnostics": []} if {
  "team:x" in input.principal.traits
}
`;

describe("policies and policy sets", () => {
  let api: ServedApi;
  before(async () => {
    api = await serveApi();
  });
  after(() => api.close());

  const makePolicy = async (zone: { zone_id: string; token: string }, name: string) => {
    const params = { zone_id: zone.zone_id };
    const policy = await expectOk(api.url, zone.token, "createPolicy", { params, body: { name } });
    const version = await expectOk(api.url, zone.token, "createPolicyVersion", {
      params: { ...params, id: policy.id },
      body: { source: ALLOW },
    });
    return { policy, version };
  };
  const makeSet = async (zone: { zone_id: string; token: string }, name: string, versions: readonly string[]) => {
    const params = { zone_id: zone.zone_id };
    const set = await expectOk(api.url, zone.token, "createPolicySet", { params, body: { name } });
    const entries = versions.map((policy_version_id) => ({ policy_version_id }));
    const version = await expectOk(api.url, zone.token, "createPolicySetVersion", {
      params: { ...params, id: set.id },
      body: { entries },
    });
    return { set, version };
  };

  it("are compiled when a version is written, and the version is all that an STS needs", async () => {
    const zone = await makeZone(api);
    const { policy, version } = await makePolicy(zone, "p");
    assert.equal(version.version, 1);
    assert.equal(version.source, ALLOW);
    assert.equal(version.source_sha256, createHash("sha256").update(ALLOW).digest("hex"));
    const [row] = await api.db.sql<{ wasm: Buffer }[]>`select wasm from policy_versions where id = ${version.id}`;
    assert.ok(row !== undefined && row.wasm.subarray(0, 4).equals(Buffer.from("\0asm")));
    assert.equal(createHash("sha256").update(row.wasm).digest("hex"), version.wasm_sha256);
    const params = { zone_id: zone.zone_id, id: policy.id };
    const next = await expectOk(api.url, zone.token, "createPolicyVersion", { params, body: { source: `${ALLOW}\n` } });
    assert.equal(next.version, 2);
    const { items } = await expectOk(api.url, zone.token, "listPolicyVersions", { params });
    assert.deepEqual(
      items.map((item) => item.version),
      [1, 2],
    );
    assert.deepEqual(
      await expectOk(api.url, zone.token, "getPolicyVersion", { params: { ...params, version_id: version.id } }),
      version,
    );
  });

  it("that are bad Rego are refused with the place of the fault, and leave nothing behind", async () => {
    const zone = await makeZone(api);
    const policy = await expectOk(api.url, zone.token, "createPolicy", {
      params: { zone_id: zone.zone_id },
      body: { name: "bad" },
    });
    const params = { zone_id: zone.zone_id, id: policy.id };
    for (const source of [
      "package caracal.authz\n\nresult := {",
      "package other\nresult := 1",
      "package caracal.authz\nx := http.send({})",
      "\ufeffnonsense",
    ]) {
      const answer = await call(api.url, zone.token, "createPolicyVersion", { params, body: { source } });
      assert.equal(answer.status, 422, answer.text);
      assert.equal(answer.body.error, "invalid_rego");
      assert.ok((answer.body.issues?.length ?? 0) > 0);
    }
    const broken = await call(api.url, zone.token, "createPolicyVersion", {
      params,
      body: { source: "package caracal.authz\n\nresult := {" },
    });
    const issue = broken.body.issues?.[0] as { row?: number; col?: number } | undefined;
    assert.equal(typeof issue?.row, "number");
    assert.equal(typeof issue?.col, "number");
    assert.deepEqual((await expectOk(api.url, zone.token, "listPolicyVersions", { params })).items, []);
    for (const source of ["", "\0", 5, null, "x".repeat(70_000)]) {
      assert.equal((await call(api.url, zone.token, "createPolicyVersion", { params, body: { source } })).status, 400);
    }
  });

  it("count their versions without a gap when several are written at once", async () => {
    const zone = await makeZone(api);
    const { policy, version } = await makePolicy(zone, "many");
    const params = { zone_id: zone.zone_id, id: policy.id };
    await Promise.all(
      Array.from({ length: 4 }, () =>
        expectOk(api.url, zone.token, "createPolicyVersion", { params, body: { source: ALLOW } }),
      ),
    );
    const { items } = await expectOk(api.url, zone.token, "listPolicyVersions", { params });
    assert.deepEqual(
      items.map((item) => item.version).toSorted((a, b) => a - b),
      [1, 2, 3, 4, 5],
    );
    const { set } = await makeSet(zone, "s", [version.id]);
    const body = { entries: [{ policy_version_id: version.id }] };
    await Promise.all(
      Array.from({ length: 4 }, () =>
        expectOk(api.url, zone.token, "createPolicySetVersion", {
          params: { zone_id: zone.zone_id, id: set.id },
          body,
        }),
      ),
    );
    const sets = await expectOk(api.url, zone.token, "listPolicySetVersions", {
      params: { zone_id: zone.zone_id, id: set.id },
    });
    assert.deepEqual(
      sets.items.map((item) => item.version).toSorted((a, b) => a - b),
      [1, 2, 3, 4, 5],
    );
  });

  it("decide from their activation on, which is told and can be asked for", async () => {
    const zone = await makeZone(api);
    const a = await makePolicy(zone, "a");
    const b = await makePolicy(zone, "b");
    const first = await makeSet(zone, "first", [b.version.id, a.version.id]);
    const second = await makeSet(zone, "second", [a.version.id]);
    assert.deepEqual(first.version.entries, [{ policy_version_id: b.version.id }, { policy_version_id: a.version.id }]);
    assert.notEqual(first.version.manifest_sha, second.version.manifest_sha);
    const at = (id: string) => ({ zone_id: zone.zone_id, id });
    const stateOf = (id: string) => expectOk(api.url, zone.token, "getActivation", { params: at(id) });
    assert.deepEqual(await stateOf(first.set.id), { revision: "none", active: null, replicas: [] });
    const { warnings, revision, ...activation } = await expectOk(api.url, zone.token, "activatePolicySet", {
      params: at(first.set.id),
      body: { version_id: first.version.id },
    });
    assert.deepEqual(await stateOf(first.set.id), { revision, active: activation, replicas: [] });
    assert.deepEqual(warnings, []);
    await expectOk(api.url, zone.token, "activatePolicySet", {
      params: at(second.set.id),
      body: { version_id: second.version.id },
    });
    assert.deepEqual(await stateOf(first.set.id), { revision: second.version.id, active: null, replicas: [] });
    const rows = await api.db.sql<{ fields_json: string }[]>`
      select fields_json from outbox where zone_id = ${zone.zone_id} and stream = ${STREAMS.policy} order by seq`;
    assert.deepEqual(
      rows.map((row) => JSON.parse(row.fields_json) as unknown),
      [
        { kind: "activation", id: first.version.id },
        { kind: "activation", id: second.version.id },
      ],
    );
  });

  it("replace only what was seen, where that is said: of two first activations that race one is told", async () => {
    const zone = await makeZone(api);
    const policy = await makePolicy(zone, "p");
    const sets = [
      await makeSet(zone, "first", [policy.version.id]),
      await makeSet(zone, "second", [policy.version.id]),
      await makeSet(zone, "third", [policy.version.id]),
    ] as const;
    const path = (id: string, word: string): string => `/v1/zones/${zone.zone_id}/policy-sets/${id}/${word}`;
    const activate = ({ set, version }: (typeof sets)[number], if_match: string) =>
      send(api.url, {
        method: "POST",
        path: path(set.id, "activate"),
        token: zone.token,
        body: { version_id: version.id },
        headers: { "if-match": if_match },
      });
    const tagOf = async (): Promise<string> =>
      (await send(api.url, { path: path(sets[2].set.id, "activation"), token: zone.token })).headers.get("etag") ?? "";
    const none = await tagOf();
    const racers = await Promise.all(sets.map((one) => activate(one, none)));
    assert.deepEqual(racers.map(({ status }) => status).toSorted(), [202, 412, 412]);
    const won = sets[racers.findIndex(({ status }) => status === 202)] as (typeof sets)[number];
    const next = sets.find((one) => one !== won) as (typeof sets)[number];
    const tag = await tagOf();
    assert.equal(tag, `"${won.version.id}"`, "it is the zone's, whichever set is asked");
    assert.equal((await activate(next, none)).body.error, "precondition_failed");
    assert.equal((await activate(next, tag)).status, 202);
    const { items } = await expectOk(api.url, zone.token, "listZoneAdminAudit", { params: { zone_id: zone.zone_id } });
    const { detail } = items.find(({ action }) => action === "policy_set.activate") ?? {};
    const versionIn = (side: string) => (detail?.[side] as { version_id?: string } | null)?.version_id;
    assert.deepEqual([versionIn("before"), versionIn("after")], [won.version.id, next.version.id]);
  });

  it("can't be archived while they decide, nor activated once archived", async () => {
    const zone = await makeZone(api);
    const used = await makePolicy(zone, "used");
    const set = await makeSet(zone, "s", [used.version.id]);
    const at = (id: string) => ({ zone_id: zone.zone_id, id });
    await expectOk(api.url, zone.token, "activatePolicySet", {
      params: at(set.set.id),
      body: { version_id: set.version.id },
    });
    const decides = await call(api.url, zone.token, "archivePolicy", { params: at(used.policy.id) });
    assert.deepEqual([decides.status, decides.body.error], [409, "policy_is_active"]);
    assert.deepEqual(decides.body.diagnostics, [{ kind: "policy_set", id: set.set.id, field: "entries" }]);
    const active = await call(api.url, zone.token, "archivePolicySet", { params: at(set.set.id) });
    assert.deepEqual([active.status, active.body.error], [409, "policy_set_is_active"]);
    assert.deepEqual(active.body.diagnostics, [{ kind: "zone", id: zone.zone_id, field: "active_policy_set" }]);

    const spare = await makePolicy(zone, "spare");
    const spare_set = await makeSet(zone, "spare", [spare.version.id]);
    await expectOk(api.url, zone.token, "archivePolicy", { params: at(spare.policy.id) });
    const refused = await call(api.url, zone.token, "activatePolicySet", {
      params: at(spare_set.set.id),
      body: { version_id: spare_set.version.id },
    });
    assert.equal(refused.status, 409);
    const entries = [{ policy_version_id: used.version.id }, { policy_version_id: spare.version.id }];
    const unusable = await call(api.url, zone.token, "createPolicySetVersion", {
      params: at(set.set.id),
      body: { entries },
    });
    assert.equal(unusable.status, 400);
    assert.equal(unusable.body.issues?.[0]?.path, "entries.1.policy_version_id");
    await expectOk(api.url, zone.token, "archivePolicySet", { params: at(spare_set.set.id) });
    assert.equal((await call(api.url, zone.token, "getPolicySet", { params: at(spare_set.set.id) })).status, 404);
  });

  it("that are archived and activated at the same instant end as one or the other", async () => {
    const zone = await makeZone(api);
    for (let round = 0; round < 5; round += 1) {
      const { policy, version } = await makePolicy(zone, `race-${round}`);
      const { set, version: set_version } = await makeSet(zone, `race-${round}`, [version.id]);
      const [archived, activated] = await Promise.all([
        call(api.url, zone.token, "archivePolicy", { params: { zone_id: zone.zone_id, id: policy.id } }),
        call(api.url, zone.token, "activatePolicySet", {
          params: { zone_id: zone.zone_id, id: set.id },
          body: { version_id: set_version.id },
        }),
      ]);
      assert.deepEqual(
        [archived.status, activated.status].toSorted(),
        archived.status === 204 ? [204, 409] : [202, 409],
      );
    }
  });

  it("of another zone are no members, and sets hold 1 to 256 different ones", async () => {
    const zone = await makeZone(api);
    const other = await makeZone(api);
    const { version } = await makePolicy(other, "theirs");
    const set = await expectOk(api.url, zone.token, "createPolicySet", {
      params: { zone_id: zone.zone_id },
      body: { name: "s" },
    });
    const mine = await makePolicy(zone, "mine");
    const lists = [
      [],
      [{ policy_version_id: version.id }],
      [{ policy_version_id: uuidv7() }],
      [{ policy_version_id: mine.version.id }, { policy_version_id: mine.version.id }],
      Array.from({ length: 257 }, () => ({ policy_version_id: uuidv7() })),
      Array.from({ length: 20_000 }, () => 1),
      [{}],
      [[]],
      [null],
    ];
    for (const entries of lists) {
      const answer = await call(api.url, zone.token, "createPolicySetVersion", {
        params: { zone_id: zone.zone_id, id: set.id },
        body: { entries },
      });
      assert.equal(answer.status, 400, JSON.stringify(entries).slice(0, 80));
      assert.ok((answer.body.issues?.length ?? 99) <= 32);
    }
    const set_id = set.id;
    const version_id = (await makeSet(other, "s", [version.id])).version.id;
    const stolen = await call(api.url, zone.token, "activatePolicySet", {
      params: { zone_id: zone.zone_id, id: set_id },
      body: { version_id },
    });
    assert.equal(stolen.status, 400);
    const shadow = await call(api.url, zone.token, "activatePolicySet", {
      params: { zone_id: zone.zone_id, id: set_id },
      body: { version_id, shadow_version_id: version_id },
    });
    assert.equal(shadow.body.issues?.[0]?.path, "shadow_version_id");
  });

  it("of a set have 16 MiB of modules together, and more is refused with the bound, its limit and the use", async () => {
    const zone = await makeZone(api);
    const [first, second] = [await makePolicy(zone, "first"), await makePolicy(zone, "second")];
    const half = 8 * 1024 * 1024;
    const sized = (id: string, bytes: number) =>
      api.owner.sql`update policy_versions set wasm = convert_to(repeat('x', ${bytes}::int), 'UTF8') where id = ${id}`;
    await sized(first.version.id, half);
    await sized(second.version.id, half + 1);
    const params = { zone_id: zone.zone_id };
    const set = await expectOk(api.url, zone.token, "createPolicySet", { params, body: { name: "large" } });
    const entries = [first, second].map(({ version }) => ({ policy_version_id: version.id }));
    const write = () =>
      call(api.url, zone.token, "createPolicySetVersion", { params: { ...params, id: set.id }, body: { entries } });
    const refused = await write();
    assert.deepEqual([refused.status, refused.body.error], [409, "quota_exceeded"]);
    const name = "policy_set_wasm_bytes";
    assert.deepEqual(refused.body.diagnostics, [{ name, limit: 2 * half, use: 2 * half + 1 }]);
    await sized(second.version.id, half);
    assert.equal((await write()).status, 201);
  });

  it("whose writing is cut off are not written later", async () => {
    const compiled = { ok: true, policy: { wasm: Uint8Array.of(0), wasm_sha256: "0".repeat(64) } } as const;
    let cancelled = false;
    const late: PolicyCompiler = {
      test: async () => ({ ok: true, tests: [] }),
      compile: (_source, _zone_id, { signal } = {}) =>
        new Promise((resolve) => {
          begun();
          signal?.addEventListener("abort", () => {
            cancelled = true;
            resolve(compiled); // as one that was ready in the very moment
          });
        }),
    };
    let begun = (): void => {};
    const started = new Promise<void>((resolve) => {
      begun = resolve;
    });
    const slow = await serveApi({ compiler: late });
    try {
      const zone = await makeZone(slow);
      const params = { zone_id: zone.zone_id };
      const policy = await expectOk(slow.url, zone.token, "createPolicy", { params, body: { name: "p" } });
      const gone = new AbortController();
      const path = `${slow.url}/v1/zones/${zone.zone_id}/policies/${policy.id}/versions`;
      const headers = { authorization: `Bearer ${zone.token}`, "content-type": "application/json" };
      const writing = fetch(path, {
        method: "POST",
        headers,
        body: JSON.stringify({ source: ALLOW }),
        signal: gone.signal,
      });
      await started;
      gone.abort();
      await assert.rejects(writing);
      await eventually(() => cancelled);
      await eventually(async () => (await slow.role.metrics.text()).includes('api_answers_total{status="408"} 1'));
      const { items } = await expectOk(slow.url, zone.token, "listPolicyVersions", {
        params: { ...params, id: policy.id },
      });
      assert.deepEqual(items, []);
    } finally {
      await slow.close();
    }
  });

  it("have names that are unique among the live ones of a zone", async () => {
    const zone = await makeZone(api);
    const params = { zone_id: zone.zone_id };
    const first = await expectOk(api.url, zone.token, "createPolicy", { params, body: { name: "same" } });
    const second = await call(api.url, zone.token, "createPolicy", { params, body: { name: "same" } });
    assert.equal(second.body.error, "name_taken");
    await expectOk(api.url, zone.token, "archivePolicy", { params: { ...params, id: first.id } });
    await expectOk(api.url, zone.token, "createPolicy", { params, body: { name: "same" } });
    await expectOk(api.url, zone.token, "createPolicySet", { params, body: { name: "same" } });
  });
});
