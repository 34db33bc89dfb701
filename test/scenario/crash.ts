import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { eventually } from "../support/eventually.ts";
import { ambientToken, callGateway, mandate, newRequestId } from "./agent.ts";
import { assertChain } from "./ledger.ts";
import { newAgent, type Topology, type ZoneUnderTest } from "./topology.ts";

const CALLERS = 4;
const CALLS_BEFORE_KILL = 60;
/** What the killed process had taken from the stream and not chained is another's to take after 30 s. */
const INGESTED_WITHIN_MS = 45_000;

const kidsOf = async (t: Topology, zone: ZoneUnderTest): Promise<readonly string[]> => {
  const answer = await fetch(`${t.sts_urls[0]}/.well-known/jwks.json?zone_id=${zone.id}`);
  assert.equal(answer.status, 200);
  const { keys } = (await answer.json()) as { readonly keys: readonly { readonly kid: string }[] };
  return keys.map((key) => key.kid).sort();
};

/** kill -9 under load, and start again: nothing that anybody was told is lost. */
export const crash = (topology: () => Topology): void => {
  describe("killed under load and started again", () => {
    it("keeps zones, keys, sessions, revocations and every ledger row behind an allow that was seen", async (test) => {
      const t = topology();
      const { application, resource } = await newAgent(t, t.zone);
      const ambient = await ambientToken(t, t.zone, application);
      const gone = await ambientToken(t, t.zone, application);
      await callGateway(t, gone.token, resource);
      await t.zone.api.revokeSession(gone.session_id);
      const used = await mandate(t, t.zone, application, ambient, resource);
      assert.equal((await callGateway(t, used, resource)).status, 200);
      const kids = await kidsOf(t, t.zone);
      const ledger_before = await eventually(async () => {
        const rows = await t.zone.api.ledger();
        return rows.length > 0 ? rows : null;
      });

      const allowed: string[] = [];
      let killed = false;
      const caller = async (): Promise<void> => {
        while (!killed) {
          const request_id = newRequestId();
          const status = await callGateway(t, ambient.token, resource, { request_id }).then(
            (answer) => answer.status,
            () => undefined, // the connection died with the program
          );
          if (status === 200) allowed.push(request_id);
        }
      };
      const callers = Array.from({ length: CALLERS }, caller);
      await eventually(() => allowed.length >= CALLS_BEFORE_KILL, { timeout_ms: 20_000, every_ms: 1 });
      const dying = t.kill();
      killed = true;
      await dying;
      await Promise.all(callers);

      const began = performance.now();
      await t.start();
      test.diagnostic(
        `${allowed.length} allows seen before; ready again in ${Math.round(performance.now() - began)} ms`,
      );

      assert.deepEqual(await kidsOf(t, t.zone), kids, "the zone's keys are the same");
      const sessions = await t.zone.api.listSessions();
      const statusOf = (id: string): string | undefined => sessions.find((session) => session.id === id)?.status;
      assert.equal(statusOf(ambient.session_id), "active");
      assert.equal(statusOf(gone.session_id), "revoked");

      const answer = await eventually(
        async () => {
          const one = await callGateway(t, ambient.token, resource);
          return one.status === 200 ? one : Promise.reject(new Error(`${one.status}: ${JSON.stringify(one.body)}`));
        },
        { timeout_ms: 3_000 },
      );
      assert.equal(answer.status, 200, "the old ambient token works");
      assert.equal((await callGateway(t, gone.token, resource)).status, 401, "the revoked one does not");
      assert.equal((await callGateway(t, used, resource)).status, 401, "a used mandate stays used");

      // Whoever led before the kill has not given anything up in good order: what is revoked now is in force all the same.
      await t.zone.api.revokeSession(ambient.session_id);
      await eventually(async () => (await callGateway(t, ambient.token, resource)).status === 401, {
        timeout_ms: 1_000,
      });

      const asked = performance.now();
      await eventually(
        async () => {
          const rows = await t.zone.api.ledger();
          const written = new Set(
            rows
              .filter((row) => row.event_type === "token.exchange" && row.decision === "allow")
              .map((row) => row.request_id),
          );
          assert.deepEqual(
            allowed.filter((request_id) => !written.has(request_id)),
            [],
            "every allow that was seen has its row",
          );
          assertChain(rows, t.audit_hmac_key);
          const kept = rows.slice(0, ledger_before.length).map((row) => row.chain_hmac);
          assert.deepEqual(
            kept,
            ledger_before.map((row) => row.chain_hmac),
            "rows from before are the same",
          );
        },
        { timeout_ms: INGESTED_WITHIN_MS, every_ms: 200 },
      );
      test.diagnostic(`the ledger was whole after ${Math.round(performance.now() - asked)} ms`);
    });
  });
};
