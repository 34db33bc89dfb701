import assert from "node:assert/strict";
import { setTimeout as pause } from "node:timers/promises";
import { eventually } from "../support/eventually.ts";
import { type Ambient, ambientToken, callGateway, mandate, newRequestId } from "./agent.ts";
import type { TestApplication, TestResource, Topology } from "./topology.ts";

/** Clients that go on whatever happens, at a bounded rate, and write down every answer. */

export type ProbeCall = {
  readonly request_id: string;
  /** Of the topology's Gateways. */
  readonly gateway: number;
  readonly began_ms: number;
  /** Undefined: there was no answer. */
  readonly status: number | undefined;
};

type Revoked = { readonly acknowledged_ms: number; readonly began_ms: number };

export type Probe = {
  /** Calls with an ambient token. */
  readonly calls: readonly ProbeCall[];
  /** What must never be: a session used when its revocation was acknowledged for longer than a second. */
  readonly late_uses: readonly string[];
  /**
   * Resolves when everything that began after now goes as it should again: each Gateway serves, a mandate passes once,
   * a revocation is acknowledged and kept.
   */
  recovered(timeout_ms: number): Promise<void>;
  /** Resolves when every session whose revocation began before that was tried for as long as it is going to be. */
  settled(before_ms: number): Promise<void>;
  /** Resolves when no client is under way any more. */
  stop(): Promise<void>;
};

const CALL_EVERY_MS = 25;
const MANDATE_EVERY_MS = 150;
const REVOKE_EVERY_MS = 300;
/** One poll cycle: a use that begins later than this after the acknowledgement is too late. */
const MUST_BE_OUT_MS = 1_000;
/** Uses of a revoked session, each at every Gateway, and the pause between them. */
const LATE_TRIES = 4;
const LATE_EVERY_MS = 250;
const REVOCATIONS_AT_ONCE = 8;

/** Starts the clients of one application on one resource. */
export const startProbe = (t: Topology, application: TestApplication, resource: TestResource): Probe => {
  const calls: ProbeCall[] = [];
  const late_uses: string[] = [];
  const revoked: Revoked[] = [];
  const passed_once: number[] = [];
  let stopping = false;

  const gateways = t.gateway_urls.map((_, at) => at);
  const gatewayUrl = (at: number): string => t.gateway_urls[at] ?? "";
  let turn = 0;
  /** The topology as one client sees it that goes to the next STS each time. */
  const view = (): Topology => {
    turn += 1;
    const { sts_urls } = t;
    return { ...t, sts_urls: [sts_urls[turn % sts_urls.length] ?? ""] };
  };
  const newAmbient = (): Promise<Ambient> => ambientToken(view(), t.zone, application);
  const statusOf = (token: string, gateway: number, request_id: string): Promise<number | undefined> =>
    callGateway(t, token, resource, { gateway_url: gatewayUrl(gateway), request_id }).then(
      (answer) => answer.status,
      () => undefined,
    );

  /** Repeats `once` until the end; what fails in it is a fault's doing, and tried again. */
  const repeat = async (every_ms: number, once: () => Promise<void>): Promise<void> => {
    while (!stopping) {
      const began_ms = performance.now();
      await once().catch(() => undefined);
      await pause(Math.max(1, every_ms - (performance.now() - began_ms)));
    }
  };

  const caller = async (gateway: number): Promise<void> => {
    let ambient: Ambient | undefined;
    await repeat(CALL_EVERY_MS, async () => {
      ambient ??= await newAmbient();
      const request_id = newRequestId();
      const began_ms = performance.now();
      const status = await statusOf(ambient.token, gateway, request_id);
      calls.push({ request_id, gateway, began_ms, status });
    });
  };

  /** The hop counts how often a mandate arrives; this counts when one passed as it should. */
  const presenter = (): Promise<void> =>
    repeat(MANDATE_EVERY_MS, async () => {
      const began_ms = performance.now();
      const token = await mandate(view(), t.zone, application, await newAmbient(), resource);
      const statuses = await Promise.all(gateways.map((at) => statusOf(token, at, newRequestId())));
      if (statuses.filter((status) => status === 200).length === 1) passed_once.push(began_ms);
    });

  const revokeOne = async (): Promise<void> => {
    const began_ms = performance.now();
    const ambient = await newAmbient();
    const in_hand = await Promise.all(
      gateways.flatMap((at) =>
        Array.from({ length: LATE_TRIES }, async () => ({
          at,
          token: await mandate(view(), t.zone, application, ambient, resource),
        })),
      ),
    );
    await Promise.all(gateways.map((at) => statusOf(ambient.token, at, newRequestId())));
    const answer = await t.zone.api.revokeSession(ambient.session_id);
    const acknowledged_ms = performance.now();
    assert.equal(answer.revoked, 1);
    revoked.push({ acknowledged_ms, began_ms });
    const late = async (token: string, gateway: number, what: string): Promise<void> => {
      const after_ms = Math.round(performance.now() - acknowledged_ms);
      const request_id = newRequestId();
      const status = await statusOf(token, gateway, request_id);
      if (status === 200) late_uses.push(`${what} at Gateway ${gateway + 1}, ${after_ms} ms after (${request_id})`);
    };
    await pause(MUST_BE_OUT_MS);
    for (let attempt = 0; attempt < LATE_TRIES; attempt += 1) {
      await Promise.all(
        gateways.flatMap((at) => [
          late(ambient.token, at, "an ambient token"),
          late(in_hand.filter((one) => one.at === at)[attempt]?.token ?? "", at, "a mandate"),
        ]),
      );
      await pause(LATE_EVERY_MS);
    }
  };

  /** With when they began. */
  const revoking = new Map<Promise<void>, number>();
  const revoker = (): Promise<void> =>
    repeat(REVOKE_EVERY_MS, async () => {
      if (revoking.size >= REVOCATIONS_AT_ONCE) return;
      const one = revokeOne()
        .catch(() => undefined)
        .finally(() => revoking.delete(one));
      revoking.set(one, performance.now());
    });

  const clients = [...gateways.map(caller), presenter(), revoker()];
  return {
    calls,
    late_uses,
    async recovered(timeout_ms) {
      const since_ms = performance.now();
      await eventually(
        () => {
          for (const gateway of gateways) {
            const recent = calls.filter((call) => call.gateway === gateway && call.began_ms >= since_ms);
            const last = recent.at(-1);
            assert.equal(
              last?.status,
              200,
              `Gateway ${gateway + 1} answers ${recent.map((call) => call.status).join(" ")}`,
            );
          }
          assert.ok(
            passed_once.some((began_ms) => began_ms >= since_ms),
            "no mandate passed once",
          );
          assert.ok(
            revoked.some((one) => one.began_ms >= since_ms),
            "nothing could be revoked",
          );
        },
        { timeout_ms },
      );
    },
    async settled(before_ms) {
      await Promise.all([...revoking].flatMap(([one, began_ms]) => (began_ms < before_ms ? [one] : [])));
    },
    async stop() {
      stopping = true;
      await Promise.all(clients);
      await Promise.all(revoking.keys());
    },
  };
};
