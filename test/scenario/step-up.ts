import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { callApi } from "../support/control-plane.ts";
import { HOP_PAGE } from "../support/everything.ts";
import { eventually } from "../support/eventually.ts";
import { ambientToken, type Answer, askMandate, callGateway, newRequestId } from "./agent.ts";
import { metadataOf } from "./ledger.ts";
import { newAgent, type TestResource, type Topology } from "./topology.ts";

type Challenge = {
  readonly id: string;
  readonly secret?: string;
  readonly wait_url: string;
  readonly expires_at: string;
};

/** What a killed process had taken from the stream and not chained is another's to take after 30 s. */
const INGESTED_WITHIN_MS = 45_000;

const challengeIn = (answer: Answer): Challenge => {
  assert.deepEqual([answer.status, answer.body["error"]], [403, "InteractionRequired"], JSON.stringify(answer.body));
  assert.equal(answer.headers.get("www-authenticate"), null, "nobody is to log in again");
  return answer.body["challenge"] as Challenge;
};

const headersOf = (id: string, secret: string): Readonly<Record<string, string>> => ({
  "x-caracal-challenge-id": id,
  "x-caracal-challenge-response": secret,
});

const decide = async (t: Topology, id: string, decision: "satisfy" | "reject"): Promise<Record<string, unknown>> => {
  const path = `/v1/zones/${t.zone.id}/step-up-challenges/${id}/${decision}`;
  const answer = await callApi(t.api_url, t.zone.admin_token, "POST", path);
  assert.equal(answer.status, 200, JSON.stringify(answer.body));
  return answer.body as Record<string, unknown>;
};

/** An agent whose writes the template wants approved. */
const caller = async (t: Topology) => {
  const { application, resource } = await newAgent(t, t.zone, { traits: ["agent", "needs-approval"] });
  const { token } = await ambientToken(t, t.zone, application);
  const put = (headers: Readonly<Record<string, string>> = {}, path = HOP_PAGE, request_id = newRequestId()) =>
    callGateway(t, token, resource, { method: "PUT", body: "{}", headers, path, request_id });
  return { application, resource, token, put };
};
const reached = (t: Topology, resource: TestResource): number => t.hop.calls(resource.identifier).length;

