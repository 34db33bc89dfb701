import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";
import { deleteOldChallenges } from "../../src/api/store/challenges.ts";
import { STREAMS } from "../../src/contracts/streams.ts";
import { uuidv7 } from "../../src/kernel/ids.ts";
import { call, expectOk, makeZone, serveApiAsGroup, type ServedApi } from "./serve.ts";

describe("step-up challenges", () => {
  let api: ServedApi;
  let zone_id: string;
  let token: string;
  let application_id: string;
  before(async () => {
    api = await serveApiAsGroup();
    ({ zone_id, token } = await makeZone(api));
    const body = { name: "agent", kind: "public" };
    application_id = (await expectOk(api.url, token, "createApplication", { params: { zone_id }, body })).id;
  });
  after(() => api.close());

  /** As the STS makes one. */
  const challenge = async (expires_in_s = 300, failures = 0): Promise<string> => {
    const id = uuidv7();
    await api.owner.sql`
      insert into step_up_challenges (zone_id, id, kind, secret_sha256, application_id, subject, scopes, method, path,
        body_sha256, body_json, failures, expires_at)
      values (${zone_id}, ${id}, 'human_approval', 'the-hash', ${application_id}, 'i|ann', '{pay}', 'POST', '/mcp', 'abc',
        '{"tool":"pay","arguments":{"amount":5}}', ${failures}, now() + make_interval(secs => ${expires_in_s}::integer))`;
    return id;
  };
  const decide = (name: "satisfyChallenge" | "rejectChallenge", id: string) =>
    call(api.url, token, name, { params: { zone_id, id } });

  it("show an approver all that is bound, and never the secret's hash", async () => {
    const id = await challenge();
    const shown = await expectOk(api.url, token, "getChallenge", { params: { zone_id, id } });
    assert.deepEqual(
      [shown.status, shown.method, shown.path, shown.scopes, shown.body_json],
      ["pending", "POST", "/mcp", ["pay"], '{"tool":"pay","arguments":{"amount":5}}'],
    );
    const listed = await call(api.url, token, "listChallenges", { params: { zone_id }, query: { status: "pending" } });
    assert.ok(listed.text.includes(id));
    assert.doesNotMatch(listed.text, /the-hash/);
  });

  it("are decided once, also by two at the same time, and record who did", async () => {
    const id = await challenge();
    const answers = await Promise.all([
      decide("satisfyChallenge", id),
      decide("rejectChallenge", id),
      decide("satisfyChallenge", id),
    ]);
    assert.deepEqual(answers.map((answer) => answer.status).toSorted(), [200, 409, 409]);
    assert.equal(answers.find((answer) => answer.status === 409)?.body.error, "challenge_not_pending");
    const shown = await expectOk(api.url, token, "getChallenge", { params: { zone_id, id } });
    assert.match(shown.decided_by ?? "", /^admin_token:/);
    const { items } = await expectOk(api.url, token, "listZoneAdminAudit", { params: { zone_id } });
    const entry = items.find((item) => item.object_id === id);
    assert.equal(entry?.actor, shown.decided_by);
    assert.match(entry?.action ?? "", /^step_up_challenge\.(satisfy|reject)$/);
    const told = await api.owner.sql<{ fields_json: string }[]>`
      select fields_json from outbox where zone_id = ${zone_id} and stream = ${STREAMS.config} and fields_json like ${`%${id}%`}`;
    assert.deepEqual(
      told.map((row) => JSON.parse(row.fields_json)),
      [{ kind: "challenge", id }],
      "those who wait at the STS hear of it, once",
    );
  });

  it("are forgotten seven days after their end, and an hour after it where nobody decided", async () => {
    const [old, decided, ancient, young] = await Promise.all([
      challenge(-3_601),
      challenge(-3_601),
      challenge(-8 * 86_400),
      challenge(-3_500),
    ]);
    await api.owner.sql`update step_up_challenges set decision = 'rejected', decided_by = 'x', decided_at = now()
      where id in (${decided}, ${ancient})`;
    await deleteOldChallenges(api.owner.sql, 100);
    const left = await api.owner.sql<{ id: string }[]>`
      select id from step_up_challenges where id in (${old}, ${decided}, ${ancient}, ${young})`;
    assert.deepEqual(left.map((row) => row.id).toSorted(), [decided, young].toSorted());
  });

  it("wait for nobody once they have expired, or had five wrong answers", async () => {
    for (const id of [await challenge(-1), await challenge(300, 5)]) {
      assert.equal((await decide("satisfyChallenge", id)).status, 409);
      const shown = await expectOk(api.url, token, "getChallenge", { params: { zone_id, id } });
      assert.equal(shown.status, "expired");
    }
    assert.equal((await decide("rejectChallenge", uuidv7())).status, 404);
  });
});
