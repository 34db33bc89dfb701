import assert from "node:assert/strict";
import { createGraph } from "./graph.ts";
import { createHash } from "node:crypto";
import { after, before, describe, it } from "node:test";
import { uuidv7 } from "../../src/kernel/ids.ts";
import { documentsAmong, rebuiltInputs } from "../audit/rebuilt.ts";
import { eventually } from "../support/eventually.ts";
import { ASKS, type Call, refused, startStepUp, type StepUp, WRITE } from "./step-up-fixture.ts";

const interaction = (answer: Awaited<ReturnType<StepUp["call"]>>, reason: string): void =>
  refused(answer, 401, "interaction_required", reason);

describe("a call that policy wants stepped up", () => {
  let s: StepUp;
  before(async () => {
    s = await startStepUp();
  });
  after(() => s.f.close());

  it("is told a challenge, and its secret, of which the table has the hash", async () => {
    const answer = await s.call(s.fresh());
    interaction(answer, "step_up_required");
    const { body } = answer;
    assert.equal(body["challenge_type"], "human_approval");
    assert.deepEqual(body["diagnostics"], [{ step_up_required: "human_approval" }]);
    const secret = String(body["challenge_secret"]);
    assert.equal(Buffer.from(secret, "base64url").byteLength, 32);
    const left_ms = Date.parse(String(body["challenge_expires_at"])) - Date.now();
    assert.ok(left_ms > 200_000 && left_ms < 400_000, "five minutes");
    const row = await s.row(String(body["challenge_id"]));
    assert.equal(row?.secret_sha256, createHash("sha256").update(secret).digest("hex"));
    const events = await s.f.eventsOf(String(answer.headers.get("x-request-id")));
    const [event] = events;
    assert.deepEqual([events.length, event?.decision], [1, "deny"]);
    const metadata = JSON.parse(event?.metadata_json ?? "{}") as Record<string, unknown>;
    assert.deepEqual([metadata["reason"], metadata["challenge_id"]], ["step_up_required", body["challenge_id"]]);
    const everything = JSON.stringify(await s.f.events()) + s.f.logged.join("\n");
    assert.ok(!everything.includes(secret), "in the ledger and the log there is no secret");
  });

  it("gets the same challenge when it asks again, without the secret, and twenty at once make one", async () => {
    const fields = s.fresh();
    const before_count = await s.count();
    const answers = await Promise.all(Array.from({ length: 20 }, () => s.call(fields)));
    for (const answer of answers) interaction(answer, "step_up_required");
    assert.equal(new Set(answers.map(({ body }) => body["challenge_id"])).size, 1);
    assert.equal(answers.filter(({ body }) => body["challenge_secret"] !== undefined).length, 1);
    assert.equal((await s.count()) - before_count, 1);
  });

  it("passes once it was approved, and the ledger says by which challenge", async () => {
    const fields = s.fresh();
    const asked = await s.ask(fields);
    const early = await s.call({ ...fields, ...s.answering(asked) });
    interaction(early, "challenge_pending");
    assert.equal(early.body["challenge_id"], asked.id);
    await s.decide(asked.id, "satisfied");
    const answer = await s.call({ ...fields, ...s.answering(asked) });
    assert.equal(answer.status, 200, JSON.stringify(answer.body));
    assert.equal((await s.row(asked.id))?.failures, 0, "asking early was no failure");
    const [event] = await s.f.eventsOf(String(answer.headers.get("x-request-id")));
    assert.ok(event !== undefined);
    assert.equal(event.decision, "allow");
    assert.equal((JSON.parse(event.metadata_json ?? "{}") as Record<string, unknown>)["challenge_id"], asked.id);
    const [input] = rebuiltInputs(event, documentsAmong(await s.f.events()));
    assert.equal(input?.context.challenge_resolved, true);
    interaction(await s.call({ ...fields, ...s.answering(asked) }), "challenge_consumed");
  });

  it("gets one mandate of fifty retries at the same time", async () => {
    const fields = s.fresh();
    const asked = await s.ask(fields);
    await s.decide(asked.id, "satisfied");
    const answers = await Promise.all(Array.from({ length: 50 }, () => s.call({ ...fields, ...s.answering(asked) })));
    assert.equal(answers.filter(({ status }) => status === 200).length, 1);
    for (const answer of answers) if (answer.status !== 200) interaction(answer, "challenge_consumed");
    const allows = (await s.f.events()).filter(
      (event) => event.metadata_json?.includes(asked.id) && event.decision === "allow",
    );
    assert.equal(allows.length, 1);
  });

  it("takes an approval and a budget together, or neither of them", async () => {
    const graph = createGraph(s.f, s.zone);
    const giver = await graph.agent(await s.f.newApplication(s.zone));
    const agent = await graph.agent(s.app);
    const edge = await graph.edge(giver, agent, { exchanges_max: 1 });
    const calls = [s.fresh(), s.fresh()].map((call) => ({
      ...call,
      agent_session_id: agent.id,
      delegation_edge_id: edge,
    }));
    const asked = await Promise.all(calls.map((fields) => s.ask(fields)));
    for (const { id } of asked) await s.decide(id, "satisfied");
    const tries = calls.flatMap((fields, at) => {
      const answer = asked[at];
      return answer === undefined ? [] : Array.from({ length: 8 }, () => s.call({ ...fields, ...s.answering(answer) }));
    });
    const answers = await Promise.all(tries);
    assert.equal(answers.filter(({ status }) => status === 200).length, 1);
    assert.deepEqual(await graph.used(edge), { exchanges_used: 1, cost_used: 0 });
    const used = await Promise.all(asked.map(async ({ id }) => (await s.row(id))?.consumed_at ?? null));
    assert.equal(used.filter((at) => at !== null).length, 1, "the approval that no mandate came of is still good");
  });

  it("keeps its approval where policy denies after all", async () => {
    const fields = s.fresh();
    const asked = await s.ask(fields);
    await s.decide(asked.id, "satisfied");
    assert.equal(await s.traced({ ...fields, ...s.answering(asked) }), 403);
    assert.equal((await s.row(asked.id))?.consumed_at, null);
    assert.equal((await s.call({ ...fields, ...s.answering(asked) })).status, 200);
  });

  it("is refused for good where policy asks again of what was approved", async () => {
    const fields = { ...WRITE, call_path: "/again" };
    const asked = await s.ask(fields);
    await s.decide(asked.id, "satisfied");
    const before_count = await s.count();
    refused(await s.call({ ...fields, ...s.answering(asked) }), 403, "access_denied", "policy_denied");
    assert.deepEqual([await s.count(), (await s.row(asked.id))?.consumed_at], [before_count, null]);
  });

  it("is refused for good once it was rejected, and can't ask for another until that has ended", async () => {
    const fields = s.fresh();
    const asked = await s.ask(fields);
    await s.decide(asked.id, "rejected");
    interaction(await s.call({ ...fields, ...s.answering(asked) }), "challenge_rejected");
    const again = await s.call(fields);
    interaction(again, "challenge_rejected");
    assert.equal(again.body["challenge_id"], undefined);
    await s.decide(asked.id, "satisfied");
    interaction(await s.call({ ...fields, ...s.answering(asked) }), "challenge_rejected");
    await s.expire(asked.id);
    assert.notEqual((await s.ask(fields)).id, asked.id);
  });

  it("is refused once its time is over, approved or not, and then gets another challenge", async () => {
    const fields = s.fresh();
    const asked = await s.ask(fields);
    await s.decide(asked.id, "satisfied");
    await s.expire(asked.id);
    interaction(await s.call({ ...fields, ...s.answering(asked) }), "challenge_dead");
    const another = await s.ask(fields);
    assert.notEqual(another.id, asked.id);
    assert.notEqual(another.secret, "undefined");
  });

  it("loses its approval, and gives no mandate out, where the ledger does not take the allow", async () => {
    const fields = s.fresh();
    const asked = await s.ask(fields);
    await s.decide(asked.id, "satisfied");
    s.f.ledger.refuse = true;
    try {
      refused(await s.call({ ...fields, ...s.answering(asked) }), 503, "temporarily_unavailable", "audit_unavailable");
    } finally {
      s.f.ledger.refuse = false;
    }
    interaction(await s.call({ ...fields, ...s.answering(asked) }), "challenge_consumed");
  });

  it("is refused where the challenge can't be written, and no half of it stays", async () => {
    const fields = s.fresh();
    const asked = await s.ask(s.fresh());
    await s.decide(asked.id, "satisfied");
    const before_count = await s.count();
    s.f.database.refuse();
    s.f.database.cutAll();
    try {
      refused(await s.call(fields), 503, "temporarily_unavailable", "challenge_unavailable");
      refused(
        await s.call({ ...fields, ...s.answering(asked) }),
        503,
        "temporarily_unavailable",
        "challenge_unavailable",
      );
    } finally {
      s.f.database.heal();
    }
    await eventually(async () => interaction(await s.call(fields), "step_up_required"));
    assert.equal((await s.count()) - before_count, 1);
  });

  it("costs what it did before where no challenge is in it: no statement, two round trips", async () => {
    const reading: Call = { call_method: "GET", call_path: "/orders" };
    assert.equal((await s.call(reading)).status, 200);
    const [statements, trips] = [s.f.statements(), s.f.roundTrips()];
    for (let i = 0; i < 3; i += 1) assert.equal((await s.call(reading)).status, 200);
    assert.equal(s.f.statements() - statements, 0);
    assert.ok(s.f.roundTrips() - trips <= 6, `${s.f.roundTrips() - trips} round trips for three exchanges`);
  });

  it("costs one statement to read an answer, and one to use it up", async () => {
    const fields = s.fresh();
    const asked = await s.ask(fields);
    await s.decide(asked.id, "satisfied");
    const before_count = s.f.statements();
    assert.equal((await s.call({ ...fields, ...s.answering(asked) })).status, 200);
    assert.equal(s.f.statements() - before_count, 2);
  });

  it("is none for an ambient token, and half an answer is none", async () => {
    const [id, secret] = [uuidv7(), "x".repeat(43)];
    for (const fields of [{ challenge_id: id }, { challenge_response: secret }] as readonly Call[]) {
      refused(await s.f.ambient(s.zone, s.app, fields), 400, "invalid_request", "field_not_allowed");
      refused(await s.call({ ...WRITE, ...fields }), 400, "invalid_request", "challenge_incomplete");
    }
  });
});

