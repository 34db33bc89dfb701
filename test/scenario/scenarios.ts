import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";
import { allReady } from "../support/program.ts";
import { allowedCall } from "./allowed-call.ts";
import { badInput } from "./bad-input.ts";
import { budget } from "./budget.ts";
import { clients } from "./clients.ts";
import { crash } from "./crash.ts";
import { deniedCall } from "./denied-call.ts";
import { made } from "./made.ts";
import { mandates } from "./mandates.ts";
import { redisOutage } from "./outage.ts";
import { revocation } from "./revocation.ts";
import { stepUp, stepUpCrash } from "./step-up.ts";
import type { Topology } from "./topology.ts";

/** Words that no scenario may leave in the log: the ledger found tampered with, a part that failed for good. */
const ALARMS = /chain_break|hmac_mismatch|audit_gap|"level":"?(fatal|60)|unhandled/i;

/** Every scenario, against one topology, which is started once; `more` are those that only such a topology can show. */
export const describeScenarios = <T extends Topology>(
  name: string,
  start: () => Promise<T>,
  has: { readonly redis: boolean },
  more: (topology: () => T) => void = () => {},
): void => {
  describe(name, () => {
    let started: T | undefined;
    const topology = (): T => {
      if (started === undefined) throw new Error("the topology did not start");
      return started;
    };
    before(async () => {
      started = await start();
    });
    after(() => started?.close());

    allowedCall(topology);
    deniedCall(topology);
    mandates(topology);
    made(topology);
    clients(topology);
    revocation(topology);
    stepUp(topology);
    budget(topology, has);
    badInput(topology);
    if (has.redis) redisOutage(topology);
    more(topology);
    crash(topology);
    stepUpCrash(topology);

    it("let no bad mandate, no mandate twice and no header of its own through to the upstream, in all of this", () => {
      assert.deepEqual(topology().hop.violations, []);
    });

    it("is ready at every port, and its log holds no alarm", async () => {
      const t = topology();
      await allReady({
        gateway_url: t.gateway_urls[0] ?? "",
        sts_url: t.sts_urls[0] ?? "",
        api_url: t.api_url,
        coordinator_url: t.coordinator_url,
        audit_url: t.audit_url,
      });
      assert.doesNotMatch(t.log(), ALARMS);
    });
  });
};
