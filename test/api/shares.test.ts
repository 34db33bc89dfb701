import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";
import { eventually } from "../support/eventually.ts";
import { call, expectOk, makeZone, type ServedApi, serveApi } from "./serve.ts";

/** More than the pool has connections. */
const MANY = 40;
const WAITING_MAX = 200;

describe("the control plane while one zone asks for everything", () => {
  let api: ServedApi;
  let mine: { readonly zone_id: string; readonly token: string };
  let other: { readonly zone_id: string; readonly token: string };
  let id: string;

  before(async () => {
    api = await serveApi();
    mine = await makeZone(api);
    other = await makeZone(api);
    const params = { zone_id: mine.zone_id };
    ({ id } = await expectOk(api.url, mine.token, "createApplication", { params, body: { name: "held" } }));
  });
  after(() => api.close());

  /** While `work` runs, whoever changes the zone's application waits for its row. */
  const whileHeld = (work: () => Promise<void>): Promise<void> =>
    api.owner.sql.begin(async (tx) => {
      await tx`select 1 from applications where id = ${id} for update`;
      await work();
    });
  const edit = (name: string) =>
    call(api.url, mine.token, "updateApplication", { params: { zone_id: mine.zone_id, id }, body: { name } });
  /** Resolves when some of the edits stand before the row: those behind them would take the connections that are left. */
  const untilTheyWait = (): Promise<void> =>
    eventually(
      async () => {
        const rows = await api.owner.sql`select 1 from pg_stat_activity
          where datname = current_database() and wait_event_type = 'Lock'`;
        assert.ok(rows.length >= 5, `${rows.length} wait`);
      },
      { timeout_ms: 4_000 },
    );

  it("its changes of one thing wait for each other, while another zone and another token of the zone are answered", async () => {
    const second = await expectOk(api.url, mine.token, "createAdminToken", { body: { label: "second" } });
    let edits: Promise<readonly { readonly status: number }[]> | undefined;
    const answered: string[] = [];
    await whileHeld(async () => {
      edits = Promise.all(Array.from({ length: MANY }, (_, at) => edit(`name ${at}`)));
      await untilTheyWait();
      await expectOk(api.url, other.token, "listApplications", { params: { zone_id: other.zone_id } });
      answered.push("another zone");
      await expectOk(api.url, second.token, "listApplications", { params: { zone_id: mine.zone_id } });
      answered.push("another token");
      await expectOk(api.url, api.global_token, "listZones");
      answered.push("a global token");
    });
    assert.deepEqual(answered, ["another zone", "another token", "a global token"]);
    const statuses = new Set((await edits)?.map(({ status }) => status));
    assert.deepEqual([...statuses], [200], "each of them was made when its turn came");
  });

  it("a token that has too many requests waiting is told so, and what waited is done", async () => {
    let edits: Promise<readonly { readonly status: number; readonly headers: Headers; readonly body: object }[]> =
      Promise.resolve([]);
    let refused = 0;
    await whileHeld(async () => {
      edits = Promise.all(
        Array.from({ length: WAITING_MAX + MANY }, async (_, at) => {
          const answer = await edit(`again ${at}`);
          if (answer.status === 429) refused += 1;
          return answer;
        }),
      );
      await eventually(async () => assert.equal(refused, MANY - 5), { timeout_ms: 4_000 });
    });
    const answers = await edits;
    assert.equal(answers.filter(({ status }) => status === 200).length, WAITING_MAX + 5);
    const over = answers.filter(({ status }) => status === 429);
    assert.equal(over.length, MANY - 5);
    assert.equal(over[0]?.headers.get("retry-after"), "1");
    assert.match(JSON.stringify(over[0]?.body), /too_many_requests/);
  });

  it("a body of many values, or a deep one, is refused before it is made; what stands in a text is no value", async () => {
    const params = { zone_id: mine.zone_id };
    const refuse = async (body: unknown): Promise<void> => {
      const answer = await call(api.url, mine.token, "createApplication", { params, body });
      assert.equal(answer.status, 400, answer.text);
      assert.match(answer.text, /more than 10000 values, or is more than 64 deep/);
    };
    await refuse({ name: "many", scopes: Array.from({ length: 10_001 }, () => "a") });
    await refuse(`{"name":${"[".repeat(100_000)}${"]".repeat(100_000)}}`);
    await refuse({ name: "fields", ...Object.fromEntries(Array.from({ length: 10_001 }, (_, at) => [`k${at}`, 1])) });
    const text = '[{,:"\\'.repeat(2_000);
    const answer = await call(api.url, mine.token, "createApplication", { params, body: { name: text } });
    assert.match(answer.text, /must have at most 200 characters/);
  });
});
