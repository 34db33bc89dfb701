import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";
import { STREAMS } from "../../src/contracts/streams.ts";
import { LEEWAY_S } from "../../src/domain/token.ts";
import { uuidv7 } from "../../src/kernel/ids.ts";
import { call, expectOk, makeZone, serveApi, type ServedApi } from "./serve.ts";

describe("sessions", () => {
  let api: ServedApi;
  before(async () => {
    api = await serveApi();
  });
  after(() => api.close());

  type Zone = { readonly zone_id: string; readonly token: string };
  const makeApplication = async (zone: Zone): Promise<string> =>
    (
      await expectOk(api.url, zone.token, "createApplication", {
        params: { zone_id: zone.zone_id },
        body: { name: "a", kind: "public" },
      })
    ).id;

  /** As the STS writes it. */
  const makeSession = async (zone: Zone, client_id: string, subject: string, expires_in_s = 3600): Promise<string> => {
    const id = uuidv7();
    await api.db.sql`
      insert into sessions (zone_id, id, client_id, subject, sub_type, expires_at)
      values (${zone.zone_id}, ${id}, ${client_id}, ${subject}, 'user', now() + make_interval(secs => ${expires_in_s}::integer))`;
    return id;
  };
  const revocations = async (zone: Zone): Promise<readonly Record<string, string>[]> => {
    const rows = await api.db.sql<{ fields_json: string }[]>`
      select fields_json from outbox where zone_id = ${zone.zone_id} and stream = ${STREAMS.revoke} order by seq`;
    return rows.map((row) => JSON.parse(row.fields_json) as Record<string, string>);
  };

  it("are revoked once, with the message in the same transaction, whoever asks how often", async () => {
    const zone = await makeZone(api);
    const client_id = await makeApplication(zone);
    const id = await makeSession(zone, client_id, "alice");
    const params = { zone_id: zone.zone_id, id };
    const woken = api.woken();
    const answers = await Promise.all(
      Array.from({ length: 6 }, () => expectOk(api.url, zone.token, "revokeSession", { params })),
    );
    assert.equal(
      answers.reduce((sum, answer) => sum + answer.revoked, 0),
      1,
    );
    assert.equal((await expectOk(api.url, zone.token, "revokeSession", { params })).revoked, 0);
    assert.equal(api.woken(), woken + 1);
    const session = await expectOk(api.url, zone.token, "getSession", { params });
    assert.equal(session.status, "revoked");
    const [message, ...more] = await revocations(zone);
    assert.deepEqual(more, []);
    assert.deepEqual({ ...message, expires_at: "" }, { op: "revoke", kind: "session", id, expires_at: "" });
    const lives_until = Math.ceil(Date.parse(session.expires_at) / 1000) + LEEWAY_S;
    assert.ok(Math.abs(Number(message?.["expires_at"]) - lives_until) <= 1);
    const { items } = await expectOk(api.url, zone.token, "listZoneAdminAudit", { params: { zone_id: zone.zone_id } });
    assert.equal(items.filter((item) => item.action === "session.revoke").length, 1);
  });

  it("of a subject are all revoked, more than one transaction takes, and nobody else's", async () => {
    const zone = await makeZone(api);
    const client_id = await makeApplication(zone);
    for (let n = 0; n < 450; n += 1) await makeSession(zone, client_id, "mallory");
    const expired = await makeSession(zone, client_id, "mallory", -LEEWAY_S - 10);
    const spared = await makeSession(zone, client_id, "alice");
    const other = await makeZone(api);
    const elsewhere = await makeSession(other, await makeApplication(other), "mallory");
    const both = await Promise.all([
      expectOk(api.url, zone.token, "revokeSubject", {
        params: { zone_id: zone.zone_id },
        body: { subject: "mallory" },
      }),
      expectOk(api.url, zone.token, "revokeSubject", {
        params: { zone_id: zone.zone_id },
        body: { subject: "mallory" },
      }),
    ]);
    assert.equal(both[0].revoked + both[1].revoked, 450);
    assert.equal(new Set((await revocations(zone)).map((message) => message["id"])).size, 450);
    const statusOf = async (of: Zone, id: string) =>
      (await expectOk(api.url, of.token, "getSession", { params: { zone_id: of.zone_id, id } })).status;
    assert.equal(await statusOf(zone, expired), "expired");
    assert.equal(await statusOf(zone, spared), "active");
    assert.equal(await statusOf(other, elsewhere), "active");
  });

  it("end with their application and with their zone", async () => {
    const zone = await makeZone(api);
    const [one, two] = [await makeApplication(zone), await makeApplication(zone)];
    const ids = [
      await makeSession(zone, one, "a"),
      await makeSession(zone, one, "b"),
      await makeSession(zone, two, "a"),
    ];
    await expectOk(api.url, zone.token, "archiveApplication", { params: { zone_id: zone.zone_id, id: one } });
    assert.deepEqual((await revocations(zone)).map((message) => message["id"]).toSorted(), ids.slice(0, 2).toSorted());
    await expectOk(api.url, zone.token, "archiveZone", { params: { zone_id: zone.zone_id } });
    assert.deepEqual((await revocations(zone)).map((message) => message["id"]).toSorted(), ids.toSorted());
  });

  it("that were left when a call was cut off are ended by the same call again", async () => {
    const zone = await makeZone(api);
    const client_id = await makeApplication(zone);
    await expectOk(api.url, zone.token, "archiveApplication", { params: { zone_id: zone.zone_id, id: client_id } });
    const left = await makeSession(zone, client_id, "a");
    await expectOk(api.url, zone.token, "archiveApplication", { params: { zone_id: zone.zone_id, id: client_id } });
    assert.deepEqual(
      (await revocations(zone)).map((message) => message["id"]),
      [left],
    );
  });

  it("are found by subject, client and status, newest first", async () => {
    const zone = await makeZone(api);
    const client_id = await makeApplication(zone);
    const active = await makeSession(zone, client_id, "alice");
    const expired = await makeSession(zone, client_id, "alice", -5);
    const revoked = await makeSession(zone, client_id, "bob");
    await expectOk(api.url, zone.token, "revokeSession", { params: { zone_id: zone.zone_id, id: revoked } });
    const newest_first = (...ids: string[]): readonly string[] => ids.toSorted().toReversed(); // ids of one ms have no order
    const list = async (query: Record<string, string>): Promise<readonly string[]> =>
      (await expectOk(api.url, zone.token, "listSessions", { params: { zone_id: zone.zone_id }, query })).items.map(
        (item) => item.id,
      );
    assert.deepEqual(await list({}), newest_first(revoked, expired, active));
    assert.deepEqual(await list({ subject: "alice" }), newest_first(expired, active));
    assert.deepEqual(await list({ status: "active" }), [active]);
    assert.deepEqual(await list({ status: "expired" }), [expired]);
    assert.deepEqual(await list({ status: "revoked", client_id }), [revoked]);
    assert.deepEqual(await list({ client_id: uuidv7() }), []);
    const page = await expectOk(api.url, zone.token, "listSessions", {
      params: { zone_id: zone.zone_id },
      query: { limit: "2" },
    });
    assert.deepEqual(await list({ cursor: page.next_cursor ?? "" }), newest_first(revoked, expired, active).slice(2));
  });

  it("of another zone, and such as never were, are not found", async () => {
    const zone = await makeZone(api);
    const other = await makeZone(api);
    const id = await makeSession(zone, await makeApplication(zone), "a");
    for (const name of ["getSession", "revokeSession"] as const) {
      assert.equal((await call(api.url, other.token, name, { params: { zone_id: other.zone_id, id } })).status, 404);
      assert.equal(
        (await call(api.url, zone.token, name, { params: { zone_id: zone.zone_id, id: uuidv7() } })).status,
        404,
      );
    }
    for (const body of [{}, { subject: "" }, { subject: 1 }, { subject: "a\0" }, { subject: "a", client_id: "b" }]) {
      assert.equal(
        (await call(api.url, zone.token, "revokeSubject", { params: { zone_id: zone.zone_id }, body })).status,
        400,
      );
    }
  });

  it("stay as they are where the message can't be written", async () => {
    const zone = await makeZone(api);
    const client_id = await makeApplication(zone);
    const id = await makeSession(zone, client_id, "a");
    await api.db
      .sql`alter table outbox add constraint nothing_more check (zone_id <> ${api.db.sql.unsafe(`'${zone.zone_id}'`)}) not valid`;
    try {
      const refused = await call(api.url, zone.token, "revokeSession", { params: { zone_id: zone.zone_id, id } });
      assert.equal(refused.status, 500);
      assert.doesNotMatch(refused.text, /outbox|constraint/);
      const made = await call(api.url, zone.token, "createApplication", {
        params: { zone_id: zone.zone_id },
        body: { name: "x", kind: "public" },
      });
      assert.equal(made.status, 500);
    } finally {
      await api.db.sql`alter table outbox drop constraint nothing_more`;
    }
    assert.equal(
      (await expectOk(api.url, zone.token, "getSession", { params: { zone_id: zone.zone_id, id } })).status,
      "active",
    );
    assert.equal(
      (await expectOk(api.url, zone.token, "listApplications", { params: { zone_id: zone.zone_id } })).items.length,
      1,
    );
    const { items } = await expectOk(api.url, zone.token, "listZoneAdminAudit", { params: { zone_id: zone.zone_id } });
    assert.equal(items.filter((item) => item.action === "session.revoke").length, 0);
  });
});
