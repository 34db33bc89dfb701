import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { type Ambient, ambientToken, callGateway } from "./agent.ts";
import { metricsPage, readMetric } from "./metrics.ts";
import { newAgent, type TestResource, type Topology } from "./topology.ts";

const CALLS = 200;
const AT_ONCE = 20;
/**
 * What came of calls goes along with the next call's event, and by itself where none comes within 50 ms (on a machine
 * that has other things to do, or from a Gateway apart from its STS): so often at most, whatever the load.
 */
const OUTCOMES_PER_S = 20;

type Cost = { readonly sql: number; readonly trips: number };

/** What the processes that serve the path have spent so far. */
const spent = async (t: Topology): Promise<Cost> => {
  const pages = await Promise.all(t.process_urls.map(metricsPage));
  const total = (name: string, labels: Record<string, string>): number =>
    pages.reduce((sum, page) => sum + readMetric(page, name, labels), 0);
  return {
    sql: total("sql_statements_total", { pool: "sts" }),
    trips: total("redis_round_trips_total", { connection: "commands" }),
  };
};

const measure = async (t: Topology, work: () => Promise<void>): Promise<Cost> => {
  const before = await spent(t);
  await work();
  const after = await spent(t);
  return { sql: after.sql - before.sql, trips: after.trips - before.trips };
};

const call = async (t: Topology, ambient: Ambient, resource: TestResource): Promise<void> => {
  const answer = await callGateway(t, ambient.token, resource);
  assert.equal(answer.status, 200, JSON.stringify(answer.body));
};

/** On a steady load the full path needs no SQL and at most two round trips to Redis. */
export const budget = (topology: () => Topology, has: { readonly redis: boolean }): void => {
  describe("on a steady load of ambient calls", () => {
    it("the path needs no SQL, and no more than two round trips to Redis for each call", async (test) => {
      const t = topology();
      const { application, resource } = await newAgent(t, t.zone);
      const ambient = await ambientToken(t, t.zone, application);
      for (let warm = 0; warm < 20; warm += 1) await call(t, ambient, resource);
      const began = performance.now();
      const cost = await measure(t, async () => {
        for (let at = 0; at < CALLS; at += 1) await call(t, ambient, resource);
      });
      const seconds = (performance.now() - began) / 1_000;
      test.diagnostic(`${CALLS} calls: ${cost.sql} statements, ${cost.trips} round trips, ${seconds.toFixed(2)} s`);
      // What runs by the clock (readiness, the snapshot's age, the bindings' re-reading) is there whatever the load.
      assert.ok(cost.sql <= 5 + 10 * seconds, `${cost.sql} statements for ${CALLS} calls`);
      if (has.redis) {
        assert.ok(cost.trips > 0, "the round trips are counted");
        const by_the_clock = (5 + OUTCOMES_PER_S) * t.process_urls.length;
        assert.ok(
          cost.trips <= 2 * CALLS + 10 + by_the_clock * seconds,
          `${cost.trips} round trips for ${CALLS} calls`,
        );
      }
    });

    it("calls at the same time share round trips", async (test) => {
      const t = topology();
      const { application, resource } = await newAgent(t, t.zone);
      const ambient = await ambientToken(t, t.zone, application);
      await Promise.all(Array.from({ length: AT_ONCE }, () => call(t, ambient, resource)));
      const cost = await measure(t, async () => {
        await Promise.all(
          Array.from({ length: AT_ONCE }, async () => {
            for (let at = 0; at < CALLS / AT_ONCE; at += 1) await call(t, ambient, resource);
          }),
        );
      });
      test.diagnostic(`${CALLS} calls, ${AT_ONCE} at once: ${cost.sql} statements, ${cost.trips} round trips`);
      assert.ok(cost.sql <= 50, `${cost.sql} statements for ${CALLS} calls`);
      if (has.redis) assert.ok(cost.trips < 2 * CALLS * 0.8, `${cost.trips} round trips for ${CALLS} calls`);
    });
  });
};