describe("an approval", () => {
  let s: StepUp;
  before(async () => {
    s = await startStepUp();
  });
  after(() => s.f.close());

  it("is for the very call that was approved: whatever of it is changed, it is refused, and left for that call", async () => {
    const fields = { ...s.fresh(), scope: "read write" };
    const asked = await s.ask(fields);
    await s.decide(asked.id, "satisfied");
    const answer = { ...fields, ...s.answering(asked) };
    const second = await s.ambientOf(s.app); // another session of the same application
    const changed: readonly (readonly [string, Promise<Awaited<ReturnType<StepUp["call"]>>>])[] = [
      ["session", s.call(answer, { token: second })],
      ["resource", s.call(answer, { resource: s.other })],
      ["fewer scopes", s.call({ ...answer, scope: "read" })],
      ["method", s.call({ ...answer, call_method: "PUT" })],
      ["path", s.call({ ...answer, call_path: "/orders/7" })],
    ];
    for (const [what, result] of changed) {
      const { status, body } = await result;
      assert.deepEqual([what, status, body["reason"]], [what, 401, "challenge_for_another_call"]);
    }
    // In another order they are the same scopes.
    assert.equal((await s.call({ ...answer, scope: "write read" })).status, 200);
  });

  it("is worth nothing to another application, nor in another zone", async () => {
    const fields = s.fresh();
    const asked = await s.ask(fields);
    await s.decide(asked.id, "satisfied");
    const stranger = await s.f.newApplication(s.zone);
    const token = await s.ambientOf(stranger);
    interaction(
      await s.call({ ...fields, ...s.answering(asked) }, { application: stranger, token }),
      "challenge_response_wrong",
    );
    const elsewhere = await startZone(s);
    interaction(await elsewhere.call({ ...fields, ...s.answering(asked) }), "challenge_response_wrong");
    assert.deepEqual(
      [(await s.row(asked.id))?.failures, (await s.call({ ...fields, ...s.answering(asked) })).status],
      [0, 200],
    );
  });

  it("ends with the policy that asked for it", async () => {
    const fields = s.fresh();
    const asked = await s.ask(fields);
    await s.decide(asked.id, "satisfied");
    const version = await s.activate();
    await eventually(async () => {
      const { id } = await s.ask(s.fresh());
      assert.equal((await s.row(id))?.policy_set_version_id, version);
    });
    interaction(await s.call({ ...fields, ...s.answering(asked) }), "challenge_for_another_call");
    const another = await s.ask(fields);
    assert.notEqual(another.id, asked.id);
    assert.equal((await s.row(another.id))?.policy_set_version_id, version);
  });

  it("ends with its session", async () => {
    const own = await s.f.newApplication(s.zone);
    const ambient = await s.f.ambient(s.zone, own);
    const token = String(ambient.body["access_token"]);
    const fields = s.fresh();
    const { body } = await s.call(fields, { application: own, token });
    const asked = { id: String(body["challenge_id"]), secret: String(body["challenge_secret"]) };
    await s.decide(asked.id, "satisfied");
    await s.f.revokeSession(s.zone, String(ambient.body["session_id"]));
    await eventually(async () => {
      const reading = await s.call({ call_method: "GET", call_path: "/" }, { application: own, token });
      refused(reading, 403, "access_denied", "session_revoked");
    });
    const answer = await s.call({ ...fields, ...s.answering(asked) }, { application: own, token });
    refused(answer, 403, "access_denied", "session_revoked");
    assert.equal((await s.row(asked.id))?.consumed_at, null);
  });
});

/** Another zone of the same server, with the same policy. */
const startZone = async ({ f }: StepUp) => {
  const zone = await f.newZone();
  const app = await f.newApplication(zone);
  const target = await f.newResource(zone);
  await f.activate(zone, ASKS);
  const ambient = await eventually(async () => {
    const found = await f.ambient(zone, app);
    return found.status === 200 ? String(found.body["access_token"]) : null;
  });
  const call = (fields: Call) => f.exchange(zone, app, ambient, target.identifier, fields);
  await eventually(async () => assert.equal((await call({})).status, 200));
  return { call };
};
