import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { after, before, describe, it } from "node:test";
import { uuidv7 } from "../../src/kernel/ids.ts";
import { eventually } from "../support/eventually.ts";
import {
  ALLOW_AGENTS,
  type Answer,
  compile,
  type Fixture,
  type Module,
  startFixture,
  type TestApplication,
  type TestResource,
} from "./fixture.ts";

const SILENT = `package caracal.authz

default result := {"decision": "deny", "evaluation_status": "complete", "determining_policies": [], "diagnostics": []}
`;
const UNFINISHED = `package caracal.authz

result := {"decision": "allow", "evaluation_status": "partial", "determining_policies": ["u"], "diagnostics": []}
`;
const ENDLESS = `package caracal.authz

default result := {"decision": "allow", "evaluation_status": "complete", "determining_policies": [], "diagnostics": []}

result := {"decision": "deny", "evaluation_status": "complete", "determining_policies": ["e"], "diagnostics": [count(all)]}

all := [c | some a in numbers.range(1, 3000); some b in numbers.range(1, 3000); c := a * b]
`;

const unavailable = (answer: Answer, reason: string): void => {
  assert.deepEqual(
    [answer.status, answer.body["error"], answer.body["reason"]],
    [503, "temporarily_unavailable", reason],
    JSON.stringify(answer.body),
  );
  assert.ok(Number(answer.headers.get("retry-after")) >= 1);
  assert.ok(!("access_token" in answer.body));
};

