import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";
import { deadLetterOf, STREAMS } from "../../src/contracts/streams.ts";
import { eventually } from "../support/eventually.ts";
import { runToEnd } from "../support/program.ts";
import type { Part } from "../support/split.ts";
import { createStreamVandal, type RawEntry, type StreamVandal } from "../support/split-streams.ts";
import { type Ambient, type Answer, ambientToken, callGateway, mandate } from "./agent.ts";
import { metricAt } from "./metrics.ts";
import { startStream } from "./revocation.ts";
import type { SplitTopology } from "./split-topology.ts";
import { newAgent, type TestResource } from "./topology.ts";

/** What only processes apart can show: one of them gone, or cut off from another, or told something untrue. */

const RECOVERS_WITHIN_MS = 20_000;
/** The state of revocations may be so old, and nothing is let through on an older one. */
const STALE_AFTER_MS = 10_000;
/**
 * After a revocation no further copy of it is sent: who committed it may send it past an outbox that is late, and so may who
 * takes the lease from a holder that was cut off with the readers.
 */
const COPIES_WITHIN_MS = 5_000;
/** Between two heads, with the time to read one. */
const HEAD_WITHIN_MS = 6_000;

type Served = { readonly ambient: Ambient; readonly resource: TestResource; readonly gateway_url: string };

const call = (t: SplitTopology, served: Served): Promise<Answer> =>
  callGateway(t, served.ambient.token, served.resource, { gateway_url: served.gateway_url });

const servedAgain = (t: SplitTopology, served: Served): Promise<unknown> =>
  eventually(
    async () => {
      const answer = await call(t, served);
      if (answer.status !== 200) throw new Error(`${answer.status}: ${JSON.stringify(answer.body)}`);
    },
    { timeout_ms: RECOVERS_WITHIN_MS, every_ms: 50 },
  );

/**
 * All of it again, and somebody who sends the outbox: where its holder was killed, what only caches wait for stays until
 * the lease ends (revocations do not).
 */
const whole = async (t: SplitTopology): Promise<void> => {
  await t.split.startAll();
  await eventually(() => newAgent(t, t.zone), { timeout_ms: RECOVERS_WITHIN_MS });
};

const stsAway = (topology: () => SplitTopology): void => {
  describe("while no STS answers", () => {
    it("ambient tokens get 502, mandates in hand still pass, a revocation still arrives; then all goes on", async () => {
      const t = topology();
      const { application, resource } = await newAgent(t, t.zone);
      const gateway_url = t.gateway_urls.at(-1) ?? "";
      const ambient = await ambientToken(t, t.zone, application);
      const doomed = await ambientToken(t, t.zone, application);
      const in_hand = await mandate(t, t.zone, application, ambient, resource);
      const doomed_mandate = await mandate(t, t.zone, application, doomed, resource);
      // Whoever was never asked for the resource would ask an STS for it first.
      for (const url of t.gateway_urls) await servedAgain(t, { ambient, resource, gateway_url: url });
      const reached = t.hop.calls(resource.identifier).length;
      try {
        await Promise.all(t.split.stss.map((sts) => sts.kill()));
        for (let attempt = 0; attempt < 5; attempt += 1) {
          const refused = await call(t, { ambient, resource, gateway_url });
          assert.equal(refused.status, 502, JSON.stringify(refused.body));
        }
        assert.equal(t.hop.calls(resource.identifier).length, reached);
        const passed = await callGateway(t, in_hand, resource, { gateway_url });
        assert.equal(passed.status, 200, JSON.stringify(passed.body));
        await t.zone.api.revokeSession(doomed.session_id);
        const at_ms = performance.now();
        for (const url of t.gateway_urls) {
          await eventually(
            async () => (await callGateway(t, doomed.token, resource, { gateway_url: url })).status === 401,
            { timeout_ms: Math.max(1, 1_000 - (performance.now() - at_ms)) },
          );
          const used = await callGateway(t, doomed_mandate, resource, { gateway_url: url });
          assert.equal(used.status, 401, JSON.stringify(used.body));
        }
      } finally {
        await whole(t);
      }
      for (const url of t.gateway_urls) await servedAgain(t, { ambient, resource, gateway_url: url });
      assert.equal((await call(t, { ambient: doomed, resource, gateway_url })).status, 401);
    });

    it("that is there and does not answer: 504 within its time, and all goes on when it does", async () => {
      const t = topology();
      const { application, resource } = await newAgent(t, t.zone);
      const served = {
        ambient: await ambientToken(t, t.zone, application),
        resource,
        gateway_url: t.gateway_urls[0] ?? "",
      };
      await servedAgain(t, served);
      const reached = t.hop.calls(resource.identifier).length;
      for (const sts of t.split.stss) sts.signal("SIGSTOP");
      try {
        const began_ms = performance.now();
        const refused = await call(t, served);
        assert.equal(refused.status, 504, JSON.stringify(refused.body));
        assert.ok(performance.now() - began_ms < 7_000, "STS_TIMEOUT is 5 s");
        assert.equal(t.hop.calls(resource.identifier).length, reached);
      } finally {
        for (const sts of t.split.stss) sts.signal("SIGCONT");
      }
      await servedAgain(t, served);
    });
  });
};