/** Somebody vouches for a call: asked for by policy, approved through the API, spent once. */
export const stepUp = (topology: () => Topology): void => {
  describe("a call that a person approves first", () => {
    it("is refused with a challenge, waited for, approved, and passes once; who approved it is written down", async () => {
      const t = topology();
      const { resource, token, put } = await caller(t);
      const { id, secret = "", wait_url } = challengeIn(await put());
      assert.equal(reached(t, resource), 0);
      assert.equal((await callGateway(t, token, resource)).status, 200, "reading needs nobody");

      const place = new URL(wait_url);
      assert.equal(place.pathname, `/step-up/${id}`);
      const waiting = fetch(`${t.sts_urls[0]}${place.pathname}?wait=30`, {
        headers: { authorization: `Bearer ${token}` },
      });
      const shown = await decide(t, id, "satisfy");
      assert.deepEqual([shown["method"], shown["path"], shown["resource_id"]], ["PUT", HOP_PAGE, resource.id]);
      const state = (await (await waiting).json()) as Record<string, unknown>;
      assert.equal(state["status"], "satisfied");

      const another = await put(headersOf(id, secret), "/hop?elsewhere");
      assert.equal(another.status, 200, "a query is not part of what policy is asked about, nor of what is approved");
      const call = t.hop.calls(resource.identifier).find(({ method }) => method === "PUT");
      assert.ok(call !== undefined);
      assert.ok(!JSON.stringify(call.headers).includes(secret));
      const spent = await put(headersOf(id, secret));
      assert.deepEqual([spent.status, spent.body["reason"]], [403, "challenge_consumed"]);

      const { jti } = call;
      const row = await eventually(
        async () => (await t.zone.api.ledger({ decision: "allow" })).find((one) => one.id === jti) ?? null,
      );
      assert.equal(metadataOf(row)["challenge_id"], id);
      const audit = await callApi(t.api_url, t.zone.admin_token, "GET", `/v1/zones/${t.zone.id}/admin-audit`);
      const entries = (audit.body as { items: { action: string; object_id: string; actor: string }[] }).items;
      const entry = entries.find((one) => one.object_id === id);
      assert.equal(entry?.action, "step_up_challenge.satisfy");
      assert.match(entry?.actor ?? "", /^admin_token:/);
      assert.ok(!t.log().includes(secret), "the secret is in no log");
    });

    it("passes once of fifty times at once, and once for all ways to use it", async () => {
      const t = topology();
      const { application, resource, token, put } = await caller(t);
      const { id, secret = "" } = challengeIn(await put());
      await decide(t, id, "satisfy");
      const own = { challenge_id: id, challenge_response: secret, call_method: "PUT", call_path: HOP_PAGE };
      const answers = await Promise.all([
        ...Array.from({ length: 25 }, () => put(headersOf(id, secret))),
        ...Array.from({ length: 25 }, () => askMandate(t, t.zone, application, token, resource.identifier, own)),
      ]);
      const passed = answers.filter(({ status }) => status === 200).length;
      const unavailable = answers.filter(({ status }) => status === 503).length;
      for (const { status, body } of answers)
        if (status !== 200 && status !== 503) assert.equal(body["reason"], "challenge_consumed");
      // A part that did not answer in time may have cost the one that spent it its mandate; nobody else gets one then.
      assert.ok(passed === 1 || (passed === 0 && unavailable > 0), `${passed} passed, ${unavailable} unavailable`);
    });

    it("is for that call: another path, method, session or a rejection lets nothing pass", async () => {
      const t = topology();
      const { application, resource, put, token } = await caller(t);
      const { id, secret = "" } = challengeIn(await put());
      await decide(t, id, "satisfy");
      const second = await ambientToken(t, t.zone, application);
      const options = { method: "PUT", body: "{}", headers: headersOf(id, secret) };
      const answers = await Promise.all([
        put(headersOf(id, secret), `${HOP_PAGE}/other`),
        callGateway(t, token, resource, { ...options, method: "POST" }),
        callGateway(t, second.token, resource, options),
        callGateway(t, token, resource, {
          ...options,
          headers: { ...options.headers, "x-caracal-scope": "tools:list" },
        }),
      ]);
      for (const { status, body } of answers)
        assert.deepEqual([status, body["reason"]], [403, "challenge_for_another_call"]);
      assert.equal(reached(t, resource), 0);
      assert.equal((await put(headersOf(id, secret))).status, 200);

      const refused = challengeIn(await put());
      await decide(t, refused.id, "reject");
      for (const headers of [headersOf(refused.id, refused.secret ?? ""), {}]) {
        const { status, body } = await put(headers);
        assert.deepEqual([status, body["error"], body["reason"]], [403, "InteractionRequired", "challenge_rejected"]);
      }
    });
  });
};

/** kill -9 while approvals are asked for and spent. */
export const stepUpCrash = (topology: () => Topology): void => {
  describe("an approval, killed in the middle of it", () => {
    it("keeps its challenge through kill -9, and no kill makes two mandates of one approval", async () => {
      const t = topology();
      const { resource, put } = await caller(t);
      const { id, secret = "" } = challengeIn(await put());
      await t.kill();
      await t.start();
      const again = await eventually(async () => challengeIn(await put()), { timeout_ms: 10_000 });
      assert.deepEqual([again.id, again.secret], [id, undefined], "it is there, and its secret is not said again");
      await decide(t, id, "satisfy");

      // Wherever each retry is at this moment: before the approval is spent, between that and the ledger, after it.
      let answered = 0;
      const statuses: (number | undefined)[] = [];
      const retries = Array.from({ length: 20 }, async () => {
        const status = await put(headersOf(id, secret)).then(
          (answer) => answer.status,
          () => undefined, // the connection died with the program
        );
        answered += 1;
        statuses.push(status);
      });
      await eventually(() => answered > 0, { timeout_ms: 10_000, every_ms: 1 });
      await t.kill();
      await Promise.all(retries);
      await t.start();
      const last = await eventually(
        async () => {
          const answer = await put(headersOf(id, secret));
          return [200, 403].includes(answer.status) ? answer : null;
        },
        { timeout_ms: 10_000 },
      );
      const passed = [...statuses, last.status].filter((status) => status === 200).length;
      assert.ok(passed <= 1, `${passed} calls passed`);
      assert.ok(reached(t, resource) <= 1);
      if (last.status === 403) assert.equal(last.body["reason"], "challenge_consumed");
      const allowed = async (): Promise<number> =>
        (await t.zone.api.ledger({ decision: "allow" })).filter(
          (row) => row.event_type === "token.exchange" && metadataOf(row)["challenge_id"] === id,
        ).length;
      await eventually(async () => assert.ok((await allowed()) >= passed), {
        timeout_ms: INGESTED_WITHIN_MS,
        every_ms: 200,
      });
      assert.ok((await allowed()) <= 1);
    });
  });
};