describe("the STS when something is missing", () => {
  let f: Fixture;
  let zone: string;
  let app: TestApplication;
  let target: TestResource;
  let ambient: string;

  before(async () => {
    f = await startFixture();
    zone = await f.newZone();
    app = await f.newApplication(zone);
    target = await f.newResource(zone);
    await f.activate(zone, ALLOW_AGENTS);
    ambient = await eventually(async () => {
      const answer = await f.ambient(zone, app, { resource: target.identifier });
      return answer.status === 200 ? String(answer.body["access_token"]) : null;
    });
    assert.equal((await f.exchange(zone, app, ambient, target.identifier)).status, 200);
  });
  after(() => f.close());

  const newlyActive = async (...sources: readonly (string | Module)[]) => {
    const own = await f.newZone();
    const [owner, resource] = [await f.newApplication(own), await f.newResource(own)];
    if (sources.length > 0) await f.activate(own, ...sources);
    await eventually(async () => (await f.ambient(own, owner)).status !== 401);
    return { own, owner, resource };
  };

  describe("with the policy", () => {
    it("issues nothing without an active set, whether resources are named or not, and says so in the ledger", async () => {
      const { own, resource } = await newlyActive();
      for (const fields of [{}, { resource: resource.identifier }]) {
        const caller = await f.newApplication(own); // of its own: a denial that is repeated has no event to itself
        const answer = await eventually(async () => {
          const refused = await f.ambient(own, caller, fields);
          return refused.status === 401 ? null : refused;
        });
        assert.deepEqual(
          [answer.status, answer.body["error"], answer.body["reason"]],
          [403, "access_denied", "no_active_policy_set"],
        );
        assert.deepEqual(answer.body["diagnostics"], ["no_active_policy_set"]);
        const [event] = await f.eventsOf(String(answer.headers.get("x-request-id")));
        assert.deepEqual(
          [event?.decision, event?.evaluation_status, event?.diagnostics_json],
          ["deny", "no_active_policy_set", '["no_active_policy_set"]'],
        );
        assert.equal((JSON.parse(event?.metadata_json ?? "{}") as { reason: string }).reason, "no_active_policy_set");
      }
      const [count] = await f.db.sql<{ n: number }[]>`select count(*)::int as n from sessions where zone_id = ${own}`;
      assert.equal(count?.n, 0);
    });

    it("opens with an activation, which is logged by its version though nobody asks", async () => {
      const own = await f.newZone();
      const version_id = await f.activate(own, ALLOW_AGENTS);
      const line = await eventually(
        () => f.logged.find((one) => one.includes("policy_recompiled") && one.includes(version_id)) ?? null,
      );
      const facts = JSON.parse(line) as Record<string, unknown>;
      assert.deepEqual(
        [facts["zone_id"], facts["policy_set_version_id"], facts["members"], facts["complete"]],
        [own, version_id, 1, true],
      );
      assert.equal(typeof facts["policy_set_id"], "string");
    });

    it("denies where every member is silent", async () => {
      const { own, owner, resource } = await newlyActive(SILENT);
      const answer = await f.ambient(own, owner, { resource: resource.identifier });
      assert.deepEqual([answer.status, answer.body["reason"]], [403, "policy_denied"]);
    });

    it("denies everything with a set whose member is not complete", async () => {
      const { own, owner, resource } = await newlyActive(ALLOW_AGENTS, UNFINISHED);
      const answer = await f.ambient(own, owner, { resource: resource.identifier });
      assert.deepEqual(
        [answer.status, answer.body["error"], answer.body["reason"]],
        [403, "policy_eval_failed", "policy_set_incomplete"],
      );
    });

    it("denies everything, named resources or not, with a set whose member can't be loaded, or is not what was compiled", async () => {
      const garbage = Buffer.from([0, 97, 115, 109, 1, 0, 0, 0]);
      const unloadable = { wasm: garbage, wasm_sha256: createHash("sha256").update(garbage).digest("hex") };
      const swapped = { ...(await compile(ALLOW_AGENTS)), wasm_sha256: (await compile(SILENT)).wasm_sha256 };
      for (const broken of [unloadable, swapped]) {
        const { own, owner, resource } = await newlyActive(ALLOW_AGENTS, broken);
        for (const fields of [{}, { resource: resource.identifier }]) {
          const answer = await f.ambient(own, owner, fields);
          assert.deepEqual(
            [answer.status, answer.body["error"], answer.body["reason"]],
            [403, "policy_eval_failed", "policy_set_incomplete"],
          );
        }
      }
    });

    it("stops a policy that runs out of steps, and after three times asks it no more for a while", async () => {
      const { own, owner, resource } = await newlyActive(ENDLESS);
      const reasons: unknown[] = [];
      for (let i = 0; i < 4; i += 1)
        reasons.push((await f.ambient(own, owner, { resource: resource.identifier })).body["reason"]);
      assert.deepEqual(reasons, [
        "policy_budget_exceeded",
        "policy_budget_exceeded",
        "policy_budget_exceeded",
        "policy_quarantined",
      ]);
      assert.equal((await f.exchange(zone, app, ambient, target.identifier)).status, 200, "no other zone is concerned");
    });
  });

  describe("with the ledger", () => {
    it("hands out nothing that it can't write down", async () => {
      f.ledger.refuse = true;
      try {
        unavailable(await f.exchange(zone, app, ambient, target.identifier), "audit_unavailable");
        unavailable(await f.ambient(zone, app), "audit_unavailable");
      } finally {
        f.ledger.refuse = false;
      }
      assert.equal((await f.exchange(zone, app, ambient, target.identifier)).status, 200);
    });
  });

  describe("with its keys", () => {
    it("issues nothing where the zone has none, or the seal does not open, and writes no session", async () => {
      const { own, owner } = await newlyActive(ALLOW_AGENTS);
      await f.change(
        own,
        "key",
        (tx) => tx`update zone_keys set sealed_private = 'v1.00000000.AAAA' where zone_id = ${own}`,
      );
      const count = async () =>
        (await f.db.sql<{ n: number }[]>`select count(*)::int as n from sessions where zone_id = ${own}`)[0]?.n;
      await eventually(async () => (await f.ambient(own, owner)).body["reason"] === "signing_key_unavailable");
      const sessions = await count();
      unavailable(await f.ambient(own, owner), "signing_key_unavailable");
      await f.change(own, "key", (tx) => tx`delete from zone_keys where zone_id = ${own}`);
      await eventually(async () => (await f.ambient(own, owner)).body["reason"] === "signing_key_missing");
      assert.equal(await count(), sessions);
    });
  });

  describe("with Redis", () => {
    it("refuses every token while it is away, says so when it is asked whether it is ready, and comes back by itself", async () => {
      await f.redis.stop();
      unavailable(await f.exchange(zone, app, ambient, target.identifier), "rate_limit_unavailable");
      unavailable(await f.ambient(zone, app), "rate_limit_unavailable");
      assert.equal((await fetch(`${f.url}/ready`)).status, 503);
      assert.equal((await fetch(`${f.url}/.well-known/jwks.json?zone_id=${zone}`)).status, 200, "keys need no Redis");
      await f.redis.start();
      await eventually(async () => (await f.exchange(zone, app, ambient, target.identifier)).status === 200, {
        timeout_ms: 15_000,
      });
      await eventually(async () => (await fetch(`${f.url}/ready`)).status === 200, { timeout_ms: 15_000 });
    });

    it("refuses within its timeout where it hangs", async () => {
      f.redis.pause();
      try {
        unavailable(await f.exchange(zone, app, ambient, target.identifier), "rate_limit_unavailable");
      } finally {
        f.redis.resume();
      }
      await eventually(async () => (await f.exchange(zone, app, ambient, target.identifier)).status === 200, {
        timeout_ms: 15_000,
      });
    });
  });

  describe("with the database", () => {
    it("goes on for a while with what it knows, begins nothing new, and comes back by itself", async () => {
      assert.equal((await f.exchange(zone, app, ambient, target.identifier)).status, 200);
      f.database.refuse();
      f.database.cutAll();
      assert.equal((await f.exchange(zone, app, ambient, target.identifier)).status, 200);
      unavailable(await f.ambient(uuidv7(), app), "zone_unavailable");
      unavailable(await f.ambient(zone, app), "session_not_written");
      f.clock.forward(31_000);
      unavailable(await f.exchange(zone, app, ambient, target.identifier), "zone_unavailable");
      assert.equal((await fetch(`${f.url}/ready`)).status, 503);
      f.database.heal();
      await eventually(async () => (await f.exchange(zone, app, ambient, target.identifier)).status === 200, {
        timeout_ms: 15_000,
      });
      await eventually(async () => (await fetch(`${f.url}/ready`)).status === 200, { timeout_ms: 15_000 });
    });
  });
});
