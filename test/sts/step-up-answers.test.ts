import assert from "node:assert/strict";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { after, before, describe, it } from "node:test";
import { randomSecret, uuidv7 } from "../../src/kernel/ids.ts";
import { createAnswerThrottle } from "../../src/sts/known/answer-throttle.ts";
import { openChallenge } from "../../src/sts/store/challenges.ts";
import { createChallengeWaits } from "../../src/sts/known/challenge-waits.ts";
import { eventually } from "../support/eventually.ts";
import { refused, startStepUp, type StepUp } from "./step-up-fixture.ts";

const MINUTE_MS = 60_000;

describe("wrong answers of a client", () => {
  const at = (now_ms: number) => ({ now_ms: () => now_ms, monotonic_ms: () => now_ms });

  it("put it off for five minutes, five of them within two, and nobody else", () => {
    let now_ms = 0;
    const throttle = createAnswerThrottle({ now_ms: () => now_ms, monotonic_ms: () => now_ms });
    for (let i = 0; i < 4; i += 1) throttle.failed("z", "app");
    assert.equal(throttle.wait_ms("z", "app"), 0);
    now_ms = 2 * MINUTE_MS; // the first four are forgotten now
    throttle.failed("z", "app");
    assert.equal(throttle.wait_ms("z", "app"), 0);
    for (let i = 0; i < 4; i += 1) throttle.failed("z", "app");
    assert.equal(throttle.wait_ms("z", "app"), 5 * MINUTE_MS);
    assert.deepEqual([throttle.wait_ms("z", "other"), throttle.wait_ms("y", "app")], [0, 0]);
    now_ms += 5 * MINUTE_MS - 1;
    assert.equal(throttle.wait_ms("z", "app"), 1);
    now_ms += 1;
    assert.equal(throttle.wait_ms("z", "app"), 0);
    throttle.failed("z", "app");
    assert.equal(throttle.wait_ms("z", "app"), 0, "it begins anew");
  });

  it("are remembered of a bounded number of clients", () => {
    const throttle = createAnswerThrottle(at(0));
    for (let i = 0; i < 5; i += 1) throttle.failed("z", "first");
    for (let i = 0; i < 20_000; i += 1) throttle.failed("z", `app-${i}`);
    assert.equal(throttle.wait_ms("z", "first"), 0);
  });
});

describe("who waits for a decision", () => {
  it("is woken by it, also where it came before anybody listened, and by a loss of messages", async () => {
    const waits = createChallengeWaits();
    const one = waits.wait("z", "app", "c");
    const other = waits.wait("z", "app", "d");
    assert.ok(one.ok && other.ok);
    waits.decided("z", "c");
    assert.equal(await one.woken(MINUTE_MS), true);
    const listening = Promise.all([one.woken(MINUTE_MS), other.woken(MINUTE_MS)]);
    waits.lost();
    assert.deepEqual(await listening, [true, true]);
    one.leave();
    other.leave();
    assert.equal(waits.held, 0);
  });

  it("is not woken for another challenge or another zone's, only after its time", async () => {
    const waits = createChallengeWaits();
    const one = waits.wait("z", "app", "c");
    assert.ok(one.ok);
    const listening = one.woken(MINUTE_MS);
    waits.decided("z", "d");
    waits.decided("y", "c");
    const first = await Promise.race([listening, Promise.resolve("nothing")]);
    assert.equal(first, "nothing");
    one.leave();
    assert.equal(await listening, false);
    const short = waits.wait("z", "app", "c");
    assert.ok(short.ok);
    assert.equal(await short.woken(1), true);
    short.leave();
  });

  it("has a share for its application and its zone, and gives it back once", () => {
    const waits = createChallengeWaits();
    const places = Array.from({ length: 64 }, () => waits.wait("z", "app", "c"));
    assert.ok(places.every((place) => place.ok));
    const more = waits.wait("z", "app", "c");
    assert.deepEqual(more, { ok: false, bound: "client" });
    const others = Array.from({ length: 192 }, (_, i) => waits.wait("z", `app-${i}`, "c"));
    assert.ok(others.every((place) => place.ok));
    assert.deepEqual(waits.wait("z", "one-more", "c"), { ok: false, bound: "zone" });
    assert.ok(waits.wait("another", "app", "c").ok);
    const [first] = places;
    assert.ok(first?.ok);
    first.leave();
    first.leave();
    assert.equal(waits.held, 256);
  });

  it("goes when the process drains", async () => {
    const waits = createChallengeWaits();
    const one = waits.wait("z", "app", "c");
    assert.ok(one.ok);
    const listening = one.woken(MINUTE_MS);
    waits.end();
    assert.equal(await listening, false);
    assert.equal(await one.woken(MINUTE_MS), false);
  });
});