const gatewayCutOff = (topology: () => SplitTopology): void => {
  describe("a Gateway that is cut off from Redis for longer than 10 s", () => {
    it("answers 503, lets no byte pass that it can't answer for, catches up, and never serves who was revoked", async (test) => {
      const t = topology();
      const gateway = t.split.gateways.at(-1) as Part;
      const gateway_url = gateway.url;
      const { application, resource } = await newAgent(t, t.zone);
      const ambient = await ambientToken(t, t.zone, application);
      const doomed = await ambientToken(t, t.zone, application);
      const doomed_mandate = await mandate(t, t.zone, application, doomed, resource);
      const served = { ambient, resource, gateway_url };
      await servedAgain(t, served);
      const stream = await startStream(t, doomed, resource, {}, gateway_url);
      const stale_before = await metricAt(gateway_url, "denials_revocation_stale");
      const doomed_statuses: number[] = [];
      const useDoomed = async (): Promise<void> => {
        for (const token of [doomed.token, doomed_mandate]) {
          doomed_statuses.push((await callGateway(t, token, resource, { gateway_url })).status);
        }
      };
      let cut_ms = 0;
      try {
        gateway.links.redis?.blackHole();
        cut_ms = performance.now();
        await t.zone.api.revokeSession(doomed.session_id);
        // The STS is not cut off, and hears of it as ever: within a second.
        await eventually(async () => (await callGateway(t, doomed.token, resource, { gateway_url })).status !== 200, {
          timeout_ms: 1_000,
        });
        await eventually(
          async () => {
            await useDoomed();
            const answer = await call(t, served);
            if (answer.status !== 503) return null;
            assert.ok(Number(answer.headers.get("retry-after")) >= 1);
            return answer;
          },
          { timeout_ms: STALE_AFTER_MS + 2_000, every_ms: 100 },
        );
        test.diagnostic(`503 after ${Math.round(performance.now() - cut_ms)} ms`);
        // From here on nothing passes, whatever it is, and the answer that was running stands still or is cut.
        await eventually(() => performance.now() - cut_ms > STALE_AFTER_MS + 500, {
          timeout_ms: 15_000,
          every_ms: 100,
        });
        const events = stream.events();
        for (let attempt = 0; attempt < 10; attempt += 1) {
          assert.equal((await call(t, served)).status, 503);
          await useDoomed();
        }
        assert.equal(stream.events(), events, "no event passes on a state that is older than 10 s");
        assert.ok((await metricAt(gateway_url, "denials_revocation_stale")) - stale_before >= 10);
        assert.equal((await fetch(`${gateway_url}/ready`)).status, 503, "it says that it is not ready");
        for (const other of t.gateway_urls.filter((url) => url !== gateway_url)) {
          assert.equal((await call(t, { ...served, gateway_url: other })).status, 200, "the other one serves");
        }
      } finally {
        gateway.links.redis?.heal();
      }
      const healed_ms = performance.now();
      await eventually(
        async () => {
          await useDoomed();
          return (await call(t, served)).status === 200;
        },
        { timeout_ms: RECOVERS_WITHIN_MS, every_ms: 20 },
      );
      test.diagnostic(`serves again ${Math.round(performance.now() - healed_ms)} ms after the cut was mended`);
      await stream.connection.closed(RECOVERS_WITHIN_MS);
      assert.equal(stream.connection.seen()?.complete, false);
      await useDoomed();
      assert.ok(!doomed_statuses.includes(200), doomed_statuses.join(" "));
      assert.deepEqual(doomed_statuses.slice(-2), [401, 401], "and it is refused for what it is");
    });
  });
};

