import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";
import { SYSTEM_ZONE } from "../../src/domain/audit-event.ts";
import { uuidv7 } from "../../src/kernel/ids.ts";
import { call, expectOk, makeZone, serveApi, type ServedApi } from "./serve.ts";

type Row = {
  readonly decision?: string;
  readonly client_id?: string;
  readonly session_id?: string;
  readonly event_type?: string;
  readonly request_id?: string;
  readonly occurred_at?: string;
};

const [C1, C2, S1, S2] = [uuidv7(), uuidv7(), uuidv7(), uuidv7()];

describe("the ledger's query", () => {
  let api: ServedApi;
  before(async () => {
    api = await serveApi();
  });
  after(() => api.close());

  const write = async (zone_id: string, rows: readonly Row[]): Promise<void> => {
    for (const [i, row] of rows.entries()) {
      await api.db.sql`
        insert into audit_events (form, zone_id, chain_seq, id, event_type, request_id, decision, client_id, session_id, producer,
                                  producer_seq, metadata_json, occurred_at, content_sha256, chain_hmac, key_id)
        values (1, ${zone_id}, ${i + 1}, ${uuidv7()}, ${row.event_type ?? "token.exchange"}, ${row.request_id ?? null},
                ${row.decision ?? "allow"}, ${row.client_id ?? null}, ${row.session_id ?? null}, 'sts:1', ${i + 1},
                ${'{"a":  1}'}, ${row.occurred_at ?? "2026-01-01T00:00:00.000Z"}, '\\x0c', '\\x0d', 'k')`;
    }
  };

  it("filters, pages newest first, and gives back the text that was hashed", async () => {
    const { zone_id, token } = await makeZone(api);
    await write(zone_id, [
      {
        decision: "allow",
        client_id: C1,
        session_id: S1,
        request_id: "r1",
        occurred_at: "2026-01-01T00:00:00.000Z",
      },
      {
        decision: "deny",
        client_id: C2,
        session_id: S1,
        request_id: "r2",
        occurred_at: "2026-01-01T00:00:01.500Z",
      },
      {
        decision: "none",
        client_id: C1,
        session_id: S2,
        request_id: "r1",
        event_type: "gateway.outcome",
        occurred_at: "2026-01-02T00:00:00.000Z",
      },
    ]);
    const list = async (query: Record<string, string> = {}): Promise<readonly number[]> =>
      (await expectOk(api.url, token, "listAudit", { params: { zone_id }, query })).items.map((item) => item.chain_seq);
    assert.deepEqual(await list(), [3, 2, 1]);
    assert.deepEqual(await list({ decision: "deny" }), [2]);
    assert.deepEqual(await list({ client_id: C1 }), [3, 1]);
    assert.deepEqual(await list({ session_id: S1, decision: "allow" }), [1]);
    assert.deepEqual(await list({ session_id: "no UUID" }), []);
    assert.deepEqual(await list({ client_id: C1.toUpperCase() }), []);
    assert.deepEqual(await list({ event_type: "gateway.outcome" }), [3]);
    assert.deepEqual(await list({ request_id: "r1" }), [3, 1]);
    assert.deepEqual(await list({ from: "2026-01-01T00:00:01.500Z" }), [3, 2]);
    assert.deepEqual(await list({ from: "2026-01-01T02:00:01+02:00", to: "2026-01-02T00:00:00Z" }), [2]);
    const page = await expectOk(api.url, token, "listAudit", { params: { zone_id }, query: { limit: "2" } });
    assert.deepEqual(await list({ cursor: page.next_cursor ?? "" }), [1]);
    assert.equal(page.items[0]?.metadata_json, '{"a":  1}');
    const { items } = await expectOk(api.url, token, "listAuditByRequest", { params: { zone_id, request_id: "r1" } });
    assert.deepEqual(
      items.map((item) => item.chain_seq),
      [1, 3],
    );
  });

  it("shows a zone its own rows only, and the deployment's to global tokens only", async () => {
    const one = await makeZone(api);
    const other = await makeZone(api);
    await write(one.zone_id, [{ request_id: "shared" }]);
    await write(SYSTEM_ZONE, [{ request_id: "shared", event_type: "unauthenticated.summary" }]);
    assert.deepEqual(
      (await expectOk(api.url, other.token, "listAudit", { params: { zone_id: other.zone_id } })).items,
      [],
    );
    const by_request = await expectOk(api.url, other.token, "listAuditByRequest", {
      params: { zone_id: other.zone_id, request_id: "shared" },
    });
    assert.deepEqual(by_request.items, []);
    assert.equal((await call(api.url, one.token, "listAudit", { params: { zone_id: SYSTEM_ZONE } })).status, 403);
    assert.equal(
      (await expectOk(api.url, api.global_token, "listAudit", { params: { zone_id: SYSTEM_ZONE } })).items.length,
      1,
    );
    assert.equal(
      (await call(api.url, api.global_token, "listApplications", { params: { zone_id: SYSTEM_ZONE } })).status,
      404,
    );
  });

  it("refuses filters that can't be meant, naming the parameter", async () => {
    const { zone_id, token } = await makeZone(api);
    const queries: Record<string, string>[] = [
      { decision: "maybe" },
      { from: "yesterday" },
      { from: "2026-02-30T00:00:00" },
      { to: "2026-13-01T00:00:00Z" },
      { to: "-1" },
      { client_id: "" },
      { client_id: "a\0b" },
      { cursor: "MA" },
      { cursor: Buffer.from("99999999999999999999").toString("base64url") },
      { order: "asc" },
    ];
    for (const query of queries) {
      const answer = await call(api.url, token, "listAudit", { params: { zone_id }, query });
      assert.equal(answer.status, 400, JSON.stringify(query));
      assert.equal(answer.body.issues?.[0]?.path, Object.keys(query)[0]);
    }
  });
});