describe("a challenge", () => {
  let s: StepUp;
  before(async () => {
    s = await startStepUp();
  });
  after(() => s.f.close());

  const wrong = async (fields: Readonly<Record<string, string>>, id: string): Promise<void> =>
    refused(
      await s.call({ ...fields, challenge_id: id, challenge_response: randomSecret() }),
      401,
      "interaction_required",
      "challenge_response_wrong",
    );

  it("dies of five wrong answers, and its client is put off for five minutes", async () => {
    const fields = s.fresh();
    const asked = await s.ask(fields);
    await s.decide(asked.id, "satisfied");
    for (let i = 0; i < 5; i += 1) await wrong(fields, asked.id);
    const put_off = await s.call({ ...fields, ...s.answering(asked) });
    refused(put_off, 429, "temporarily_unavailable", "challenge_throttled");
    assert.equal(put_off.headers.get("retry-after"), "300");
    assert.equal((await s.call({ call_method: "GET", call_path: "/" })).status, 200, "other calls go on");
    s.f.clock.forward(5 * MINUTE_MS);
    await eventually(async () =>
      refused(await s.call({ ...fields, ...s.answering(asked) }), 401, "interaction_required", "challenge_dead"),
    );
    const state = (await (await s.state(asked.id)).json()) as Record<string, unknown>;
    assert.equal(state["status"], "expired");
    assert.notEqual((await s.ask(fields)).id, asked.id);
  });

  it("takes wrong answers of every replica together", async () => {
    const fields = s.fresh();
    const asked = await s.ask(fields);
    await s.decide(asked.id, "satisfied");
    await s.f.control.sql`update step_up_challenges set failures = 4 where id = ${asked.id}`; // at another replica
    await wrong(fields, asked.id);
    refused(await s.call({ ...fields, ...s.answering(asked) }), 401, "interaction_required", "challenge_dead");
    s.f.clock.forward(2 * MINUTE_MS);
  });

  it("that does not exist, or is spelt oddly, is a wrong answer like any other", async () => {
    const fields = s.fresh();
    for (const id of [uuidv7(), "x".repeat(2_000), "'; drop table step_up_challenges; --"]) await wrong(fields, id);
    s.f.clock.forward(2 * MINUTE_MS);
  });

  it("tells its state to its application alone", async () => {
    const asked = await s.ask(s.fresh());
    const answer = await s.state(asked.id);
    assert.deepEqual([answer.status, answer.headers.get("cache-control")], [200, "no-store"]);
    const body = (await answer.json()) as Record<string, unknown>;
    assert.deepEqual(Object.keys(body), ["challenge_id", "challenge_type", "status", "challenge_expires_at"]);
    assert.deepEqual([body["challenge_id"], body["status"]], [asked.id, "pending"]);
    const stranger = await s.f.newApplication(s.zone);
    const statuses = await Promise.all([
      s.state(asked.id, "", await s.ambientOf(stranger)),
      s.state(uuidv7()),
      s.state("x"),
      s.state(asked.id, "", "no-token"),
      s.state(asked.id, "", `${s.ambient.slice(0, -4)}AAAA`),
      s.state(asked.id, "?wait=61"),
      s.state(asked.id, "?wait=-1"),
      s.state(asked.id, "?wait=1&wait=1"),
    ]);
    assert.deepEqual(
      statuses.map(({ status }) => status),
      [404, 404, 404, 401, 401, 400, 400, 400],
    );
    const mandate = await s.call({ call_method: "GET", call_path: "/" });
    assert.equal((await s.state(asked.id, "", String(mandate.body["access_token"]))).status, 401);
  });
});

/** With a clock that nobody moves: a stream that seems to be silent for minutes is read anew, and wakes everybody. */
describe("a challenge that is pending", () => {
  let s: StepUp;
  before(async () => {
    s = await startStepUp();
  });
  after(() => s.f.close());

  it("is waited for until it is decided", async () => {
    for (const decision of ["satisfied", "rejected"] as const) {
      const asked = await s.ask(s.fresh());
      const waiting = s.state(asked.id, "?wait=60");
      await eventually(async () => assert.equal(await s.f.metric("sts_step_up_waiting"), 1));
      await s.decide(asked.id, decision);
      const body = (await (await waiting).json()) as Record<string, unknown>;
      assert.equal(body["status"], decision);
      const at_once = (await (await s.state(asked.id, "?wait=60")).json()) as Record<string, unknown>;
      assert.equal(at_once["status"], decision);
    }
    await eventually(async () => assert.equal(await s.f.metric("sts_step_up_waiting"), 0));
  });

  it("is waited for no longer than was asked, nor by one who went away", async () => {
    const asked = await s.ask(s.fresh());
    const body = (await (await s.state(asked.id, "?wait=1")).json()) as Record<string, unknown>;
    assert.equal(body["status"], "pending");
    const gone = new AbortController();
    const headers = { authorization: `Bearer ${s.ambient}` };
    const waiting = fetch(`${s.f.url}/step-up/${asked.id}?wait=60`, { headers, signal: gone.signal });
    await eventually(async () => assert.equal(await s.f.metric("sts_step_up_waiting"), 1));
    gone.abort();
    await assert.rejects(waiting);
    await eventually(async () => assert.equal(await s.f.metric("sts_step_up_waiting"), 0));
  });

  it("is waited for on a connection that may be silent for less", async () => {
    const server = createServer((request, response) => s.f.role.handle(request, response));
    server.setTimeout(200); // ends a connection on which nothing passes
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    const { port } = server.address() as AddressInfo;
    try {
      const asked = await s.ask(s.fresh());
      const headers = { authorization: `Bearer ${s.ambient}` };
      const answer = await fetch(`http://127.0.0.1:${port}/step-up/${asked.id}?wait=1`, { headers });
      assert.equal(((await answer.json()) as Record<string, unknown>)["status"], "pending");
    } finally {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    }
  });

  it("is waited for to its end at the longest, and not beyond a drain", async () => {
    const asked = await s.ask(s.fresh());
    await s.f.control
      .sql`update step_up_challenges set expires_at = now() + interval '1 second' where id = ${asked.id}`;
    const body = (await (await s.state(asked.id, "?wait=60")).json()) as Record<string, unknown>;
    assert.equal(body["status"], "expired");
    const another = await s.ask(s.fresh());
    const waiting = s.state(another.id, "?wait=60");
    await eventually(async () => assert.equal(await s.f.metric("sts_step_up_waiting"), 1));
    s.f.role.drain?.();
    assert.equal(((await (await waiting).json()) as Record<string, unknown>)["status"], "pending");
  });
});