const holesOf = (part: Part): number => part.log().match(/"kind":"hole"/g)?.length ?? 0;

const isRevocationOf = (entry: RawEntry, id: string): boolean =>
  entry.fields["op"] === "revoke" && entry.fields["id"] === id;

const tamperedStream = (topology: () => SplitTopology): void => {
  describe("the stream of revocations, in the hands of who holds Redis", () => {
    let vandal: StreamVandal | undefined;
    before(() => {
      vandal = createStreamVandal(topology().split.redis_url);
    });
    after(() => vandal?.close());
    const stream = (): StreamVandal => {
      if (vandal === undefined) throw new Error("there is no connection");
      return vandal;
    };

    for (const who of ["gateways", "stss"] as const) {
      it(`an entry deleted before the ${who} read it is missed, and they read the state anew: the session stays out`, async () => {
        const t = topology();
        const { application, resource } = await newAgent(t, t.zone);
        const gateway_url = t.gateway_urls[0] ?? "";
        const ambient = await ambientToken(t, t.zone, application);
        const doomed = await ambientToken(t, t.zone, application);
        await servedAgain(t, { ambient, resource, gateway_url });
        const readers = t.split[who];
        const before_ = readers.map(holesOf);
        const statuses: number[] = [];
        try {
          for (const reader of readers) {
            reader.links.redis?.refuse();
            reader.links.redis?.cutAll();
          }
          await t.zone.api.revokeSession(doomed.session_id);
          const revoked_ms = performance.now();
          const copies = async (): Promise<readonly RawEntry[]> =>
            (await stream().newest(STREAMS.revoke, 50)).filter((one) => isRevocationOf(one, doomed.session_id));
          await eventually(() => performance.now() - revoked_ms > COPIES_WITHIN_MS, {
            timeout_ms: COPIES_WITHIN_MS + 10_000,
            every_ms: 20,
          });
          const found = await eventually(async () => ((await copies()).length > 0 ? copies() : null));
          for (const entry of found) await stream().remove(STREAMS.revoke, entry.id);
          assert.deepEqual(await copies(), []);
        } finally {
          for (const reader of readers) reader.links.redis?.heal();
        }
        await eventually(
          async () => {
            statuses.push((await callGateway(t, doomed.token, resource, { gateway_url })).status);
            readers.forEach((reader, at) =>
              assert.ok(holesOf(reader) > (before_[at] ?? 0), `${reader.name} saw no hole`),
            );
          },
          { timeout_ms: HEAD_WITHIN_MS, every_ms: 20 },
        );
        await servedAgain(t, { ambient, resource, gateway_url });
        for (const url of t.gateway_urls) {
          statuses.push((await callGateway(t, doomed.token, resource, { gateway_url: url })).status);
        }
        assert.ok(!statuses.includes(200), statuses.join(" "));
        assert.equal(statuses.at(-1), 401);
      });
    }

    it("an entry played again does nothing, a forged one is buried and never acted on", async () => {
      const t = topology();
      const { application, resource } = await newAgent(t, t.zone);
      const gateway_url = t.gateway_urls[0] ?? "";
      const ambient = await ambientToken(t, t.zone, application);
      const doomed = await ambientToken(t, t.zone, application);
      const served = { ambient, resource, gateway_url };
      await t.zone.api.revokeSession(doomed.session_id);
      const entry = await eventually(
        async () =>
          (await stream().newest(STREAMS.revoke, 20)).find((one) => isRevocationOf(one, doomed.session_id)) ?? null,
      );
      await servedAgain(t, served);
      const readers = [...t.split.gateways, ...t.split.stss];
      const before_ = readers.map(holesOf);
      const active = await metricAt(gateway_url, "revocations_active");
      const dead = await stream().length(deadLetterOf(STREAMS.revoke));

      for (let again = 0; again < 3; again += 1) await stream().play(STREAMS.revoke, entry.fields);
      await stream().play(STREAMS.revoke, { ...entry.fields, id: ambient.session_id });
      const unsigned = Object.entries(entry.fields).filter(([name]) => !name.startsWith("_"));
      await stream().play(STREAMS.revoke, { ...Object.fromEntries(unsigned), op: "resume" });

      // All of it was read once both forgeries are buried: once each, for all readers together.
      await eventually(async () => (await stream().length(deadLetterOf(STREAMS.revoke))) === dead + 2);
      const head = await eventually(async () => {
        const [newest] = await stream().newest(STREAMS.revoke, 1);
        return newest?.fields["head"] === "1" ? newest : null;
      });
      await stream().play(STREAMS.revoke, head.fields);
      for (let at = 0; at < 20; at += 1) {
        assert.equal((await call(t, served)).status, 200, "who was not revoked is served all the while");
      }
      for (const url of t.gateway_urls) {
        const refused = await callGateway(t, doomed.token, resource, { gateway_url: url });
        assert.equal(refused.status, 401, "and who was is not");
        assert.equal((await metricAt(url, "revocations_active")) >= active, true);
      }
      assert.deepEqual(readers.map(holesOf), before_, "nobody took it for a hole");
      assert.equal(await stream().length(deadLetterOf(STREAMS.revoke)), dead + 2);
    });
  });
};

