import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";
import type { OAuthError } from "../../src/contracts/exchange.ts";
import { createRig, ISSUER, type Rig } from "./rig.ts";

const ID = "01a21faa-7012-797f-b78a-a8513128b8f7";
const SECRET = "c2VjcmV0LW9mLXRoZS1jaGFsbGVuZ2UtaW4tdGVzdHM";
const answering = { "X-Caracal-Challenge-Id": ID, "x-caracal-challenge-response": SECRET };

describe("a call that answers a challenge", () => {
  let rig: Rig;
  before(async () => {
    rig = await createRig();
  });
  after(() => rig.close());

  it("has id and secret in its exchange, and neither of them goes on to the upstream", async () => {
    const answer = await rig.call("/", { method: "PUT", body: "{}", headers: answering });
    assert.equal(answer.status, 200);
    const exchange = rig.sts.exchanges.at(-1);
    assert.deepEqual([exchange?.challenge_id, exchange?.challenge_response], [ID, SECRET]);
    const seen = JSON.stringify(rig.seen.at(-1));
    for (const part of [ID, SECRET, "challenge"]) assert.ok(!seen.toLowerCase().includes(part.toLowerCase()), part);
    assert.ok(!JSON.stringify(rig.drafts).includes(SECRET), "nor into the ledger");
  });

  it("has no member for them in the exchange's text where it has none", async () => {
    await rig.call("/");
    assert.doesNotMatch(JSON.stringify(rig.sts.exchanges.at(-1)), /challenge/);
  });

  it("brings both, each once, of a length that one can have, or is refused by name", async () => {
    const asked = rig.sts.exchanges.length;
    const odd: readonly Record<string, string>[] = [
      { "x-caracal-challenge-id": ID },
      { "x-caracal-challenge-response": SECRET },
      { ...answering, "x-caracal-challenge-response": "" },
      { ...answering, "X-Caracal-Challenge-Id": "i".repeat(129) },
    ];
    for (const headers of odd) {
      const answer = await rig.call("/", { headers });
      const body = (await answer.json()) as { error: string; message: string };
      assert.deepEqual([answer.status, body.error], [400, "InvalidRequest"]);
      assert.match(body.message, /X-Caracal-Challenge-Id and X-Caracal-Challenge-Response/);
    }
    assert.equal(rig.sts.exchanges.length, asked);
  });
});

describe("a call that the STS wants stepped up", () => {
  let rig: Rig;
  before(async () => {
    rig = await createRig();
  });
  after(() => rig.close());

  const refusedWith = async (body: Partial<OAuthError>) => {
    const error = {
      error: "interaction_required",
      error_description: "inside",
      reason: "step_up_required",
      requestId: "r",
    };
    rig.sts.answer = () => ({ ok: false, status: 401, body: { ...error, ...body } });
    const answer = await rig.call("/");
    const said = (await answer.json()) as Record<string, unknown>;
    assert.deepEqual([answer.status, said["error"]], [403, "InteractionRequired"]);
    assert.equal(answer.headers.get("www-authenticate"), null, "a stock client would log in again, for ever");
    assert.equal(answer.headers.get("cache-control"), "no-store");
    return said;
  };

  it("is told the challenge, its secret once, and where to wait", async () => {
    const expires_at = "2030-01-01T00:00:00.000Z";
    const told = { challenge_id: ID, challenge_type: "mfa", challenge_expires_at: expires_at };
    const wait_url = `${ISSUER}/step-up/${ID}`;
    const first = await refusedWith({ ...told, challenge_secret: SECRET, diagnostics: [{ step_up_required: "mfa" }] });
    assert.deepEqual(first["challenge"], { id: ID, type: "mfa", secret: SECRET, expires_at, wait_url });
    assert.deepEqual(first["diagnostics"], [{ step_up_required: "mfa" }]);
    const second = await refusedWith(told);
    assert.deepEqual(second["challenge"], { id: ID, type: "mfa", expires_at, wait_url });
    assert.ok(!JSON.stringify(rig.drafts).includes(SECRET));
  });

  it("is told why an answer does not hold, without a challenge that there is none of", async () => {
    const said = await refusedWith({ reason: "challenge_rejected" });
    assert.deepEqual([said["reason"], "challenge" in said], ["challenge_rejected", false]);
  });
});