describe("an agent that asks without end", () => {
  let s: StepUp;
  before(async () => {
    s = await startStepUp();
  });
  after(() => s.f.close());

  it("has twenty that are pending, while others of its zone go on", async () => {
    const answers = [];
    for (let i = 0; i < 60; i += 1) answers.push(await s.call(s.fresh()));
    const made = answers.filter(({ status }) => status === 401);
    const told = answers.filter(({ body }) => body["reason"] === "challenges_of_principal");
    assert.deepEqual([made.length, told.length], [20, 40]);
    assert.ok(Number(told[0]?.headers.get("retry-after")) > 0);
    assert.equal(await s.count(), 20);
    const other = await s.f.newApplication(s.zone);
    const token = await s.ambientOf(other);
    assert.equal((await s.call(s.fresh(), { application: other, token })).body["reason"], "step_up_required");
    assert.equal((await s.call({ call_method: "GET", call_path: "/" })).status, 200);
  });

  it("leaves a row in the ledger for each challenge that was made, and no more", async () => {
    const rows = (await s.f.events()).filter((event) => event.metadata_json?.includes('"step_up_required"'));
    assert.ok(rows.length >= 21);
    assert.equal(
      new Set(rows.map((row) => (JSON.parse(row.metadata_json ?? "{}") as { challenge_id?: string }).challenge_id))
        .size,
      rows.length,
    );
  });

  it("gains nothing by asking at several replicas at once: the database counts", async () => {
    const other = await s.f.newApplication(s.zone);
    const challenge = (path: string) => ({
      zone_id: s.zone,
      id: uuidv7(),
      kind: "mfa" as const,
      secret_sha256: "",
      bound: {
        application_id: other.id,
        subject: "subject",
        session_id: "session",
        resource_id: s.target.id,
        scopes: [],
        method: "PUT",
        path,
        actor: null,
        agent_session_id: null,
        delegation_edge_id: null,
        policy_set_version_id: "version",
      },
      bound_sha256: path,
    });
    const open = (path: string) => openChallenge(s.f.control, challenge(path), { principal: 5, zone: 500 });
    const same = await Promise.all(Array.from({ length: 8 }, () => open("/same")));
    assert.equal(same.filter((one) => typeof one !== "string" && one.made).length, 1);
    const many = await Promise.all(Array.from({ length: 12 }, (_, i) => open(`/${i}`)));
    assert.equal(many.filter((one) => typeof one !== "string" && one.made).length, 4);
    assert.equal(many.filter((one) => one === "principal_full").length, 8);
  });

  it("can't take more than its zone's five hundred, with however many applications", async () => {
    await s.f.control.sql`
      insert into step_up_challenges (zone_id, id, kind, secret_sha256, application_id, subject, scopes, expires_at)
      select ${s.zone}, 'seed-' || n, 'mfa', '', ${s.app.id}, 'subject-' || n, '{}', now() + interval '5 minutes'
      from generate_series(1, 500) n`;
    const another = await s.f.newApplication(s.zone);
    const token = await s.ambientOf(another);
    refused(
      await s.call(s.fresh(), { application: another, token }),
      429,
      "temporarily_unavailable",
      "challenges_of_zone",
    );
  });

  it("has its turn of the database and no more: two hundred calls at once are refused by name, not queued", async () => {
    const answers = await Promise.all(Array.from({ length: 200 }, () => s.call(s.fresh())));
    const reasons = new Set(answers.map(({ body }) => body["reason"]));
    for (const reason of reasons)
      assert.ok(
        ["challenges_of_zone", "challenges_of_principal", "challenge_busy"].includes(String(reason)),
        String(reason),
      );
    for (const { status } of answers) assert.equal(status, 429);
  });
});