/** Every scenario that needs processes apart. */
export const splitFaults = (topology: () => SplitTopology): void => {
  stsAway(topology);
  gatewayCutOff(topology);
  tamperedStream(topology);

  it("no role serves as the owner of the tables without a word, and audit not at all", async () => {
    const { split } = topology();
    for (const part of split.parts) assert.doesNotMatch(part.log(), /the role's database user/, part.name);
    const end = await runToEnd(["--role=audit"], {
      env: {
        ...split.owner_env,
        DATABASE_URL: split.owner_env["MIGRATE_DATABASE_URL"] ?? "",
        REDIS_URL: split.redis_url,
        STREAMS_HMAC_KEY: split.keys.streams_hmac_key,
        AUDIT_HMAC_KEY: split.keys.audit_hmac_key,
        AUDIT_PORT: "0",
        AUDIT_HOST: "127.0.0.1",
      },
    });
    assert.equal(end.code, 1);
    assert.match(end.stderr, /^caracal: DATABASE_URL_AUDIT: its user caracal_owner owns the tables/m);
  });

  it("a mandate that was used at one Gateway is refused at every other", async () => {
    const t = topology();
    const { application, resource } = await newAgent(t, t.zone);
    const ambient = await ambientToken(t, t.zone, application);
    for (const first of t.gateway_urls) {
      const token = await mandate(t, t.zone, application, ambient, resource);
      assert.equal((await callGateway(t, token, resource, { gateway_url: first })).status, 200);
      for (const gateway_url of t.gateway_urls) {
        assert.equal((await callGateway(t, token, resource, { gateway_url })).status, 401);
      }
    }
  });
};
